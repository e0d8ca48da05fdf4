//! A plan as people and programs read it.

use std::fmt::Write as _;

use indicatif::DecimalBytes;
use serde_json::{Value as Json, json};

use super::machine::Machine;
use super::replay::{Played, Stage};
use crate::device::residency::Held;
use crate::model::estimate::{Kind, Work};

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Look => "look at pictures",
        Kind::Read => "read prompts",
        Kind::Encode => "encode pictures",
        Kind::Predict => "sampling steps",
        Kind::Decode => "decode pictures",
    }
}

fn totals(played: &Played) -> (Work, f64, f64, u64) {
    let work = played.stages.iter().map(|stage| stage.work).sum();
    let sum = |of: fn(&Stage) -> f64| played.stages.iter().map(of).sum::<f64>();
    let moved = played.stages.iter().map(|stage| stage.moved).sum();
    (work, sum(|stage| stage.seconds), sum(|stage| stage.floor), moved)
}

pub(super) fn told(played: &Played, machine: &Machine) -> String {
    let mut text = format!(
        "{}: {} of memory, at most {:.1} TFLOP/s\n\n{:<17}{:>5} {:>9} {:>10} {:>9} {:>9} {:>9}  weights there afterwards\n",
        machine.name,
        DecimalBytes(machine.memory),
        machine.peak / 1e12,
        "stage",
        "times",
        "TFLOP",
        "brought",
        "waiting",
        "seconds",
        "floor",
    );
    for stage in &played.stages {
        text += &line(
            words(stage.kind),
            &stage.uses.to_string(),
            stage.work.operations(),
            stage.moved,
            &format!("{:.2}", stage.waited),
            stage.seconds,
            stage.floor,
        );
        text += &format!(
            "  {}\n",
            stage.held.iter().filter(|held| held.here > 0).map(held).collect::<Vec<_>>().join("; ")
        );
    }
    let (work, seconds, floor, moved) = totals(played);
    let waited = format!("{:.2}", played.count.waited);
    text += &line("in all", "", work.operations(), moved, &waited, seconds, floor);
    text.push('\n');
    if let Some(step) = played.stages.iter().find(|stage| stage.kind == Kind::Predict) {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "\na step: {:.2} s", step.seconds / step.uses as f64);
        let _ = writeln!(text, "the first step begins after {:.2} s", step.begin);
    }
    let _ = writeln!(text, "at most {} at once, weights and work together", DecimalBytes(played.peak));
    if let Some(reported) = machine.reported {
        let _ = writeln!(text, "{reported}");
    }
    let _ = writeln!(text, "\nwhat this takes for granted, and only a run on the device can tell:");
    for assumption in machine.assumptions {
        let _ = writeln!(text, "- {assumption}");
    }
    text
}

fn line(
    name: &str,
    uses: &str,
    operations: f64,
    moved: u64,
    waited: &str,
    seconds: f64,
    floor: f64,
) -> String {
    let moved = DecimalBytes(moved).to_string();
    format!(
        "{name:<17}{uses:>5} {:>9.2} {moved:>10} {waited:>9} {seconds:>9.2} {floor:>9.2}",
        operations / 1e12
    )
}

fn held(held: &Held) -> String {
    let [here, whole] = [held.here, held.whole].map(|bytes| bytes as f64 / 1e9);
    let network = held.network.trim_start_matches("the ");
    let mut told = format!("{network} {here:.1} of {whole:.1} GB");
    if held.staying < held.parts {
        // Writing to a text cannot fail.
        let _ = write!(told, " ({} of {} parts stay)", held.staying, held.parts);
    }
    told
}

pub(super) fn document(played: &Played, machine: &Machine) -> Json {
    let held = |held: &Held| {
        json!({
            "network": held.network, "bytes_there": held.here, "bytes": held.whole,
            "parts_staying": held.staying, "parts": held.parts,
        })
    };
    let stages = played.stages.iter().map(|stage| {
        json!({
            "stage": words(stage.kind), "network": stage.network, "uses": stage.uses,
            "flop": {
                "products": stage.work.products, "attention": stage.work.attention,
                "convolutions": stage.work.convolutions,
            },
            "bytes_brought": stage.moved, "bytes_of_work": stage.working_bytes,
            "begin_seconds": stage.begin, "seconds": stage.seconds, "waiting_seconds": stage.waited,
            "floor_seconds": stage.floor, "weights": stage.held.iter().map(held).collect::<Json>(),
        })
    });
    let (work, seconds, floor, moved) = totals(played);
    json!({
        "device": machine.name, "bytes": machine.memory, "flop_per_second": machine.peak,
        "stages": stages.collect::<Json>(),
        "flop": work.operations(), "bytes_brought": moved, "seconds": seconds, "floor_seconds": floor,
        "peak_bytes": played.peak, "reported": machine.reported, "assumptions": machine.assumptions,
    })
}
