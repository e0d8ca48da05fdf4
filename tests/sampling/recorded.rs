//! Recorded runs: each workflow is read back into a model, prompts and a latent, sampled, and compared
//! with the states ComfyUI went through.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use comfyd::model::diffusion::{self, Options};
use comfyd::model::estimate::Estimate;
use comfyd::model::{self, Compute, Cond, Diffusion, Flow, Hint, LatentFormat};
use comfyd::sampling::{
    Area, Entry, Guidance, InitialNoise, Model, Rectangle, Request, Reuse, SAMPLERS, SCHEDULES, Sampler,
    ScheduleFn, Watched, preview, sample, schedule,
};
use comfyd::stop::Stop;
use comfyd::weights::{File, Fp8, Patches, Storage, Weights};
use serde_json::Value;

use crate::golden::{self, Case};
use crate::tiny_qwen;

/// A workflow and what was recorded of it.
struct Recorded {
    case: Case,
    graph: Value,
}

/// One sampler node.
struct Run {
    model: Model,
    sampler: Sampler,
    sigmas: Vec<f32>,
    noise: bool,
    seed: u64,
    cfg: f64,
    positive: Vec<Entry>,
    negative: Vec<Entry>,
    /// The node its latent comes from.
    latent: Value,
}

impl Run {
    fn request<'a>(&'a self, latent: &'a Latent) -> Request<'a> {
        Request {
            latent: &latent.samples,
            noise: if self.noise { InitialNoise::Batch } else { InitialNoise::Absent },
            seed: self.seed,
            sampler: &self.sampler,
            sigmas: &self.sigmas,
            guidance: Guidance::ClassifierFree {
                positive: &self.positive,
                negative: &self.negative,
                cfg: self.cfg,
            },
            mask: latent.mask.as_ref(),
        }
    }
}

/// A latent on its way through a workflow.
#[derive(Clone)]
struct Latent {
    samples: Tensor,
    mask: Option<Tensor>,
}

impl Latent {
    fn unmasked(samples: Tensor) -> Self {
        Self { samples, mask: None }
    }
}

fn number(node: &Value, input: &str) -> f64 {
    node["inputs"][input].as_f64().unwrap_or_else(|| panic!("{input} of {node}"))
}

fn word<'a>(node: &'a Value, input: &str) -> &'a str {
    node["inputs"][input].as_str().unwrap_or_else(|| panic!("{input} of {node}"))
}

impl Recorded {
    fn open(name: &str) -> Self {
        let case = Case::open(name);
        Self { graph: case.workflow(), case }
    }

