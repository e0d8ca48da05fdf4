//! `--fast`: how far products of rounded numbers take the recorded pictures from those of F32.

use std::path::Path;

use comfyd::image;
use comfyd::model::Compute;
use comfyd::nodes::Arithmetic;
use serde_json::{Value, json};

use crate::{Studio, golden, recorded, workflow};

/// The least that pictures of ordinary workflows keep, in dB of the peak signal-to-noise ratio.
const LEAST: f64 = 45.0;

/// A workflow's graph. EasyCache leaves out steps by a threshold, and of one graph it is where the last bit decides over a step;
/// a little below, the picture of F32 is the recorded one still.
fn decided(name: &str) -> Value {
    let mut graph = workflow(name);
    if name == "easycache_skips" {
        graph["ec"]["inputs"]["reuse_threshold"] = json!(0.95);
    }
    graph
}

/// The peak signal-to-noise ratio of two pictures, in dB.
fn psnr(found: &Path, wanted: &Path) -> f64 {
    let [found, wanted] =
        [found, wanted].map(|path| image::open(path, image::Turn::AsStored).unwrap().remove(0).rgba);
    assert_eq!(found.size(), wanted.size());
    let pairs = found.bytes().iter().zip(wanted.bytes());
    let squares: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    // Of four channels, the last is the same everywhere.
    10.0 * (255.0f64.powi(2) / (squares / (0.75 * found.bytes().len() as f64)).max(1e-9)).log10()
}

/// How large a deviation is beside the largest value, from its distance in dB.
fn amplitude(distance: f64) -> f64 {
    10.0f64.powf(-distance / 20.0)
}

/// Holds the pictures of one in so many workflows against the recorded ones.
#[expect(clippy::print_stdout, reason = "the figures are for whoever asks for them")]
fn judge(one_in: usize) {
    let mut studio = Studio::computing(Arithmetic::all(Compute::Fast));
    let mut table: Vec<(f64, String)> = Vec::new();
    let names = Studio::names().into_iter().filter(|name| !recorded(name).is_empty());
    for name in names.step_by(one_in) {
        let found = studio.run(&name, decided(&name), "images");
        let distances = found.iter().zip(recorded(&name)).map(|(found, wanted)| psnr(found, &wanted));
        table.extend(distances.map(|distance| (distance, name.clone())));
    }
    table.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (distance, name) in &table {
        println!("{distance:6.1} dB  {name}");
        golden::record("pictures with --fast", amplitude(*distance), amplitude(LEAST));
    }
    let median = table[table.len() / 2].0;
    println!("median {median:.1} dB");
    assert!(table[0].0 >= LEAST, "{} keeps {:.1} dB only", table[0].1, table[0].0);
}

#[test]
fn rounded_products_hardly_change_pictures() {
    judge(3);
}

#[test]
#[ignore = "takes as long as many other tests together"]
fn rounded_products_hardly_change_any_picture() {
    judge(1);
}
