//! Memory of a server that has nothing to do.

use std::time::Duration;

use super::studio::{Open, Studio, sampling};

fn resident(server: &Open) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn models_leave_memory_when_nothing_is_to_be_done_and_never_during_a_job() {
    let studio = Studio::new();
    let mut server = studio.open(&["--idle-unload", "0.5"]);
    server.queue("long", &sampling(30, 1));
    server.finished("long");
    let busy = resident(&server);
    server.process.wait_for("freeing memory");
    let told: Vec<_> = server.process.log.lines().filter(|line| line.contains("freeing memory")).collect();
    assert_eq!(told.len(), 1, "not while the job ran, which took longer: {}", server.process.log);
    std::thread::sleep(Duration::from_millis(300));
    let idle = resident(&server);
    // The files have 39 MB, not all of which are maps; what is gone is the maps and what was computed.
    assert!(idle + (10 << 20) < busy, "{} MB before, {} MB after", busy >> 20, idle >> 20);
    println!("{} MB before, {} MB after", busy >> 20, idle >> 20);
    server.queue("again", &sampling(2, 1));
    assert_eq!(server.finished("again")["status"]["status_str"], "success");
}

#[test]
fn memory_is_kept_where_nobody_asked_to_free_it() {
    let studio = Studio::new();
    let server = studio.open(&[]);
    server.queue("one", &sampling(2, 1));
    server.finished("one");
    let busy = resident(&server);
    std::thread::sleep(Duration::from_secs(1));
    assert!(resident(&server) + (10 << 20) > busy);
}