    /// The node an input is linked to.
    fn linked<'a>(&'a self, node: &Value, input: &str) -> &'a Value {
        let id = node["inputs"][input][0].as_str().unwrap_or_else(|| panic!("{input} of {node}"));
        &self.graph[id]
    }

    fn model(&self, node: &Value) -> Model {
        let below = || self.model(self.linked(node, "model"));
        match node["class_type"].as_str().unwrap() {
            "UNETLoader" => Model::new(network(node)),
            "ModelSamplingAuraFlow" => {
                below().with_flow(Flow::Discrete { shift: number(node, "shift"), multiplier: 1.0 })
            }
            "ModelSamplingSD3" => {
                below().with_flow(Flow::Discrete { shift: number(node, "shift"), multiplier: 1000.0 })
            }
            "ModelSamplingFlux" => {
                let [base, max] = [number(node, "base_shift"), number(node, "max_shift")];
                let area = number(node, "width") * number(node, "height") / 256.0;
                let slope = (max - base) / 3840.0;
                below().with_flow(Flow::Exponential { mu: area * slope + base - 256.0 * slope })
            }
            "CFGNorm" => below().with_cfg_norm(number(node, "strength")),
            "RescaleCFG" => below().with_rescaled_cfg(number(node, "multiplier")),
            "EasyCache" => {
                let model = below();
                // ComfyUI takes these percents of the schedule that was in use before this workflow,
                // which was one of shift 3.
                let before = Flow::Discrete { shift: 3.0, multiplier: 1.0 };
                let percent = |input| percent_of(model.flow(), before.at_percent(number(node, input)));
                let threshold = number(node, "reuse_threshold");
                let (start, end) = (percent("start_percent"), percent("end_percent"));
                model.with_easy_cache(Reuse { threshold, start, end })
            }
            "DifferentialDiffusion" => below().with_differential_masks(number(node, "strength")),
            other => panic!("{other} is no model"),
        }
    }

    fn prompt(&self, node: &Value) -> Vec<Entry> {
        let below = |input| self.prompt(self.linked(node, input));
        match node["class_type"].as_str().unwrap() {
            "CLIPTextEncode" => vec![Entry::new(self.text(word(node, "text")))],
            "TextEncodeQwenImageEditPlus" => {
                let picture = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>";
                vec![Entry::new(self.text(&format!("{picture}{}", word(node, "prompt"))))]
            }
            "ConditioningZeroOut" => below("conditioning")
                .into_iter()
                .map(|entry| Entry { text: entry.text.zeros_like().unwrap(), ..entry })
                .collect(),
            "ConditioningCombine" => [below("conditioning_1"), below("conditioning_2")].concat(),
            "ConditioningConcat" => {
                let [to, from] = [below("conditioning_to"), below("conditioning_from")];
                vec![Entry::new(Tensor::cat(&[&to[0].text, &from[0].text], 1).unwrap())]
            }
            "ConditioningSetArea" => {
                let cells = |input| number(node, input) as usize / 8;
                let area = Area::Cells(Rectangle {
                    y: cells("y"),
                    x: cells("x"),
                    height: cells("height"),
                    width: cells("width"),
                });
                let strength = number(node, "strength");
                let set = |entry| Entry { area: Some(area), strength, ..entry };
                below("conditioning").into_iter().map(set).collect()
            }
            "ReferenceLatent" => {
                let latent = self.latent(self.linked(node, "latent")).samples;
                let mut entries = below("conditioning");
                for entry in &mut entries {
                    entry.references.push(latent.clone());
                }
                entries
            }
            other => panic!("{other} is no conditioning"),
        }
    }

    /// The sampler nodes, in the order they ran.
    fn runs(&self) -> Vec<Run> {
        let nodes = self.graph.as_object().unwrap().values();
        nodes.filter_map(|node| self.run(node)).collect()
    }

    fn run(&self, node: &Value) -> Option<Run> {
        match node["class_type"].as_str().unwrap() {
            "KSampler" => Some(self.k_sampler(node)),
            "KSamplerAdvanced" => Some(self.k_sampler_advanced(node)),
            "SamplerCustomAdvanced" => Some(self.custom(node)),
            _ => None,
        }
    }

    fn k_sampler(&self, node: &Value) -> Run {
        let model = self.model(self.linked(node, "model"));
        let (sampler, schedule) = words(node);
        let steps = number(node, "steps") as usize;
        Run {
            sigmas: sampler.sigmas(model.flow(), schedule, steps, number(node, "denoise")),
            model,
            sampler,
            noise: true,
            seed: node["inputs"]["seed"].as_u64().unwrap(),
            cfg: number(node, "cfg"),
            positive: self.prompt(self.linked(node, "positive")),
            negative: self.prompt(self.linked(node, "negative")),
            latent: self.linked(node, "latent_image").clone(),
        }
    }

    fn k_sampler_advanced(&self, node: &Value) -> Run {
        let mut like = node.clone();
        like["inputs"]["denoise"] = 1.0.into();
        like["inputs"]["seed"] = node["inputs"]["noise_seed"].clone();
        let run = self.k_sampler(&like);
        let [start, end] = ["start_at_step", "end_at_step"].map(|input| number(node, input) as usize);
        let finish = word(node, "return_with_leftover_noise") == "disable";
        Run {
            sigmas: schedule::window(&run.sigmas, start, end, finish),
            noise: word(node, "add_noise") == "enable",
            ..run
        }
    }

    fn custom(&self, node: &Value) -> Run {
        let guider = self.linked(node, "guider");
        let scheduler = self.linked(node, "sigmas");
        let model = self.model(self.linked(scheduler, "model"));
        let make = schedule::find(word(scheduler, "scheduler")).unwrap();
        let steps = number(scheduler, "steps") as usize;
        let make = |steps| make(model.flow(), steps);
        let side = |input| self.prompt(self.linked(guider, input));
        let (positive, negative, cfg) = if guider["class_type"] == "BasicGuider" {
            (side("conditioning"), Vec::new(), 1.0)
        } else {
            (side("positive"), side("negative"), number(guider, "cfg"))
        };
        Run {
            sigmas: schedule::tail(make, steps, number(scheduler, "denoise")),
            model: self.model(self.linked(guider, "model")),
            sampler: Sampler::find(word(self.linked(node, "sampler"), "sampler_name")).unwrap(),
            noise: true,
            seed: self.linked(node, "noise")["inputs"]["noise_seed"].as_u64().unwrap(),
            cfg,
            positive,
            negative,
            latent: self.linked(node, "latent_image").clone(),
        }
    }

    /// The recorded conditioning of a text.
    fn text(&self, text: &str) -> Tensor {
        let find = |case: &Case| {
            let texts = case.facts["tokens"].as_array().unwrap();
            let index = texts.iter().position(|tokens| tokens["text"] == text)?;
            case.has(&format!("cond.{index}")).then(|| case.whole(&format!("cond.{index}")).unwrap())
        };
        // Cases that compare samplers leave out the conditioning they share with the basic one.
        find(&self.case).or_else(|| find(&Case::open("t2i_basic"))).unwrap_or_else(|| panic!("{text:?}"))
    }

    fn latent(&self, node: &Value) -> Latent {
        match node["class_type"].as_str().unwrap() {
            "EmptySD3LatentImage" => {
                let [batch, h, w] =
                    ["batch_size", "height", "width"].map(|input| number(node, input) as usize);
                let samples = Tensor::zeros((batch, 16, h / 8, w / 8), DType::F32, &Device::Cpu).unwrap();
                Latent::unmasked(samples)
            }
            "VAEEncode" => {
                assert!(!self.case.has("vae_encode_out.1"), "which picture is meant?");
                Latent::unmasked(self.case.whole("vae_encode_out.0").unwrap())
            }
            "SetLatentNoiseMask" => {
                let mask = Some(alpha_mask(word(self.linked(node, "mask"), "image")));
                Latent { mask, ..self.latent(self.linked(node, "samples")) }
            }
            other => panic!("{other} is no latent"),
        }
    }
}

