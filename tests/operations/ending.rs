//! SIGTERM: what becomes of the running job, of those that wait, and of whoever asks meanwhile.

use std::time::Duration;

use super::studio::{Studio, colour, sampling};

#[test]
fn a_short_job_ends_while_the_server_drains_and_nothing_new_is_taken() {
    let studio = Studio::new();
    let server = studio.open(&["--drain", "60"]);
    assert_eq!(server.status("/ready"), 200);
    server.queue("running", &sampling(40, 1));
    server.queue("waiting", &colour(1));
    server.wait_until_it_samples();
    server.process.signal("TERM");
    server.wait_for("draining", || server.status("/ready") == 503);
    assert_eq!(server.status("/health"), 200, "it lives");
    let (status, answer) = server.post("/prompt", &serde_json::json!({"prompt": colour(2)}));
    assert_eq!((status, &answer["error"]["type"]), (503, &"server_ending".into()));
    let (code, log, _) = server.process.end();
    assert_eq!(code, Some(0), "{log}");

    let server = studio.open(&[]);
    assert_eq!(server.finished("waiting")["status"]["status_str"], "success");
    let ended: Vec<_> = server.get("/history").as_object().unwrap().keys().cloned().collect();
    assert_eq!(ended, ["running", "waiting"], "the first ended before the server did");
    assert!(!server.process.log.contains("crashed"), "{}", server.process.log);
}

#[test]
fn a_long_job_is_put_back_in_time_and_that_is_no_crash() {
    let studio = Studio::new();
    let mut server = studio.open(&["--drain", "0.3"]);
    server.queue("long", &sampling(10_000, 1));
    server.queue("waiting", &colour(1));
    // However often: a job that is put back has done nothing wrong.
    for _ in 0..4 {
        server.wait_until_it_samples();
        assert_eq!(server.open_jobs(), ["long", "waiting"]);
        server.process.signal("TERM");
        let (code, log, took) = server.process.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        server = studio.open(&["--drain", "0.3"]);
        assert!(!server.process.log.contains("crashed"), "{}", server.process.log);
    }
    assert_eq!(server.get("/history"), serde_json::json!({}));
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let studio = Studio::new();
    let server = studio.open(&["--drain", "60"]);
    server.queue("long", &sampling(10_000, 1));
    server.wait_until_it_samples();
    server.process.signal("TERM");
    server.wait_for("draining", || server.status("/ready") == 503);
    server.process.signal("TERM");
    let (code, log, took) = server.process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let server = studio.open(&[]);
    assert_eq!(server.open_jobs(), ["long"]);
    assert!(!server.process.log.contains("crashed"), "{}", server.process.log);
}

#[test]
fn a_job_that_its_user_stopped_stays_stopped() {
    let studio = Studio::new();
    let server = studio.open(&[]);
    server.queue("stopped", &sampling(10_000, 1));
    server.wait_until_it_samples();
    server.post("/interrupt", &serde_json::Value::Null);
    server.process.signal("TERM");
    server.process.end();
    let server = studio.open(&[]);
    assert_eq!(server.finished("stopped")["status"]["status_str"], "error");
    assert_eq!(server.open_jobs(), Vec::<String>::new());
}
