//! The official workflow templates, as far as they can be had: how many convert, are valid, and run.
//!
//! They are not part of this repository. With the folder of the package `comfyui-workflow-templates-json` in
//! `COMFYD_TEMPLATES`:
//!
//! ```sh
//! cargo test --test workflow_files -- --ignored --nocapture the_official_templates
//! ```
//!
//! prints a line for each template that uses files of Qwen-Image, and counts for all; `COMFYD_TEMPLATE` names one, or a
//! part of its name. Wherever a graph names a file, there is one: miniatures for those of Qwen-Image, with which
//! such graphs run, in few steps and small pictures; empty ones for the others, whose graphs are only judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd::graph::{self, CachePolicy, End, Event, Executor, Kind, Registry, Request, workflow};
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use comfyd::stop::Stop;
use serde_json::{Map, Value as Json};

use crate::{tiny_kin, tiny_qwen, tiny_qwen_21, tiny_qwen3};

/// The largest side of a picture that is asked for, and the most steps.
const SIDE: i64 = 128;
const STEPS: i64 = 2;

/// Kinds of nodes that are the editor's alone.
const EDITOR: [&str; 4] = ["Reroute", "PrimitiveNode", "Note", "MarkdownNote"];

fn folder() -> PathBuf {
    std::env::var("COMFYD_TEMPLATES").expect("COMFYD_TEMPLATES names the folder of the templates").into()
}

fn templates() -> Vec<PathBuf> {
    let part = std::env::var("COMFYD_TEMPLATE").unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).collect();
    files
        .retain(|file| file.extension().is_some_and(|suffix| suffix == "json") && name(file).contains(&part));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Names of the templates that ask services on other machines.
fn remote() -> BTreeSet<String> {
    let index: Json = serde_json::from_slice(&std::fs::read(folder().join("index.json")).unwrap()).unwrap();
    let groups = index.as_array().unwrap().iter();
    let listed = groups.flat_map(|group| group["templates"].as_array().unwrap());
    let remote = listed.filter(|template| template["openSource"] == false);
    remote.map(|template| template["name"].as_str().unwrap().to_owned()).collect()
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

/// Puts the miniature that stands for a file of Qwen-Image, or for any LoRA, at its place; an empty file for others.
fn stand_in(folder: &str, name: &str, target: &Path) {
    let name = name.to_lowercase();
    let model = || tiny_kin::read(tiny_qwen::DIFFUSION_BF16);
    let is_qwen = name.contains("qwen") && !name.contains("2.1") || name.contains("firered");
    if folder == "diffusion_models" && is_qwen && name.contains("int8_convrot") {
        let file = target.file_name().unwrap().to_str().unwrap();
        tiny_kin::save_in_eight_bits(target.parent().unwrap(), file, &model());
        return;
    }
    let made = match folder {
        "diffusion_models" if name.contains("qwen_image_2.1") => {
            Some(tiny_qwen_21::tensors_reading(tiny_qwen3::WIDTH))
        }
        "vae" if name.contains("qwen_image_2.1") => Some(tiny_qwen_21::vae()),
        "diffusion_models" if name.contains("layered") => Some(tiny_kin::layered(model())),
        "vae" if name.contains("layered") => Some(tiny_kin::layered_vae(tiny_kin::read(tiny_qwen::VAE))),
        "controlnet" if name.contains("fun-controlnet") => Some(tiny_kin::fun_control_net(&model())),
        "controlnet" if name.contains("inpainting") => Some(tiny_kin::control_net(&model(), 68)),
        "controlnet" if name.contains("qwen") => Some(tiny_kin::control_net(&model(), 64)),
        "model_patches" if name.contains("qwen") => Some(tiny_kin::block_control(256, 64)),
        "embeddings" => Some([("conditioning".to_owned(), tiny_kin::draw(1, &[1, 7, 64], 1.0))].into()),
        _ => None,
    };
    if let Some(tensors) = made {
        candle_core::safetensors::save(&tensors, target).unwrap();
        return;
    }
    if folder == "text_encoders" && name.contains("qwen3vl") {
        std::fs::copy(tiny_qwen3::whole(), target).unwrap();
        return;
    }
    let file = match folder {
        "diffusion_models" if is_qwen => {
            Some(if name.contains("fp8") { tiny_qwen::DIFFUSION_FP8 } else { tiny_qwen::DIFFUSION_BF16 })
        }
        "text_encoders" if name.contains("qwen_2.5_vl_7b") => Some(tiny_qwen::TEXT_ENCODER),
        "vae" if name == "qwen_image_vae.safetensors" || name.contains("marigold_v2") => Some(tiny_qwen::VAE),
        "loras" => Some(tiny_qwen::LORA_KOHYA),
        _ => None,
    };
    match file {
        Some(file) => drop(std::fs::copy(tiny_qwen::models().join(file), target).unwrap()),
        None => std::fs::write(target, "").unwrap(),
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
                    *value = spec.options.get("min").cloned().unwrap_or_else(|| 0.02.into());
                }
            }
        }
    }

    fn put(&self, folder: &str, name: &str, photo: &Path) {
        let folders = &self.services.folders;
        let target = match folder {
            "input" => folders.input.join(name),
            _ => folders.models.join(folder).join(name.replace('\\', "/")),
        };
        if target.exists() {
            return;
        }
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        if folder == "input" {
            std::fs::copy(photo, target).unwrap();
        } else {
            stand_in(folder, name, &target);
        }
    }

    /// What is wrong with a prompt.
    fn problems(&self, prompt: &Map<String, Json>) -> Option<String> {
        let prompt = Json::Object(prompt.clone());
        match graph::check(prompt, &self.registry, self.services.as_ref(), None) {
            Ok(checked) if checked.problems.is_empty() => None,
            Ok(checked) => Some(format!("{:?}", checked.problems)),
            Err(refusal) => Some(format!("{refusal:?}")),
        }
    }

    /// What goes wrong in the run of a valid prompt.
    fn run(&self, prompt: Map<String, Json>) -> Option<String> {
        let prompt = Json::Object(prompt);
        let checked = graph::check(prompt, &self.registry, self.services.as_ref(), None).ok()?;
        let mut executor = Executor::new(self.services.clone(), self.registry.clone(), CachePolicy::Classic);
        let mut failure = None;
        let mut watch = |event| {
            if let Event::Failed(failed) = event {
                failure = Some(format!("{} {}: {}", failed.node, failed.class, failed.message));
            }
        };
        let outcome = executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut watch);
        (outcome.end != End::Succeeded).then(|| failure.unwrap_or_else(|| format!("{:?}", outcome.end)))
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

