//! The diffusion transformer, stage by stage, fed with recorded inputs.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd::model::diffusion::{self, Options, QwenImage};
use comfyd::model::{Cond, Diffusion, Error, LatentFormat, ReferenceMethod, latents};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};

use crate::golden::Case;
use crate::safetensors::{Entry, write, write_raw};
use crate::tiny_qwen;

/// Relative L2 distance: sums in another order differ by less, and any mistake by more.
const CLOSE: f64 = 1e-4;

pub fn network(name: &str, options: Options) -> QwenImage {
    let file: Arc<File> = File::open(tiny_qwen::models().join(name)).unwrap();
    QwenImage::load(Weights::new(file, "").stored_as(options.storage), options).unwrap()
}

fn fp8(options: Options) -> QwenImage {
    network(tiny_qwen::DIFFUSION_FP8, options)
}

/// The inputs of recorded model call `call`; `None` unless all of them are stored whole.
pub fn inputs(golden: &Case, call: usize, method: ReferenceMethod) -> Option<(Tensor, f64, Cond)> {
    let name = format!("dit{call}.x");
    let x = golden.whole(&name).or_else(|| {
        // Positive and negative ran as one batch of two equal latents.
        golden.whole("s0.step00.x")?.repeat((golden.shape(&name)[0], 1, 1, 1, 1)).ok()
    })?;
    let t = golden.whole(&format!("dit{call}.timestep"))?.to_vec1::<f32>().unwrap()[0];
    let text = golden.whole(&format!("dit{call}.context"))?;
    let references = (0..8)
        .map(|index| format!("dit{call}.ref{index}"))
        .take_while(|name| golden.has(name))
        .map(|name| golden.whole(&name).or_else(|| from_encoder(golden, &name)))
        .collect::<Option<_>>()?;
    Some((x, f64::from(t), Cond { references, reference_method: Some(method), ..Cond::new(text) }))
}

/// A reference is a normalised result of the encoder, of which the unnormalised one may be stored.
fn from_encoder(golden: &Case, name: &str) -> Option<Tensor> {
    let latent = (0..8)
        .map(|index| format!("vae_encode_out.{index}"))
        .take_while(|name| golden.has(name))
        .find(|encoded| golden.shape(encoded) == golden.shape(name))
        .and_then(|encoded| golden.whole(&encoded))?;
    Some(normalised(&latent, &latents::WAN_2_1))
}

fn normalised(latent: &Tensor, format: &LatentFormat) -> Tensor {
    let per_channel =
        |values: &[f32]| Tensor::new(values, latent.device()).unwrap().reshape((1, (), 1, 1, 1)).unwrap();
    let centred = latent.broadcast_sub(&per_channel(format.mean)).unwrap();
    centred.broadcast_div(&per_channel(format.std)).unwrap()
}

/// Runs the first two recorded calls of a case and compares all stored stages. Returns how many.
fn check_case(network: &QwenImage, case: &str, method: ReferenceMethod) -> usize {
    let golden = Case::open(case);
    let mut checked = 0;
    for call in 0..2 {
        let Some((x, t, cond)) = inputs(&golden, call, method) else { continue };
        let batch = x.dim(0).unwrap();
        let mut stages = |stage: &str, value: &Tensor| {
            if stage.starts_with("modulation") {
                return;
            }
            let value = if stage == "temb.0" { value.repeat((batch, 1)).unwrap() } else { value.clone() };
            checked += usize::from(call == 0 && golden.assert_close(&format!("dit0.{stage}"), &value, CLOSE));
        };
        let out = network.forward_watched(&x, t, &[&cond], &Stop::new(), &mut stages).unwrap();
        checked += usize::from(golden.assert_close(&format!("dit{call}.out"), &out[0], CLOSE));
    }
    checked
}

/// Cases and the number of stages stored for them.
fn check_cases(network: &QwenImage, cases: &[(&str, usize)]) {
    for (case, stages) in cases {
        assert_eq!(check_case(network, case, ReferenceMethod::Index), *stages, "stages compared in {case}");
    }
}

#[test]
fn every_stage_of_a_prediction_from_text_is_as_recorded() {
    let cases = [("t2i_basic", 8), ("t2i_cfg1", 8), ("user_graph", 8)];
    check_cases(&fp8(Options::default()), &cases);
}

#[test]
fn any_length_of_text_and_any_picture_size_give_the_recorded_velocity() {
    let cases = [
        ("cond_zero", 2),
        ("t2i_20steps", 2),
        ("t2i_cfgnorm", 2),
        ("t2i_own_template", 2),
        ("t2i_weights_syntax", 2),
        ("user_graph_default_dtype", 2),
        ("vae_tiled_decode", 2),
    ];
    check_cases(&fp8(Options::default()), &cases);
}

#[test]
fn noisy_pictures_and_odd_latents_give_the_recorded_velocity() {
    check_cases(&fp8(Options::default()), &[("i2i_060", 2), ("i2i_gray", 2), ("i2i_odd", 2)]);
}

#[test]
fn batches_give_the_recorded_velocity() {
    check_cases(&fp8(Options::default()), &[("t2i_empty_prompt", 2), ("t2i_nonsquare_batch2", 2)]);
}

