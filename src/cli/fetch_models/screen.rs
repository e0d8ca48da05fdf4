//! What a person sees while files arrive: a bar for the file, and one for all.

use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::print_progress;
use crate::fetch::{Plan, Step};

const BAR: &str = "{msg:44!} {bar:24} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

pub(super) struct Screen {
    names: Vec<String>,
    sizes: Vec<u64>,
    bars: MultiProgress,
    file: ProgressBar,
    total: ProgressBar,
    /// One more than the item whose digest is being compared.
    checked: AtomicUsize,
}

impl Screen {
    pub(super) fn new(plan: &Plan) -> Self {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bars = MultiProgress::new();
        let bar = |length| bars.add(ProgressBar::new(length).with_style(style.clone()));
        let (file, total) = (bar(0), bar(plan.needed()));
        total.set_message("in all");
        Self {
            names: plan.items.iter().map(|item| item.file.name().to_owned()).collect(),
            sizes: plan.items.iter().map(|item| item.size).collect(),
            file,
            total,
            bars,
            checked: AtomicUsize::new(0),
        }
    }

    pub(super) fn show(&self, step: Step) {
        match step {
            Step::Started { item, there } => self.begin(item, self.names[item].clone(), there),
            Step::Received { bytes, .. } => {
                self.file.inc(bytes);
                self.total.inc(bytes);
            }
            Step::Waiting { item, problem, pause } => {
                let name = &self.names[item];
                let text = format!("{name}: {problem}; trying again in {:.1} s", pause.as_secs_f64());
                self.bars.suspend(|| print_progress(&text));
            }
            Step::Checked { item, bytes } => {
                if self.checked.swap(item + 1, Ordering::Relaxed) != item + 1 {
                    self.begin(item, format!("checking {}", self.names[item]), 0);
                }
                self.file.set_position(bytes);
            }
            Step::Finished { item } => {
                self.bars.suspend(|| print_progress(&format!("{}: there", self.names[item])));
            }
        }
    }

    fn begin(&self, item: usize, message: String, there: u64) {
        self.file.set_length(self.sizes[item]);
        self.file.set_message(message);
        self.file.set_position(there);
        // What was there already says nothing about the rate.
        self.file.reset_eta();
    }

    pub(super) fn end(&self) {
        self.file.finish_and_clear();
        self.total.finish_and_clear();
    }
}
