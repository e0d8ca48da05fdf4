//! The owner of memory and its decisions, on small networks.

use std::sync::Arc;

use comfyd::device::residency::{Full, Network, Part, Residency, Simulated, Use, Visit};

fn network(name: &str, kept: usize, sizes: &[u64]) -> Arc<Network<()>> {
    let part =
        |(index, bytes): (usize, &u64)| Part { name: format!("part {index}"), bytes: *bytes, source: () };
    let parts = sizes.iter().enumerate().map(part).collect();
    Arc::new(Network { name: name.to_owned(), parts, kept, used: Use::Often })
}

/// A device of so many bytes that brings one byte in a second.
fn device(budget: u64) -> Residency<Simulated> {
    Residency::new(Simulated::new(budget, 0, 1.0))
}

fn here(device: &Residency<Simulated>) -> Vec<(String, u64)> {
    device.held().into_iter().map(|held| (held.network, held.here)).collect()
}

/// Uses every part for a second.
fn walk(
    device: &Residency<Simulated>,
    network: &Arc<Network<()>>,
    visit: &Visit<'_, Simulated>,
) -> Result<(), Full> {
    let _kept = (0..network.kept).map(|part| visit.part(part)).collect::<Result<Vec<_>, _>>()?;
    for part in network.kept..network.parts.len() {
        let _lease = visit.part(part)?;
        device.with_store(|store| store.work(1.0));
    }
    Ok(())
}

fn visit_all(device: &Residency<Simulated>, network: &Arc<Network<()>>, work: u64) -> Result<(), Full> {
    let visit = device.visit(network, work)?;
    walk(device, network, &visit)
}

#[test]
fn what_fits_comes_once() {
    let (device, network) = (device(100), network("a", 1, &[10; 5]));
    for _ in 0..3 {
        visit_all(&device, &network, 50).unwrap();
    }
    let count = device.with_store(|store| store.count());
    assert_eq!((count.moved, count.peak), (50, 50));
}

#[test]
fn what_is_used_seldom_leaves_after_its_use_where_it_comes_again_for_free() {
    let often = network("often", 1, &[10; 5]);
    let seldom = Arc::new(Network { used: Use::Seldom, ..network("seldom", 1, &[10; 5]).without_sources() });
    for (close, seldom_here, peak) in [(true, 20, 80), (false, 50, 100)] {
        let device = Residency::new(Simulated::new(200, 0, 1.0).keeping_close(close));
        for _ in 0..3 {
            visit_all(&device, &seldom, 0).unwrap();
            visit_all(&device, &often, 0).unwrap();
        }
        let here = here(&device);
        assert_eq!(here, [("seldom".to_owned(), seldom_here), ("often".to_owned(), 50)], "{close}");
        assert_eq!(device.with_store(|store| store.count().peak), peak, "{close}");
    }
}

#[test]
fn networks_not_in_use_leave_first_and_only_as_far_as_they_must() {
    let device = device(100);
    let [a, b, c] = [("a", 4), ("b", 4), ("c", 6)].map(|(name, parts)| network(name, 0, &vec![10; parts]));
    visit_all(&device, &a, 0).unwrap();
    visit_all(&device, &b, 0).unwrap();
    assert_eq!(here(&device), [("a".to_owned(), 40), ("b".to_owned(), 40)]);
    // The one used longest ago makes room, and the other one stays.
    visit_all(&device, &c, 0).unwrap();
    assert_eq!(here(&device), [("a".to_owned(), 0), ("b".to_owned(), 40), ("c".to_owned(), 60)]);
    // Work counts like weights.
    let visit = device.visit(&c, 20).unwrap();
    walk(&device, &c, &visit).unwrap();
    drop(device.visit(&a, 10).unwrap().part(0).unwrap());
    drop(visit);
    visit_all(&device, &a, 60).unwrap();
    assert_eq!(here(&device)[2], ("a".to_owned(), 40));
    assert!(device.with_store(|store| store.count()).peak <= 100);
}

#[test]
fn a_network_that_exists_no_more_takes_nothing() {
    let (device, b) = (device(50), network("b", 0, &[10; 5]));
    let a = network("a", 0, &[10; 5]);
    visit_all(&device, &a, 0).unwrap();
    drop(a);
    visit_all(&device, &b, 0).unwrap();
    assert_eq!(here(&device), [("b".to_owned(), 50)]);
    device.clear();
    assert_eq!(device.with_store(|store| store.count()).held, 0);
}

