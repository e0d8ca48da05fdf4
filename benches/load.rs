//! What the server bears, beside ComfyUI where that is at hand: both run at once and are measured in turns.
//!
//! ```sh
//! COMFYUI=path/to/ComfyUI PYTHON=path/to/python cargo bench --bench load
//! ```
//!
//! needs `wrk` in the path. Without `COMFYUI` comfyd is measured alone. `LOAD_TURNS` (3) and `LOAD_SECONDS` (2) say how often
//! and how long each request rate is taken; rates and ratios are medians over the turns.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints its result")]

#[path = "load/jobs.rs"]
mod jobs;
#[path = "load/target.rs"]
mod target;

use std::process::Command;
use std::time::Duration;

use jobs::{Crowd, Times};
use target::Target;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints one figure of each target, their ratio, and whether that reaches the bar.
struct Table;

impl Table {
    fn head(targets: &[Target]) {
        let names: String =
            targets.iter().fold(String::new(), |text, target| text + &format!("{:>14}", target.name));
        println!("{:<44}{names}{:>10}  bar", "", "ratio");
    }

    /// `values`: per target, in turns. `bar`: what comfyd's figure over ComfyUI's must reach, or, where less
    /// is better, must not pass.
    fn row(what: &str, unit: &str, values: &[Vec<f64>], bar: Option<Bar>) {
        let middle: Vec<_> = values.iter().map(|turns| median(turns.clone())).collect();
        let shown = middle.iter().fold(String::new(), |text, value| text + &format!("{:>14}", short(*value)));
        let [own, other] = middle[..] else {
            println!("{:<44}{shown}", format!("{what}, {unit}"));
            return;
        };
        let ratio = own / other;
        let verdict = match bar {
            None => String::new(),
            Some(Bar::AtLeast(bar)) => format!("{:>10}  {}", format!(">= {bar}"), yes(ratio >= bar)),
            Some(Bar::AtMost(bar)) => format!("{:>10}  {}", format!("<= 1/{bar}"), yes(ratio <= 1.0 / bar)),
        };
        let ratio = if ratio < 1.0 { format!("1/{:.1}", 1.0 / ratio) } else { format!("{ratio:.1}") };
        println!("{:<44}{shown}{ratio:>10}{verdict}", format!("{what}, {unit}"));
    }
}

#[derive(Clone, Copy)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

fn yes(reached: bool) -> &'static str {
    if reached { "yes" } else { "NO" }
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Measures every target in turns.
fn in_turns(targets: &[Target], mut measure: impl FnMut(&Target) -> f64) -> Vec<Vec<f64>> {
    let mut values = vec![Vec::new(); targets.len()];
    for _ in 0..number("LOAD_TURNS", 3) {
        for (target, values) in targets.iter().zip(&mut values) {
            values.push(measure(target));
        }
    }
    values
}

/// Requests per second over so many connections that are kept open.
fn rate(target: &Target, path: &str, connections: usize) -> f64 {
    let seconds = format!("-d{}s", number("LOAD_SECONDS", 2));
    let connections = format!("-c{connections}");
    let url = format!("{}{path}", target.url());
    let output =
        Command::new("wrk").args(["-t1", &connections, &seconds, &url]).output().expect("wrk in the path");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{url}: {text}");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    line.unwrap_or_else(|| panic!("{url}: {text}")).trim().parse().unwrap()
}

fn rates(targets: &[Target]) {
    for (path, bar) in [
        ("/history/ID", 4.0),
        ("/queue", 4.0),
        ("/object_info", 100.0),
        ("/system_stats", 50.0),
        ("/view?filename=load.png&type=input", 8.0),
    ] {
        for connections in [1, 32] {
            let values = in_turns(targets, |target| {
                let path = path.replace("ID", &target.finished);
                rate(target, &path, connections)
            });
            let name = path.split('?').next().unwrap_or(path).replace("ID", "{id}");
            Table::row(
                &format!("{name}, {connections} connections"),
                "1/s",
                &values,
                Some(Bar::AtLeast(bar)),
            );
        }
    }
}

/// Submit to success of a small graph that changes each time, in blocks of each target in turns.
fn latencies(targets: &[Target], what: &str, barred: bool) {
    let mut times = vec![Times::default(); targets.len()];
    for _ in 0..number("LOAD_TURNS", 3) {
        for (target, times) in targets.iter().zip(&mut times) {
            times.extend(jobs::round_trips(target, 150));
        }
    }
    for (name, share, bar) in [("p50", 0.5, 3.0), ("p99", 0.99, 5.0)] {
        let values: Vec<_> = times.iter().map(|times| vec![times.quantile(share)]).collect();
        Table::row(&format!("{what}, {name}"), "ms", &values, barred.then_some(Bar::AtMost(bar)));
    }
}

fn main() {
    // `cargo test --benches` only asks whether this compiles.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut targets = vec![Target::comfyd()];
    targets.extend(Target::comfyui());
    Table::head(&targets);
    let starts: Vec<_> = targets.iter().map(|target| target.starts.clone()).collect();
    Table::row("start to first answer", "ms", &starts, Some(Bar::AtMost(50.0)));
    std::thread::sleep(Duration::from_secs(2));
    let idle: Vec<_> = targets.iter().map(|target| vec![target.resident()]).collect();
    Table::row("idle memory", "MiB", &idle, Some(Bar::AtMost(15.0)));
    for target in &mut targets {
        target.prepare();
    }
    rates(&targets);
    latencies(&targets, "small graph", true);
    {
        let _crowds: Vec<_> = targets.iter().map(|target| Crowd::reading(target, 100)).collect();
        latencies(&targets, "small graph, 100 idle websockets", true);
    }
    {
        let _crowds: Vec<_> = targets.iter().map(|target| Crowd::reading(target, 150)).collect();
        let _deaf: Vec<_> = targets.iter().map(|target| Crowd::deaf(target, 50)).collect();
        latencies(&targets, "small graph, 150 websockets and 50 deaf", true);
    }
    let posts = in_turns(&targets, |target| jobs::posts_of_thirty_nodes(target, 60).quantile(0.5));
    Table::row("POST of 30 nodes, p50", "ms", &posts, None);
    let mut grown = vec![Vec::new(); targets.len()];
    let mut place = (0..targets.len()).cycle();
    let thousand = in_turns(&targets, |target| {
        let before = target.resident();
        let rate = jobs::thousand(target);
        grown[place.next().unwrap_or_default()].push(target.resident() - before);
        rate
    });
    Table::row("1000 queued prompts", "1/s", &thousand, None);
    Table::row("memory growth by each 1000", "MiB", &grown, None);
}
