//! ControlNets, mixtures of models and every kind of adapter in whole runs, against the latents that the same graphs
//! gave in ComfyUI 0.3.64 with the same small files.

use std::path::Path;

use candle_core::Tensor;
use serde_json::json;

use crate::tiny_kin::{Tensors, control_net, draw, read, save};
use crate::{Made, Studio, as_in_comfyui, golden, tiny_qwen};

/// A draw that is nowhere negative, and a half more.
fn norms(seed: u64, shape: &[usize]) -> Tensor {
    draw(seed, shape, 1.0).abs().unwrap().affine(1.0, 0.5).unwrap()
}

/// Adapters of several kinds in one file, in several spellings.
fn kinds_of_adapters(model: &Tensors) -> Tensors {
    let width = model["img_in.weight"].dims()[0];
    let narrow = model["transformer_blocks.1.img_mlp.net.2.weight"].dims();
    let dora = "transformer_blocks.0.attn.to_q";
    let loha = "transformer_blocks.1.attn.to_k";
    let lokr = "lora_unet_transformer_blocks_1_img_mlp_net_2";
    let named = |module: &str, ending: &str, tensor| (format!("{module}.{ending}"), tensor);
    [
        named(dora, "lora_up.weight", draw(11, &[width, 2], 0.2)),
        named(dora, "lora_down.weight", draw(12, &[2, width], 0.2)),
        named(dora, "dora_scale", norms(13, &[width, 1])),
        named(loha, "hada_w1_a", draw(14, &[width, 2], 0.3)),
        named(loha, "hada_w1_b", draw(15, &[2, width], 0.3)),
        named(loha, "hada_w2_a", draw(16, &[width, 2], 0.3)),
        named(loha, "hada_w2_b", draw(17, &[2, width], 0.3)),
        named(lokr, "lokr_w1", draw(18, &[4, 4], 0.3)),
        named(lokr, "lokr_w2", draw(19, &[narrow[0] / 4, narrow[1] / 4], 0.1)),
        named("diffusion_model.txt_in", "diff_b", draw(20, &[width], 0.1)),
        named("diffusion_model.txt_norm", "diff", draw(21, model["txt_norm.weight"].dims(), 0.1)),
    ]
    .into()
}

/// LoRA and DoRA of the text encoder.
fn text_adapters(encoder: &Tensors) -> Tensors {
    let layer = "model.layers.0";
    let outputs = |module: &str| encoder[&format!("{layer}.{module}.weight")].dims()[0];
    let named = |module: &str, ending: &str, tensor| {
        (format!("text_encoders.qwen25_7b.transformer.{layer}.{module}.{ending}"), tensor)
    };
    let (gate, query) = ("mlp.gate_proj", "self_attn.q_proj");
    [
        named(gate, "lora_A.weight", draw(6, &[2, 64], 0.3)),
        named(gate, "lora_B.weight", draw(7, &[outputs(gate), 2], 0.3)),
        named(query, "dora_scale", norms(8, &[1, 64])),
        named(query, "lora_A.weight", draw(9, &[2, 64], 0.3)),
        named(query, "lora_B.weight", draw(10, &[outputs(query), 2], 0.3)),
    ]
    .into()
}

/// The miniature checkpoints, with more files beside them.
fn write_models(folder: &Path) {
    let tiny = tiny_qwen::models();
    for kind in ["diffusion_models", "text_encoders", "vae", "loras"] {
        std::fs::create_dir_all(folder.join(kind)).unwrap();
        for file in std::fs::read_dir(tiny.join(kind)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join(kind).join(file.file_name())).unwrap();
        }
    }
    let model = read(tiny_qwen::DIFFUSION_BF16);
    save(&folder.join("controlnet"), "tiny_union.safetensors", &control_net(&model, 64));
    save(&folder.join("controlnet"), "tiny_inpaint.safetensors", &control_net(&model, 68));
    save(&folder.join("loras"), "tiny-kinds.safetensors", &kinds_of_adapters(&model));
    save(&folder.join("loras"), "tiny-text.safetensors", &text_adapters(&read(tiny_qwen::TEXT_ENCODER)));
}

#[test]
fn controls_mixtures_and_adapters_steer_a_run_as_in_comfyui() {
    let folder = tempfile::tempdir().unwrap();
    write_models(folder.path());
    let mut studio = Studio::with_models(folder.path());
    let mask = golden::path("../pixels/input/mask.png");
    std::fs::copy(mask, studio.services.folders.input.join("mask.png")).unwrap();
    as_in_comfyui(&mut studio, "steered", 19, "controls, mixtures, adapters");
}

#[test]
fn a_control_that_gets_no_vae_says_so() {
    let folder = tempfile::tempdir().unwrap();
    write_models(folder.path());
    let mut studio = Studio::with_models(folder.path());
    let mut graph = Made::all("steered").into_iter().find(|case| case.name == "a control").unwrap().prompt;
    graph["apply"]["inputs"].as_object_mut().unwrap().remove("vae");
    graph["save"] =
        json!({"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "x"}});
    assert!(studio.failure(graph).contains("needs a VAE"), "{}", "no word of the VAE");
}
