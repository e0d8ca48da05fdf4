//! What the card is, and whether its results are right.

use super::super::Result;
use super::super::report::Line;
use crate::device::cuda::card::Card;
use crate::device::cuda::cases;

const GIB: f64 = (1u64 << 30) as f64;

/// The card itself, then one line for each kernel and size.
pub(super) fn lines(card: &mut Card) -> Result<Vec<Line>> {
    let (memory, (major, minor)) = (card.memory()?, card.capability()?);
    let (total, free) = (memory.total as f64 / GIB, memory.free as f64 / GIB);
    let found = format!("{}, capability {major}.{minor}, {total:.1} GiB, {free:.1} GiB free", card.name()?);
    let mut lines = vec![if (major, minor) >= (8, 0) {
        Line::ok("card", found)
    } else {
        Line::fail("card", found, "the kernels need capability 8.0 (RTX 30, A100) or later")
    }];
    lines.extend(cases::all().iter().map(|case| {
        let place = format!("{} {}", case.kernel, case.sizes);
        match case.check(card) {
            Ok(finding) if finding.error <= case.tolerance => {
                Line::ok(place, format!("error {:.2e}, allowed {:.2e}", finding.error, case.tolerance))
            }
            Ok(finding) => {
                let found = format!("error {:.2e}, allowed {:.2e}", finding.error, case.tolerance);
                Line::fail(place, found, "please send the report")
            }
            Err(fault) => Line::fail(place, fault.to_string(), "please send the report"),
        }
    }));
    Ok(lines)
}