#[test]
fn one_network_may_work_inside_the_work_of_another() {
    let (device, outer, inner) = (device(60), network("outer", 0, &[10; 5]), network("inner", 2, &[10, 10]));
    let visit = device.visit(&outer, 10).unwrap();
    walk(&device, &outer, &visit).unwrap();
    let lease = visit.part(3).unwrap();
    visit_all(&device, &inner, 10).unwrap();
    // The part in use has stayed, and others have made room.
    let here = here(&device);
    assert!(here[0].1 >= 10 && here[0].1 < 50 && here[1].1 == 20, "{here:?}");
    drop(lease);
    walk(&device, &outer, &visit).unwrap();
    assert!(device.with_store(|store| store.count()).peak <= 60);
}

#[test]
fn too_little_for_one_part_is_told_in_numbers() {
    let (device, network) =
        (device(100_000_000), network("the model", 1, &[10_000_000, 60_000_000, 60_000_000]));
    let full = visit_all(&device, &network, 40_000_000).unwrap_err();
    assert_eq!((full.bytes, full.budget, full.work), (70_000_000, 100_000_000, 40_000_000));
    let told = full.to_string();
    for words in ["out of memory", "the model", "70.0 MB", "100.0 MB", "40.0 MB", "memory budget larger"] {
        assert!(told.contains(words), "{told}");
    }
    // With less work it goes, one part after the other.
    visit_all(&device, &network, 30_000_000).unwrap();
}

#[test]
fn a_step_that_runs_out_of_memory_is_run_again_with_less_weights() {
    let (device, network) = (device(100), network("a", 1, &[10; 9]));
    let visit = device.visit(&network, 10).unwrap();
    let kept = visit.part(0).unwrap();
    let attempt = |needed: u64| {
        let mut steps = 0;
        let done = device.retry(
            |full: &Full| (full.what == "the card").then_some(full.bytes),
            || {
                steps += 1;
                walk(&device, &network, &visit)?;
                // The work needs more than was thought.
                let held = device.with_store(|store| store.count()).held;
                let free = 100 - held;
                if free >= needed {
                    return Ok(());
                }
                Err(Full {
                    what: "the card".into(),
                    bytes: needed - free,
                    budget: 100,
                    weights: held,
                    work: 0,
                })
            },
        );
        (done, steps)
    };
    assert_eq!(attempt(10), (Ok(()), 1));
    let (done, steps) = attempt(45);
    assert_eq!(done, Ok(()));
    assert!((2..6).contains(&steps), "{steps}");
    // It is not forgotten.
    assert_eq!(attempt(45), (Ok(()), 1));
    // One part and the one that is kept are the least, and then it is over.
    let (done, _) = attempt(95);
    assert!(done.unwrap_err().to_string().contains("nothing is left"));
    // Whatever happened, the network still works, and nothing is lost.
    walk(&device, &network, &visit).unwrap();
    drop((kept, visit));
    device.clear();
    assert_eq!(device.with_store(|store| store.count()).held, 0);
}

#[test]
fn what_comes_ahead_costs_no_time_where_the_work_is_longer() {
    // A part needs 0.8 s to come, and its work a second.
    let sizes = [8; 10];
    let seconds = |budget: u64| {
        let device = Residency::new(Simulated::new(budget, 0, 10.0));
        let network = network("a", 0, &sizes);
        visit_all(&device, &network, 0).unwrap();
        let first = device.with_store(|store| store.count());
        visit_all(&device, &network, 0).unwrap();
        let second = device.with_store(|store| store.count());
        (second.seconds - first.seconds, second.moved - first.moved)
    };
    assert_eq!(seconds(80), (10.0, 0));
    // Everything comes anew, while the part before is at work.
    let (time, moved) = seconds(16);
    assert!(moved >= 72 && (time - 10.0).abs() < 1e-9, "{time} {moved}");
    // Without room for the next one, it is waited for.
    let (time, moved) = seconds(8);
    assert!(moved == 80 && (time - 18.0).abs() < 1e-9, "{time} {moved}");
}
