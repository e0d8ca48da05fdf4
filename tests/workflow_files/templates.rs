//! The official workflow templates, as far as they can be had: how many convert, are valid, and run.
//!
//! They are not part of this repository. With the folder of the package `comfyui-workflow-templates-json` in
//! `COMFYD_TEMPLATES`:
//!
//! ```sh
//! cargo test --test workflow_files -- --ignored --nocapture the_official_templates
//! ```
//!
//! prints a line for each template that uses files of Qwen-Image, and counts for all. Wherever such a graph names a file
//! of Qwen-Image, the miniature checkpoints are given; it runs with few steps and small pictures.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd::graph::{self, CachePolicy, End, Event, Executor, Kind, Registry, Request, workflow};
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use comfyd::stop::Stop;
use serde_json::{Map, Value as Json};

use crate::tiny_qwen;

/// The largest side of a picture that is asked for, and the most steps.
const SIDE: i64 = 128;
const STEPS: i64 = 2;

/// Kinds of nodes that are the editor's alone.
const EDITOR: [&str; 4] = ["Reroute", "PrimitiveNode", "Note", "MarkdownNote"];

fn templates() -> Vec<PathBuf> {
    let folder =
        std::env::var("COMFYD_TEMPLATES").expect("COMFYD_TEMPLATES names the folder of the templates");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|suffix| suffix == "json"));
    files.sort();
    files
}

/// The kinds of nodes in a file, in its subgraphs too.
fn kinds(document: &Json, kinds: &mut BTreeSet<String>) {
    let subgraphs = document.pointer("/definitions/subgraphs").and_then(Json::as_array).into_iter().flatten();
    let subgraphs: Vec<_> = subgraphs.collect();
    for node in document["nodes"].as_array().into_iter().flatten() {
        let kind = node["type"].as_str().unwrap_or_default();
        if !EDITOR.contains(&kind) && !is_identifier(kind) {
            kinds.insert(kind.to_owned());
        }
    }
    for subgraph in subgraphs {
        self::kinds(subgraph, kinds);
    }
}

/// Subgraphs are placed under names of hexadecimal digits.
fn is_identifier(kind: &str) -> bool {
    kind.len() == 36 && kind.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// Whether a value names a file of Qwen-Image's family.
fn is_qwen_file(value: &Json) -> bool {
    let name = value.as_str().unwrap_or_default().to_lowercase().replace(['-', ' '], "_");
    name.contains("qwen") && name.contains("image") && name.ends_with(".safetensors")
}

fn uses_qwen(document: &Json) -> bool {
    match document {
        Json::Array(items) => items.iter().any(uses_qwen),
        Json::Object(entries) => {
            let widgets = entries.get("widgets_values").is_some_and(|values| match values {
                Json::Array(values) => values.iter().any(is_qwen_file),
                Json::Object(values) => values.values().any(is_qwen_file),
                _ => false,
            });
            widgets || entries.iter().any(|(name, value)| name != "widgets_values" && uses_qwen(value))
        }
        _ => false,
    }
}

/// The miniature file that stands for a file of a folder: those of Qwen-Image, and any LoRA.
fn stand_in(folder: &str, name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    match folder {
        "diffusion_models" if lower.contains("qwen") || lower.contains("firered") => {
            Some(if lower.contains("fp8") { tiny_qwen::DIFFUSION_FP8 } else { tiny_qwen::DIFFUSION_BF16 })
        }
        "text_encoders" if lower.contains("qwen_2.5_vl_7b") => Some(tiny_qwen::TEXT_ENCODER),
        "vae" if lower.contains("qwen") => Some(tiny_qwen::VAE),
        "loras" => Some(tiny_qwen::LORA_KOHYA),
        _ => None,
    }
}

/// A server's worth of state for one template.
struct Bench {
    services: Arc<Services>,
    registry: Arc<Registry<Services>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::below(folder.path());
        folders.create().unwrap();
        Self {
            services: Arc::new(Services::new(folders)),
            registry: Arc::new(nodes::registry()),
            _folder: folder,
        }
    }

    /// Puts files where a prompt wants them, and makes it small.
    fn furnish(&self, prompt: &mut Map<String, Json>) {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen-tiny/input/photo_a.png");
        for node in prompt.values_mut() {
            let Some(class) = node["class_type"].as_str().and_then(|class| self.registry.class(class)) else {
                continue;
            };
            let inputs = class.inputs.clone();
            let is_primitive = class.card.class.starts_with("Primitive");
            for (name, value) in node["inputs"].as_object_mut().into_iter().flatten() {
                let Some(spec) = inputs.iter().find(|spec| spec.name == name) else { continue };
                if let (Kind::Files(folder), Some(file)) = (&spec.kind, value.as_str()) {
                    self.put(folder, file, &photo);
                }
                if matches!(name.as_str(), "steps" | "end_at_step") {
                    shrink(value, STEPS);
                }
                let side = ["width", "height", "largest_size", "longer_size", "shorter_size"];
                if side.iter().any(|side| name.ends_with(side)) {
                    shrink(value, SIDE);
                }
                // A side, or a number of steps.
                if is_primitive && name == "value" {
                    shrink(value, if value.as_i64() <= Some(SIDE / 2) { STEPS } else { SIDE });
                }
                if name.ends_with("megapixels") {
                    *value = 0.02.into();
                }
            }
        }
    }

    fn put(&self, folder: &str, name: &str, photo: &Path) {
        let (source, target) = match folder {
            "input" => (photo.to_owned(), self.services.folders.input.join(name)),
            _ => match stand_in(folder, name) {
                Some(file) => (
                    tiny_qwen::models().join(file),
                    self.services.folders.models.join(folder).join(name.replace('\\', "/")),
                ),
                None => return,
            },
        };
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        if !target.exists() {
            std::fs::copy(source, target).unwrap();
        }
    }

    /// What is wrong with a prompt, or with its run; and whether it is valid.
    fn run(&self, prompt: Map<String, Json>) -> (bool, Result<(), String>) {
        let checked = match graph::check(Json::Object(prompt), &self.registry, self.services.as_ref(), None) {
            Ok(checked) if checked.problems.is_empty() => checked,
            Ok(checked) => return (false, Err(format!("{:?}", checked.problems))),
            Err(refusal) => return (false, Err(format!("{refusal:?}"))),
        };
        let mut executor = Executor::new(self.services.clone(), self.registry.clone(), CachePolicy::Classic);
        let mut failure = None;
        let mut watch = |event| {
            if let Event::Failed(failed) = event {
                failure = Some(format!("{} {}: {}", failed.node, failed.class, failed.message));
            }
        };
        let outcome = executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut watch);
        let failed = failure.unwrap_or_else(|| format!("{:?}", outcome.end));
        (true, if outcome.end == End::Succeeded { Ok(()) } else { Err(failed) })
    }
}