#[test]
fn a_reference_picture_gives_the_recorded_stages() {
    check_cases(&fp8(Options::default()), &[("ref_1img", 8)]);
}

#[test]
fn references_at_timestep_zero_are_shown_as_free_of_noise() {
    let network = fp8(Options::default());
    let (x, t, index) = inputs(&Case::open("ref_1img"), 0, ReferenceMethod::Index).unwrap();
    let zero = Cond { reference_method: Some(ReferenceMethod::IndexTimestepZero), ..index.clone() };
    let predict = |network: &QwenImage, t: f64, cond: &Cond| {
        let velocity = network.forward(&x, t, &[cond], &Stop::new()).unwrap().remove(0);
        velocity.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(predict(&network, 0.0, &zero), predict(&network, 0.0, &index), "nothing has noise at zero");
    let told = predict(&network, t, &zero);
    assert_ne!(told, predict(&network, t, &index));
    let alone = Cond { references: Vec::new(), ..zero.clone() };
    let plain = Cond { reference_method: None, ..alone.clone() };
    assert_eq!(
        predict(&network, t, &alone),
        predict(&network, t, &plain),
        "without references nothing changes"
    );
    assert_eq!(predict(&trained_at_zero(), t, &Cond { reference_method: None, ..zero }), told);
}

/// The network of a file that says it was trained so, as those of 2511 do.
fn trained_at_zero() -> QwenImage {
    let bytes = std::fs::read(tiny_qwen::models().join(tiny_qwen::DIFFUSION_FP8)).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    header["__index_timestep_zero__"] =
        serde_json::json!({"dtype": "F32", "shape": [0], "data_offsets": [data.len(), data.len()]});
    let folder = tempfile::tempdir().unwrap();
    let path = write_raw(folder.path(), "2511.safetensors", &header.to_string(), data);
    QwenImage::load(Weights::new(File::open(path).unwrap(), ""), Options::default()).unwrap()
}

#[test]
fn a_bf16_file_is_read_as_it_is() {
    check_cases(&network(tiny_qwen::DIFFUSION_BF16, Options::default()), &[("t2i_bf16_file", 2)]);
}

#[test]
fn several_conditionings_share_a_pass_without_mixing() {
    let network = fp8(Options::default());
    let golden = Case::open("t2i_basic");
    let (x, t, first) = inputs(&golden, 0, ReferenceMethod::Index).unwrap();
    let (_, _, second) = inputs(&golden, 1, ReferenceMethod::Index).unwrap();
    let both = network.forward(&x, t, &[&first, &second], &Stop::new()).unwrap();
    assert!(
        golden.assert_close("dit0.out", &both[0], CLOSE) && golden.assert_close("dit1.out", &both[1], CLOSE)
    );
}

#[test]
fn a_pass_stops_between_blocks() {
    let network = fp8(Options::default());
    let (x, t, cond) = inputs(&Case::open("t2i_basic"), 0, ReferenceMethod::Index).unwrap();
    let stop = Stop::new();
    let mut blocks = 0;
    let result = network.forward_watched(&x, t, &[&cond], &stop, &mut |stage, _| {
        blocks += usize::from(stage.starts_with("block.img"));
        stop.request();
    });
    assert!(matches!(result, Err(Error::Stopped(_))));
    assert_eq!(blocks, 0, "the flag was up before the first block");
}

#[test]
fn inputs_of_other_models_are_refused_in_words() {
    let network = fp8(Options::default());
    let (x, t, cond) = inputs(&Case::open("t2i_basic"), 0, ReferenceMethod::Index).unwrap();
    let wide = Cond { text: Tensor::cat(&[&cond.text, &cond.text], 2).unwrap(), ..cond };
    let refusal = network.forward(&x, t, &[&wide], &Stop::new()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "expected vectors of 64 numbers, found 128; these inputs belong to another model"
    );
}

#[test]
fn a_file_of_another_kind_is_named() {
    let refusal =
        |name| diffusion::load(File::open(tiny_qwen::models().join(name)).unwrap(), Options::default());
    let message = |name| refusal(name).err().unwrap().to_string();
    assert_eq!(
        message(tiny_qwen::VAE),
        "qwen_image_vae.safetensors is not a diffusion model this server can run (Qwen-Image, Qwen-Image 2.1); it looks \
         like a Wan or Qwen-Image VAE (it belongs into models/vae)"
    );
    assert!(message(tiny_qwen::TEXT_ENCODER).contains("(it belongs into models/text_encoders)"));
    assert!(message(tiny_qwen::LORA_PEFT).contains("a LoRA (it belongs into models/loras)"));
}

#[test]
fn networks_are_found_below_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["img_in.weight", "txt_norm.weight"];
    for prefix in ["", "model.diffusion_model.", "diffusion_model."] {
        let names = names.map(|name| format!("{prefix}{name}"));
        let entries = names.each_ref().map(|name| Entry::f32(name, &[1], &[0.0]));
        let file = File::open(write(folder.path(), "file.safetensors", &entries)).unwrap();
        assert_eq!(diffusion::detect(&file).unwrap().0.name(), "Qwen-Image");
        let message = diffusion::load(file, Options::default()).err().unwrap().to_string();
        assert!(message.contains("missing"), "{message}");
    }
}
