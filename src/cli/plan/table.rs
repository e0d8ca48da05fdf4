//! A plan as people and programs read it.

use std::fmt::Write as _;

use indicatif::DecimalBytes;
use serde_json::{Value as Json, json};

use super::machine::Machine;
use super::replay::{Played, Stage};
use crate::device::residency::Held;
use crate::model::estimate::Kind;

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Look => "look at pictures",
        Kind::Read => "read prompts",
        Kind::Encode => "encode pictures",
        Kind::Predict => "sampling steps",
        Kind::Decode => "decode pictures",
    }
}

/// The figures of one line.
#[derive(Clone, Copy, Default)]
struct Figures {
    operations: f64,
    moved: u64,
    waited: f64,
    seconds: f64,
    floor: f64,
}

impl Figures {
    fn of(stage: &Stage) -> Self {
        let Stage { work, moved, waited, seconds, floor, .. } = *stage;
        Self { operations: work.operations(), moved, waited, seconds, floor }
    }

    fn of_all(played: &Played) -> Self {
        played.stages.iter().map(Self::of).fold(Self::default(), |sum, next| Self {
            operations: sum.operations + next.operations,
            moved: sum.moved + next.moved,
            waited: sum.waited + next.waited,
            seconds: sum.seconds + next.seconds,
            floor: sum.floor + next.floor,
        })
    }

    fn line(&self, name: &str, uses: &str) -> String {
        let Self { operations, moved, waited, seconds, floor } = self;
        let (tera, moved) = (operations / 1e12, DecimalBytes(*moved).to_string());
        format!("{name:<17}{uses:>5} {tera:>9.2} {moved:>10} {waited:>9.2} {seconds:>9.2} {floor:>9.2}")
    }
}

pub(super) fn told(played: &Played, machine: &Machine) -> String {
    let mut text = format!(
        "{}: {} of memory, at most {:.2} TFLOP/s\n\n{:<17}{:>5} {:>9} {:>10} {:>9} {:>9} {:>9}  weights there afterwards\n",
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
        let line = Figures::of(stage).line(words(stage.kind), &stage.uses.to_string());
        let there: Vec<_> = stage.held.iter().filter(|held| held.here > 0).map(held).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{line}  {}", there.join("; "));
    }
    text += &Figures::of_all(played).line("in all", "");
    text.push('\n');
    if let Some(step) = played.stages.iter().find(|stage| stage.kind == Kind::Predict) {
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

fn held(held: &Held) -> String {
    let [here, whole] = [held.here, held.whole].map(|bytes| bytes as f64 / 1e9);
    let network = held.network.trim_start_matches("the ");
    let mut told = format!("{network} {here:.1} of {whole:.1} GB");
    if held.staying < held.parts {
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
                "convolutions": stage.work.convolutions, "of_products_in_whole_numbers": stage.work.whole,
            },
            "bytes_brought": stage.moved, "bytes_of_work": stage.working_bytes,
            "begin_seconds": stage.begin, "seconds": stage.seconds, "waiting_seconds": stage.waited,
            "floor_seconds": stage.floor, "weights": stage.held.iter().map(held).collect::<Json>(),
        })
    });
    let all = Figures::of_all(played);
    json!({
        "device": machine.name, "bytes": machine.memory, "flop_per_second": machine.peak,
        "stages": stages.collect::<Json>(),
        "flop": all.operations, "bytes_brought": all.moved, "seconds": all.seconds, "floor_seconds": all.floor,
        "peak_bytes": played.peak, "reported": machine.reported, "assumptions": machine.assumptions,
    })
}