fn shrink(value: &mut Json, most: i64) {
    if value.as_i64().is_some_and(|number| number > most) {
        *value = most.into();
    }
}

fn short(text: &str) -> String {
    text.replace('\n', " ").chars().take(300).collect()
}

#[test]
#[ignore = "needs the templates, which are not part of this repository"]
fn the_official_templates() {
    let registry = nodes::registry();
    let (mut known, mut all) = (BTreeSet::new(), BTreeSet::new());
    let (mut files, mut converted) = (0, 0);
    let (mut with_qwen, mut complete, mut valid, mut ran) = (0, 0, 0, 0);
    for file in templates() {
        let document: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        if !workflow::is_workflow(&document) {
            continue;
        }
        files += 1;
        let mut here = BTreeSet::new();
        kinds(&document, &mut here);
        known.extend(here.iter().filter(|kind| registry.class(kind).is_some()).cloned());
        all.extend(here);
        let bench = Bench::new();
        let qwen = uses_qwen(&document);
        let Ok(mut graph) = workflow::to_prompt(document, &registry, bench.services.as_ref()) else {
            continue;
        };
        converted += 1;
        if !qwen {
            continue;
        }
        with_qwen += 1;
        complete += usize::from(graph.unknown.is_empty());
        bench.furnish(&mut graph.prompt);
        let (is_valid, told) = bench.run(graph.prompt);
        valid += usize::from(is_valid);
        ran += usize::from(told.is_ok());
        let told = match (&told, graph.unknown.is_empty()) {
            (Ok(()), _) => "runs".to_owned(),
            (Err(told), true) if is_valid => format!("is valid, and fails: {}", short(told)),
            (Err(told), true) => format!("is not valid: {}", short(told)),
            (Err(_), false) => {
                format!("lacks {}", graph.unknown.iter().cloned().collect::<Vec<_>>().join(", "))
            }
        };
        println!("{}: {told}", file.file_name().unwrap().to_string_lossy());
    }
    println!(
        "{files} templates, {converted} convert; of {} kinds of nodes {} are known",
        all.len(),
        known.len()
    );
    println!("{with_qwen} use files of Qwen-Image: {complete} lack no node, {valid} are valid, {ran} run");
    assert_eq!(files, converted);
}