/// The percent at which a schedule reaches a sigma.
fn percent_of(flow: Flow, sigma: f64) -> f64 {
    let (mut early, mut late) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (early + late);
        if flow.at_percent(middle) > sigma { early = middle } else { late = middle }
    }
    late
}

fn words(node: &Value) -> (Sampler, ScheduleFn) {
    let sampler = Sampler::find(word(node, "sampler_name")).unwrap();
    (sampler, schedule::find(word(node, "scheduler")).unwrap())
}

fn network(node: &Value) -> Arc<dyn Diffusion> {
    let storage = match word(node, "weight_dtype") {
        "default" => Storage::default(),
        "fp8_e4m3fn" => Storage::Rounded(Fp8::E4M3),
        other => panic!("weight_dtype {other}"),
    };
    let file = tiny_qwen::models().join("diffusion_models").join(word(node, "unet_name"));
    diffusion::load(File::open(file).unwrap(), Options { storage, ..Options::default() }).unwrap()
}

/// What LoadImage makes of the alpha of a picture: 1 where it is transparent.
fn alpha_mask(name: &str) -> Tensor {
    let file = std::fs::read(golden::path(&format!("input/{name}"))).unwrap();
    let picture = image::load_from_memory(&file).unwrap().to_rgba8();
    let (w, h) = picture.dimensions();
    let mask: Vec<f32> = picture.pixels().map(|pixel| 1.0 - f32::from(pixel[3]) / 255.0).collect();
    Tensor::from_vec(mask, (1, h as usize, w as usize), &Device::Cpu).unwrap()
}

/// Samples a recorded workflow and compares everything that was kept of it.
fn check(name: &str, tolerance: f64) {
    let recorded = Recorded::open(name);
    let case = &recorded.case;
    let mut timesteps = Vec::new();
    let mut pictures = 0;
    let mut last: Option<Tensor> = None;
    for (index, run) in recorded.runs().into_iter().enumerate() {
        let compare = |what: &str, found: &Tensor| case.assert_close(what, found, tolerance);
        compare(&format!("sigmas.{index}"), &Tensor::new(&run.sigmas[..], &Device::Cpu).unwrap());
        let latent = last.take().map_or_else(|| recorded.latent(&run.latent), Latent::unmasked);
        let format = run.model.latent();
        let mut watch = |watched: Watched<'_>| {
            let picture = format!("preview.{pictures}");
            if case.has(&picture) && tolerance <= CLOSE {
                assert_same_picture(
                    &case.whole(&picture).unwrap(),
                    &preview(format, watched.denoised)?.unwrap(),
                );
            }
            pictures += 1;
            compare(&format!("s{index}.step{:02}.denoised", watched.index), watched.denoised);
            Ok(())
        };
        let remembering =
            Arc::new(Remembering { network: run.model.network().clone(), timesteps: Mutex::default() });
        let model = run.model.clone().with_network(remembering.clone());
        let sampled = sample(&model, &run.request(&latent), &mut watch, &Stop::new()).unwrap();
        compare(&format!("latent_out.{index}"), &sampled.latent);
        timesteps.append(&mut remembering.timesteps.lock().unwrap());
        last = Some(sampled.latent);
    }
    assert!(last.is_some(), "{name} samples nothing");
    let expected: Vec<Vec<f64>> = serde_json::from_value(case.facts["dit_timesteps"].clone()).unwrap();
    let mut expected = expected.concat();
    if name == "easycache_skips" {
        // Counted outside the cache in ComfyUI, inside it here.
        assert_eq!(expected.len() - timesteps.len(), 4, "predictions spared");
        expected.retain(|timestep| timesteps.iter().any(|asked| (asked - timestep).abs() < 1e-4));
    }
    assert_eq!(timesteps.len(), expected.len(), "{name}: calls of the network");
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4 * b.abs();
    assert!(timesteps.iter().zip(&expected).all(near), "{name}: {timesteps:?} and not {expected:?}");
}

