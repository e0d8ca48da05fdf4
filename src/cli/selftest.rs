//! `comfyd selftest`: whether a graphics card computes what it should, and how fast.

#[cfg(feature = "cuda")]
mod card;
#[cfg(any(feature = "cuda", test))]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "without cards only its network is tested"))]
mod network;
#[cfg(feature = "cuda")]
mod pictures;
#[cfg(feature = "cuda")]
mod speed;

use std::path::PathBuf;

#[cfg(feature = "cuda")]
use super::report::{self, Line};
use super::{Failure, Result, print};
use crate::device::Choice;

/// Check a graphics card: every kernel, whole blocks and the VAE against the processor, and how fast they are
///
/// The report that it writes is what to send when something is wrong, or slower than it should be. Where there is no card
/// it says so, which is no failure.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
EXIT STATUS
  0  everything agrees, or there is no card
  1  something does not
  2  bad usage")]
pub struct Args {
    /// The card: cuda, or cuda:N of several
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    pub device: Choice,
    /// Write the report here
    #[arg(long, value_name = "FILE", default_value = "comfyd-selftest.json")]
    pub report: PathBuf,
}

pub(super) fn run(args: &Args) -> Result {
    let Choice::Cuda(number) = args.device else {
        let cause = "the processor is what cards are compared with; `cargo test` checks it";
        return Err(Failure::usage(cause).hint("comfyd selftest --device cuda"));
    };
    match lines(number)? {
        Checked::Nothing(why) => {
            print(&format!("no card was checked: {why}\n"));
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Checked::Card(lines) => {
            let told: serde_json::Value = lines.iter().map(Line::document).collect();
            let report = serde_json::json!({"comfyd": env!("CARGO_PKG_VERSION"), "checks": told});
            std::fs::write(&args.report, format!("{report:#}\n"))?;
            let done = report::conclude(&lines, false);
            print(&format!("written to {}\n", args.report.display()));
            done
        }
    }
}

/// What came of it.
enum Checked {
    /// There is no card, and why.
    Nothing(String),
    #[cfg(feature = "cuda")]
    Card(Vec<Line>),
}

#[cfg(not(feature = "cuda"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn lines(_: usize) -> Result<Checked> {
    Ok(Checked::Nothing(
        "this comfyd was built without the feature `cuda`; docs/gpu.md says how to".to_owned(),
    ))
}

#[cfg(feature = "cuda")]
fn lines(number: usize) -> Result<Checked> {
    use crate::device::cuda::card::{Card, count};
    use crate::device::cuda::store::Limits;

    let cards = match count() {
        Ok(cards) => cards,
        Err(fault) => {
            return Ok(Checked::Nothing(format!("there is no driver, or no card for it ({fault})")));
        }
    };
    if number >= cards {
        let why =
            format!("there is no cuda:{number}; the driver shows {cards} (CUDA_VISIBLE_DEVICES counts)");
        return if cards == 0 { Ok(Checked::Nothing(why)) } else { Err(Failure::usage(why)) };
    }
    let mut card = Card::open(number)?;
    let mut lines = card::lines(&mut card)?;
    lines.extend(speed::lines(&mut card)?);
    let (limits, tight) = (card.limits(None)?, Limits { budget: network::TIGHT, overhead: 0 });
    let cards = [(card, limits), (Card::open(number)?, tight)];
    let cards = cards.map(|(card, limits)| crate::model::card::Card::new(card, limits));
    lines.extend(pictures::lines(&cards[0])?);
    lines.extend(network::lines(cards)?);
    Ok(Checked::Card(lines))
}
