//! No job is lost, whatever ends the server.

use serde_json::json;

use super::studio::{Studio, colour, sampling};

#[test]
fn after_a_crash_in_mid_step_every_job_is_there_in_order_and_ends() {
    let studio = Studio::new();
    let server = studio.open(&[]);
    server.queue("done", &colour(1));
    let done = server.finished("done");
    server.queue("running", &sampling(60, 1));
    let extra = json!({"client_id": "me", "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}});
    server.queue_for("second", &colour(2), extra);
    server.queue("third", &colour(3));
    server.queue_for("first", &colour(4), json!({"front": true}));
    server.queue("deleted", &colour(5));
    server.post("/queue", &json!({"delete": ["deleted"]}));
    server.wait_until_it_samples();
    assert_eq!(server.open_jobs(), ["running", "first", "second", "third"]);
    let queued = server.get("/queue");
    server.kill();

    let server = studio.open(&[]);
    assert!(server.process.log.contains("the server crashed while this job ran"), "{}", server.process.log);
    server.wait_until_it_samples();
    let again = server.get("/queue");
    assert_eq!(server.get("/history/done")["done"], done);
    server.queue("later", &colour(6));
    assert_eq!(server.open_jobs().last().unwrap(), "later");
    for id in ["first", "running", "second", "third", "later"] {
        assert_eq!(server.finished(id)["status"]["status_str"], "success", "{id}");
    }
    // The prompt of the front went first this time; everything else about the jobs is as it was.
    let pending = |queue: &serde_json::Value| queue["queue_pending"].as_array().unwrap()[..].to_vec();
    let find = |queue, id: &str| pending(queue).into_iter().find(|job| job[1] == id);
    assert_eq!(find(&again, "second").unwrap(), find(&queued, "second").unwrap());
    assert_eq!(find(&again, "second").unwrap()[3]["client_id"], "me");
    let order: Vec<_> = server.get("/history").as_object().unwrap().keys().cloned().collect();
    assert_eq!(order, ["done", "first", "running", "second", "third", "later"]);
    server.kill();

    let server = studio.open(&[]);
    let kept: Vec<_> = server.get("/history").as_object().unwrap().keys().cloned().collect();
    assert_eq!((kept, server.open_jobs()), (order, vec![]));
    assert_eq!(server.get("/history/done")["done"], done);
}

#[test]
fn a_job_that_crashes_the_server_twice_is_given_up_and_the_others_run() {
    let studio = Studio::new();
    let mut server = studio.open(&[]);
    server.queue("killer", &sampling(10_000, 1));
    server.queue("innocent", &colour(1));
    for _ in 0..2 {
        server.wait_until_it_samples();
        assert_eq!(server.open_jobs(), ["killer", "innocent"]);
        server.kill();
        server = studio.open(&[]);
    }
    assert_eq!(server.finished("innocent")["status"]["status_str"], "success");
    let killer = server.finished("killer");
    assert_eq!(killer["status"]["status_str"], "error");
    let told = &killer["status"]["messages"][0];
    assert_eq!((&told[0], &told[1]["exception_type"]), (&json!("execution_error"), &json!("ServerCrashed")));
    let stages = server.get("/api/jobs?status=failed");
    assert_eq!(stages["jobs"][0]["id"], "killer");
    server.kill();
    let server = studio.open(&[]);
    assert_eq!(server.get("/history/killer")["killer"], killer, "and stays so");
}

#[test]
fn a_spoilt_journal_is_told_kept_aside_and_used_as_far_as_it_goes() {
    let studio = Studio::new();
    let server = studio.open(&[]);
    server.queue("done", &colour(1));
    server.finished("done");
    server.queue("running", &sampling(10_000, 1));
    server.queue("waiting", &colour(2));
    server.kill();
    let whole = std::fs::read(studio.journal()).unwrap();
    std::fs::write(studio.journal(), &whole[..whole.len() - 10]).unwrap();

    let server = studio.open(&[]);
    assert!(server.process.log.contains("1 unreadable lines"), "{}", server.process.log);
    assert_eq!(
        std::fs::read(studio.journal().with_extension("damaged")).unwrap(),
        &whole[..whole.len() - 10]
    );
    assert!(server.get("/history/done").get("done").is_some());
    assert_eq!(server.open_jobs(), ["running"]);
    server.queue("next", &colour(3));
    server.kill();
    let server = studio.open(&[]);
    assert!(!server.process.log.contains("unreadable"), "{}", server.process.log);
    assert_eq!(server.finished("next")["status"]["status_str"], "success");
}

#[test]
fn what_was_forgotten_stays_forgotten() {
    let studio = Studio::new();
    let server = studio.open(&[]);
    for id in ["one", "two"] {
        server.queue(id, &colour(1));
        server.finished(id);
    }
    server.post("/history", &json!({"delete": ["one"]}));
    server.kill();
    let server = studio.open(&[]);
    assert_eq!(server.get("/history").as_object().unwrap().keys().collect::<Vec<_>>(), ["two"]);
    server.post("/history", &json!({"clear": true}));
    server.kill();
    assert_eq!(studio.open(&[]).get("/history"), json!({}));
}

#[test]
fn a_server_may_be_told_to_keep_nothing_and_one_without_a_folder_runs_all_the_same() {
    let studio = Studio::new();
    let server = studio.open(&["--journal", "off"]);
    server.queue("one", &colour(1));
    server.finished("one");
    server.kill();
    assert!(!studio.journal().exists());
    let kept = studio.open(&[]);
    let second = studio.open(&[]);
    assert!(second.process.log.contains("another server uses it"), "{}", second.process.log);
    second.queue("one", &colour(1));
    second.finished("one");
    second.process.signal("TERM");
    assert_eq!(kept.get("/history"), json!({}));
}