/// Equal but for a rounding to the neighbouring level.
fn assert_same_picture(expected: &Tensor, found: &Tensor) {
    let levels = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert_eq!(expected.dims(), found.dims());
    assert!(levels(expected).into_iter().zip(levels(found)).all(|(a, b)| a.abs_diff(b) <= 1));
}

/// A network that remembers at which timesteps it was asked, once for each prediction.
struct Remembering {
    network: Arc<dyn Diffusion>,
    timesteps: Mutex<Vec<f64>>,
}

impl Diffusion for Remembering {
    fn latent(&self) -> &'static LatentFormat {
        self.network.latent()
    }

    fn flow(&self) -> Flow {
        self.network.flow()
    }

    fn forward(&self, x: &Tensor, t: f64, conds: &[&Cond], stop: &Stop) -> model::Result<Vec<Tensor>> {
        let predictions = x.dim(0)? * conds.len();
        self.timesteps.lock().unwrap().extend(std::iter::repeat_n(t, predictions));
        self.network.forward(x, t, conds, stop)
    }

    fn estimate(&self, x: &[usize], conds: &[&Cond]) -> model::Result<Estimate> {
        self.network.estimate(x, conds)
    }

    fn weights(&self) -> &Weights {
        self.network.weights()
    }

    fn patched(&self, patches: Arc<Patches>) -> model::Result<Arc<dyn Diffusion>> {
        self.network.patched(patches)
    }

    fn with_control(
        &self,
        control: Arc<File>,
        hint: Arc<dyn Hint>,
        strength: f64,
    ) -> model::Result<Arc<dyn Diffusion>> {
        self.network.with_control(control, hint, strength)
    }

    fn computing_in(&self, compute: Compute) -> model::Result<Arc<dyn Diffusion>> {
        self.network.computing_in(compute)
    }

    fn without_blocks(&self, blocks: &[usize]) -> model::Result<Arc<dyn Diffusion>> {
        self.network.without_blocks(blocks)
    }
}

/// Sums in another order differ by less, and any mistake by more.
const CLOSE: f64 = 5e-5;

fn check_all(names: &[&str]) {
    for name in names {
        check(name, CLOSE);
    }
}

#[test]
fn every_sampler_goes_through_the_states_of_comfyui() {
    for sampler in SAMPLERS.iter().filter(|sampler| !sampler.name.ends_with("_gpu")) {
        // UniPC divides by small differences.
        let tolerance = if sampler.name.starts_with("uni_pc") { 2e-4 } else { CLOSE };
        check(&format!("sampler_{}", sampler.name), tolerance);
    }
}

#[test]
fn every_scheduler_leads_where_it_leads_in_comfyui() {
    for (name, _) in SCHEDULES.iter().filter(|(name, _)| *name != "simple") {
        check(&format!("sched_{name}"), CLOSE);
    }
}

#[test]
fn pictures_from_text_follow_the_recorded_states() {
    check_all(&[
        "t2i_basic",
        "t2i_cfg1",
        "t2i_cfgnorm",
        "t2i_empty_prompt",
        "t2i_20steps",
        "t2i_bf16_file",
        "t2i_own_template",
        "user_graph",
        "user_graph_default_dtype",
        "shift_flux",
        "rescale_cfg",
    ]);
}

#[test]
fn a_batch_is_one_draw_of_noise() {
    check("t2i_nonsquare_batch2", CLOSE);
}

#[test]
fn pictures_from_pictures_follow_the_recorded_states() {
    check_all(&["i2i_060", "i2i_gray", "i2i_odd", "ref_1img"]);
}

#[test]
fn masks_keep_what_comfyui_keeps() {
    check_all(&["inpaint_noisemask", "inpaint_denoise", "inpaint_ddim", "inpaint_differential"]);
}

#[test]
fn several_prompts_are_averaged_where_they_count() {
    check_all(&["cond_combine", "cond_area", "cond_concat", "cond_zero"]);
}

#[test]
fn easy_cache_spares_the_calls_comfyui_spares() {
    check_all(&["easycache", "easycache_skips"]);
}

#[test]
fn leftover_noise_is_taken_up_by_the_next_sampler() {
    check("ksampler_advanced", CLOSE);
}

#[test]
fn guiders_sample_as_the_sampler_node_does() {
    check_all(&["custom_basicguider", "custom_cfgguider"]);
}

/// At a thousand times the timesteps it was made for, the network's sinusoids turn so fast that the last
/// bit of their frequencies shows.
#[test]
fn a_multiplier_reaches_the_network() {
    check("shift_sd3", 0.02);
}
