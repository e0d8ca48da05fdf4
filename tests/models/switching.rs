//! What it costs to change a LoRA on a model of the real size: a file of 20 GB in the layout of Qwen-Image's, all
//! holes, so that every page of it that is read shows in what this process holds.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd::model::diffusion::{self, Options};
use comfyd::model::{Diffusion, lora};
use comfyd::weights::File;
use serde_json::{Map, json};

const WIDTH: usize = 3072;
const TEXT_WIDTH: usize = 3584;
const BLOCKS: usize = 60;
const RANK: usize = 64;

/// Matrices of one block: name, outputs, inputs.
fn matrices() -> Vec<(String, usize, usize)> {
    let mut all = Vec::new();
    for stream in ["img", "txt"] {
        all.push((format!("{stream}_mod.1"), 6 * WIDTH, WIDTH));
        all.push((format!("{stream}_mlp.net.0.proj"), 4 * WIDTH, WIDTH));
        all.push((format!("{stream}_mlp.net.2"), WIDTH, 4 * WIDTH));
    }
    let attention =
        ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"];
    all.extend(attention.map(|name| (format!("attn.{name}"), WIDTH, WIDTH)));
    all
}

/// Writes a file of these tensors that takes no room on the disk.
fn write(path: &Path, dtype: &str, bytes_each: usize, tensors: &[(String, Vec<usize>)]) -> Arc<File> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * bytes_each;
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(&header);
    std::fs::write(path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((bytes.len() + end) as u64).unwrap();
    File::open(path).unwrap()
}

fn base(folder: &Path) -> Arc<File> {
    let mut layers = vec![
        ("img_in".to_owned(), WIDTH, 64),
        ("txt_in".to_owned(), WIDTH, TEXT_WIDTH),
        ("time_text_embed.timestep_embedder.linear_1".to_owned(), WIDTH, 256),
        ("time_text_embed.timestep_embedder.linear_2".to_owned(), WIDTH, WIDTH),
        ("norm_out.linear".to_owned(), 2 * WIDTH, WIDTH),
        ("proj_out".to_owned(), 64, WIDTH),
    ];
    let mut tensors = vec![("txt_norm.weight".to_owned(), vec![TEXT_WIDTH])];
    for block in 0..BLOCKS {
        let place = format!("transformer_blocks.{block}");
        layers.extend(
            matrices().into_iter().map(|(name, rows, columns)| (format!("{place}.{name}"), rows, columns)),
        );
        let norms = ["norm_q", "norm_k", "norm_added_q", "norm_added_k"];
        tensors.extend(norms.map(|norm| (format!("{place}.attn.{norm}.weight"), vec![128])));
    }
    for (name, rows, columns) in layers {
        tensors.push((format!("{name}.weight"), vec![rows, columns]));
        tensors.push((format!("{name}.bias"), vec![rows]));
    }
    write(&folder.join("base.safetensors"), "F8_E4M3", 1, &tensors)
}

fn adapter(folder: &Path, name: &str) -> Arc<File> {
    let mut tensors = Vec::new();
    for block in 0..BLOCKS {
        for (module, rows, columns) in matrices() {
            let module = format!("transformer_blocks.{block}.{module}");
            tensors.push((format!("{module}.lora_up.weight"), vec![rows, RANK]));
            tensors.push((format!("{module}.lora_down.weight"), vec![RANK, columns]));
        }
    }
    write(&folder.join(name), "BF16", 2, &tensors)
}

/// Bytes of `path` that this process has in memory.
fn resident(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let after = maps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
    kilobytes(after, "Rss:")
}

/// Memory of this process that belongs to no file.
fn own_memory() -> u64 {
    kilobytes(std::fs::read_to_string("/proc/self/status").unwrap().lines(), "RssAnon:")
}

fn kilobytes<'a>(mut lines: impl Iterator<Item = &'a str>, key: &str) -> u64 {
    let line = lines.find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Memory is measured in a process where nothing else runs.
#[test]
fn changing_a_lora_reads_and_copies_nothing_of_the_model() {
    let alone = ["--ignored", "--exact", "--nocapture", "switching::alone"];
    let ran = std::process::Command::new(std::env::current_exe().unwrap()).args(alone).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    println!("{}", told.lines().find(|line| line.starts_with("a model of")).unwrap());
}

#[test]
#[ignore = "a part of another test"]
fn alone() {
    let folder = tempfile::tempdir().unwrap();
    let (file, one, other) = (
        base(folder.path()),
        adapter(folder.path(), "one.safetensors"),
        adapter(folder.path(), "two.safetensors"),
    );
    let size = std::fs::metadata(file.path()).unwrap().len();
    let before = own_memory();
    let (loading, model) = timed(|| diffusion::load(file.clone(), Options::default()).unwrap());
    let loaded = own_memory();
    let read = resident(file.path());
    let mut slowest = Duration::ZERO;
    // Other strengths, another set, several at once, and back: as a person tries them out.
    let mut kept: Vec<Arc<dyn Diffusion>> = Vec::new();
    for set in
        [&[(&one, 1.0)][..], &[(&one, 0.5)], &[(&other, 1.0)], &[(&one, 0.3), (&other, 0.7)], &[(&one, 1.0)]]
    {
        let apply = |network: Arc<dyn Diffusion>, (lora, strength): &(&Arc<File>, f64)| {
            let adapted = network.with_lora((*lora).clone(), *strength).unwrap();
            assert_eq!(lora::report_unknown(lora, &adapted.used), 0);
            adapted.network
        };
        let (time, network) = timed(|| set.iter().fold(model.clone(), apply));
        slowest = slowest.max(time);
        kept.push(network);
    }
    let each = own_memory().saturating_sub(loaded) / kept.len() as u64;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "a model of {:.1} GB: mapped in {loading:?}, {:.2} MB of it read, {:.1} MB of memory; a change of LoRA: at \
         most {slowest:?}, {:.2} MB of it read, {:.1} MB of memory",
        size as f64 / 1e9,
        megabytes(read),
        megabytes(loaded.saturating_sub(before)),
        megabytes(resident(file.path()) - read),
        megabytes(each),
    );
    assert!(size > 20_000_000_000, "{size}");
    assert_eq!(resident(file.path()), read, "of the model's file something was read again");
    assert!(each < 16_000_000, "{each} bytes for each of the networks that are kept");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}