/// Templates of one sort, and how far they come.
#[derive(Default)]
struct Count {
    all: usize,
    complete: usize,
    valid: usize,
    run: usize,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} | {} | {}", self.all, self.complete, self.valid)
    }
}

#[test]
#[ignore = "needs the templates, which are not part of this repository"]
fn the_official_templates() {
    let registry = nodes::registry();
    let remote = remote();
    let (mut known, mut all) = (BTreeSet::new(), BTreeSet::new());
    let mut lacking = BTreeMap::<String, usize>::new();
    let [mut served, mut local, mut qwen] = [(); 3].map(|()| Count::default());
    for file in templates() {
        let document: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        if !workflow::is_workflow(&document) {
            continue;
        }
        let mut here = BTreeSet::new();
        kinds(&document, &mut here);
        known.extend(here.iter().filter(|kind| registry.class(kind).is_some()).cloned());
        all.extend(here);
        let bench = Bench::new();
        let with_qwen = uses_qwen(&document) || name(&file).to_lowercase().contains("qwen_image");
        let mut graph = workflow::to_prompt(document, &registry, bench.services.as_ref()).unwrap();
        bench.furnish(&mut graph.prompt);
        let problems = bench.problems(&graph.prompt);
        let is_remote = remote.contains(&name(&file));
        let mut counts = vec![if is_remote { &mut served } else { &mut local }];
        if with_qwen && !is_remote {
            counts.push(&mut qwen);
        }
        for count in counts {
            count.all += 1;
            count.complete += usize::from(graph.unknown.is_empty());
            count.valid += usize::from(problems.is_none());
        }
        if is_remote {
            continue;
        }
        for kind in &graph.unknown {
            *lacking.entry(kind.clone()).or_default() += 1;
        }
        if !with_qwen {
            continue;
        }
        let told = if !graph.unknown.is_empty() {
            format!("lacks {}", graph.unknown.iter().cloned().collect::<Vec<_>>().join(", "))
        } else if let Some(problems) = problems {
            format!("is not valid: {}", short(&problems))
        } else if let Some(failure) = bench.run(graph.prompt) {
            format!("is valid, and fails: {}", short(&failure))
        } else {
            qwen.run += 1;
            "runs".to_owned()
        };
        println!("{} | {told}", name(&file));
    }
    println!("\n| templates | | have all their nodes | valid |\n|---|---|---|---|");
    println!("| of services elsewhere | {served} |\n| local | {local} |");
    println!("| of these with files of Qwen-Image, {} of which run | {qwen} |", qwen.run);
    println!("\nof {} kinds of nodes {} are known; lacking in local ones:", all.len(), known.len());
    let mut lacking: Vec<_> = lacking.into_iter().collect();
    lacking.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (kind, count) in lacking.iter().take(40) {
        println!("{count:4} {kind}");
    }
}
