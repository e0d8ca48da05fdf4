//! Every kernel against its twin, at the start and the end of its memory, with threads in any order.

use std::collections::BTreeMap;

use comfyd::device::cuda::cases::{self, Case, Finding};
use comfyd::device::cuda::launch::KERNELS;
use rayon::prelude::*;

use crate::host::{Against, Host};

fn check(case: &Case, against: Against, order: u32) -> Finding {
    case.check(&mut Host::new(against, order))
        .unwrap_or_else(|fault| panic!("{} {} against the {against:?}: {fault}", case.kernel, case.sizes))
}

/// `cargo test --test kernels -- --nocapture every_kernel` shows the errors.
#[test]
fn every_kernel_computes_what_its_twin_does() {
    let cases = cases::all();
    let errors: Vec<f64> =
        (0..cases.len()).into_par_iter().map(|index| judged(&cases::all()[index])).collect();
    let mut worst: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
    for (case, error) in cases.iter().zip(errors) {
        assert!(
            error <= case.tolerance,
            "{} {}: the error is {error:.2e}, {:.2e} is allowed",
            case.kernel,
            case.sizes,
            case.tolerance
        );
        let row = worst.entry(case.kernel).or_default();
        *row = (row.0 + 1, row.1.max(error), row.2.max(case.tolerance));
    }
    println!("{:20} {:>5}  {:>9}  {:>9}", "kernel", "cases", "error", "allowed");
    for (kernel, (count, error, allowed)) in &worst {
        println!("{kernel:20} {count:5}  {error:9.2e}  {allowed:9.2e}");
    }
    let names: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
    assert!(names.iter().all(|name| worst.contains_key(name)), "some of {names:?} have no case");
}

/// The error of a case, which must not depend on the order of threads or on where the memory lies.
fn judged(case: &Case) -> f64 {
    let finding = check(case, Against::End, 0);
    for (against, order) in [(Against::Start, 1), (Against::End, 7)] {
        let other = check(case, against, order);
        assert!(other == finding, "{} {}: results depend on the order of threads", case.kernel, case.sizes);
    }
    finding.error
}
