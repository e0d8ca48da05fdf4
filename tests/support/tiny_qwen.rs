//! Miniature Qwen-Image checkpoints in the layout of the real files, made from seeds.
//!
//! Each tensor is one draw of torch's generator, seeded by the CRC-32 of its name, so the 39 MB need
//! not be in the repository. `tests/golden/qwen-tiny/models.json` holds the SHA-256 of each file: one
//! wrong bit in noise or rounding fails every test that uses them.
#![allow(clippy::unwrap_used, dead_code, reason = "test code; not every test binary uses all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use comfyd::sampling::Noise;
use half::bf16;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

pub const DIFFUSION_FP8: &str = "diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors";
pub const DIFFUSION_BF16: &str = "diffusion_models/qwen_image_edit_2509_bf16.safetensors";
pub const TEXT_ENCODER: &str = "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors";
pub const VAE: &str = "vae/qwen_image_vae.safetensors";
pub const LORA_KOHYA: &str = "loras/tiny-lightning-kohya.safetensors";
pub const LORA_PEFT: &str = "loras/tiny-peft.safetensors";
pub const LORA_DIFFUSION_MODEL: &str = "loras/tiny-diffusion-model.safetensors";
pub const LORA_PLAIN: &str = "loras/tiny-plain.safetensors";
pub const LORA_UNET: &str = "loras/tiny-lora-unet.safetensors";

const DIGESTS: &str = include_str!("../golden/qwen-tiny/models.json");

/// The `models` folder with all files, under ComfyUI's folder names. Written on first use and shared
/// by all test binaries: do not write to it.
pub fn models() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let base = parent.join(format!("qwen-tiny-{}", &sha256(DIGESTS.as_bytes())[..12]));
        if !base.exists() {
            // Several test binaries may get here at once: each writes its own, and one wins.
            let draft = parent.join(format!("qwen-tiny-draft-{}", std::process::id()));
            write(&draft.join("models"));
            if std::fs::rename(&draft, &base).is_err() {
                assert!(base.exists(), "cannot write {}", base.display());
                std::fs::remove_dir_all(&draft).unwrap();
            }
        }
        base.join("models")
    })
}

fn write(folder: &Path) {
    let digests: BTreeMap<String, String> = serde_json::from_str(DIGESTS).unwrap();
    let files = files();
    assert!(files.keys().copied().eq(digests.keys().map(String::as_str)), "models.json lists other files");
    for (name, tensors) in files {
        let views =
            tensors.iter().map(|t| (&t.key, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
        let bytes = safetensors::serialize(views, None).unwrap();
        assert_eq!(
            sha256(&bytes),
            digests[name],
            "{name} is not, bit for bit, the file the goldens come from"
        );
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn files() -> BTreeMap<&'static str, Vec<Stored>> {
    let diffusion = diffusion();
    let lora = |style, rank, alpha, seed, targets| lora(&diffusion, style, rank, alpha, seed, targets);
    let (attention, feed_forward) = (&LORA_TARGETS[..8], ["attn.to_q", "img_mlp.net.2"]);
    BTreeMap::from([
        (DIFFUSION_FP8, store(&diffusion, Precision::F8)),
        (DIFFUSION_BF16, store(&diffusion, Precision::Bf16)),
        (TEXT_ENCODER, text_encoder()),
        (VAE, store(&vae(), Precision::Bf16)),
        (LORA_KOHYA, lora(Style::Kohya, 4, Some(2.0), 7, &LORA_TARGETS)),
        (LORA_PEFT, lora(Style::Peft, 4, None, 8, attention)),
        (LORA_DIFFUSION_MODEL, lora(Style::Comfy, 3, None, 9, attention)),
        (LORA_PLAIN, lora(Style::Plain, 2, None, 10, &feed_forward)),
        (LORA_UNET, lora(Style::Under, 4, Some(1.0), 11, attention)),
    ])
}

/// One tensor as it stands in a file.
struct Stored {
    key: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// One tensor to be drawn.
struct Draw {
    key: String,
    /// Names the draw: together with the recipe's seed it chooses the numbers.
    label: String,
    shape: Vec<usize>,
    deviation: f64,
    mean: f64,
}

impl Draw {
    fn values(&self, seed: u32) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.iter().product()];
        let seed = crc32(format!("{seed}:{}", self.label).as_bytes()) & 0x7fff_ffff;
        Noise::new(seed.into()).fill(&mut values);
        for value in &mut values {
            *value = *value * self.deviation as f32 + self.mean as f32;
        }
        values
    }
}

/// The seed of every tensor that is not part of a LoRA.
const SEED: u32 = 20509;

#[derive(Default)]
struct Recipe(Vec<Draw>);

impl Recipe {
    fn draw(&mut self, key: String, shape: &[usize], deviation: f64, mean: f64) {
        self.0.push(Draw { label: key.clone(), key, shape: shape.to_vec(), deviation, mean });
    }

    /// A weight of shape (out, in, kernel...) whose output has about `gain` times the input's deviation.
    fn weight(&mut self, name: &str, shape: &[usize], gain: f64) {
        // With one frame only the last temporal tap of a kernel sees data, so its depth does not count.
        let area: usize = shape[2..].iter().rev().take(2).product();
        let inputs = shape[1] * area;
        self.draw(format!("{name}.weight"), shape, gain / (inputs as f64).sqrt(), 0.0);
    }

    fn layer(&mut self, name: &str, shape: &[usize], gain: f64, bias: f64) {
        self.weight(name, shape, gain);
        self.draw(format!("{name}.bias"), &shape[..1], bias, 0.0);
    }

    fn norm(&mut self, name: &str, width: usize, deviation: f64) {
        self.draw(format!("{name}.weight"), &[width], deviation, 1.0);
    }
}

#[derive(Clone, Copy)]
enum Precision {
    F32,
    Bf16,
    F8,
    /// F8 with the scale of each tensor beside it.
    ScaledF8,
}

fn store(recipe: &Recipe, precision: Precision) -> Vec<Stored> {
    recipe.0.par_iter().flat_map_iter(|draw| stored(draw, &draw.values(SEED), precision)).collect()
}

fn stored(draw: &Draw, values: &[f32], precision: Precision) -> Vec<Stored> {
    let tensor = |dtype, bytes| Stored { key: draw.key.clone(), dtype, shape: draw.shape.clone(), bytes };
    let scalar = |suffix, value: f32| Stored {
        key: draw.key.replace(".weight", suffix),
        dtype: Dtype::F32,
        shape: Vec::new(),
        bytes: value.to_le_bytes().to_vec(),
    };
    match precision {
        Precision::F32 => {
            vec![tensor(Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())]
        }
        Precision::Bf16 => {
            let bytes = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
            vec![tensor(Dtype::BF16, bytes)]
        }
        Precision::F8 => vec![tensor(Dtype::F8_E4M3, values.iter().map(|value| f8(*value)).collect())],
        Precision::ScaledF8 => {
            let scale = values.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / 448.0;
            let bytes = values.iter().map(|value| f8((value / scale).clamp(-448.0, 448.0))).collect();
            vec![
                tensor(Dtype::F8_E4M3, bytes),
                scalar(".scale_weight", scale),
                // In the real file too; nothing reads it.
                scalar(".scale_input", 0.0371),
            ]
        }
    }
}

/// Rounds to E4M3, to nearest, ties to even, for magnitudes up to 448.
fn f8(value: f32) -> u8 {
    const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
    let magnitude = value.abs();
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    if magnitude < SMALLEST_NORMAL {
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.to_bits();
    let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
    sign | (rounded - ((127 - 7) << 3)) as u8
}

/// The CRC-32 of zip files.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

const WIDTH: usize = 256;
const TEXT_WIDTH: usize = 64;

fn diffusion() -> Recipe {
    let mut r = Recipe::default();
    r.layer("time_text_embed.timestep_embedder.linear_1", &[WIDTH, 256], 1.6, 0.05);
    r.layer("time_text_embed.timestep_embedder.linear_2", &[WIDTH, WIDTH], 1.6, 0.05);
    r.norm("txt_norm", TEXT_WIDTH, 0.15);
    r.layer("img_in", &[WIDTH, 64], 1.0, 0.05);
    r.layer("txt_in", &[WIDTH, TEXT_WIDTH], 2.0, 0.05);
    for block in 0..2 {
        let p = format!("transformer_blocks.{block}");
        for stream in ["img", "txt"] {
            r.layer(&format!("{p}.{stream}_mod.1"), &[6 * WIDTH, WIDTH], 1.0, 0.3);
            r.layer(&format!("{p}.{stream}_mlp.net.0.proj"), &[4 * WIDTH, WIDTH], 1.2, 0.05);
            r.layer(&format!("{p}.{stream}_mlp.net.2"), &[WIDTH, 4 * WIDTH], 1.5, 0.05);
        }
        let projections = [
            ("to_q", 1.0),
            ("to_k", 1.0),
            ("add_q_proj", 1.0),
            ("add_k_proj", 1.0),
            ("to_v", 1.6),
            ("add_v_proj", 3.0),
            ("to_out.0", 2.0),
            ("to_add_out", 1.5),
        ];
        for (name, gain) in projections {
            r.layer(&format!("{p}.attn.{name}"), &[WIDTH, WIDTH], gain, 0.05);
        }
        let norms = [("norm_q", 1.5), ("norm_k", 1.2), ("norm_added_q", 1.3), ("norm_added_k", 2.6)];
        for (name, mean) in norms {
            r.draw(format!("{p}.attn.{name}.weight"), &[128], 0.2, mean);
            r.0.last_mut().unwrap().label = format!("{p}.{name}");
        }
    }
    r.layer("norm_out.linear", &[2 * WIDTH, WIDTH], 0.6, 0.1);
    r.layer("proj_out", &[64, WIDTH], 1.1, 0.05);
    r
}

fn text_encoder() -> Vec<Stored> {
    let (mut plain, mut quantised) = (Recipe::default(), Recipe::default());
    language(&mut plain, &mut quantised);
    vision(&mut plain, &mut quantised);
    let mut tensors = store(&plain, Precision::Bf16);
    tensors.extend(store(&quantised, Precision::ScaledF8));
    let marker =
        Stored { key: "scaled_fp8".to_owned(), dtype: Dtype::F8_E4M3, shape: vec![0], bytes: vec![] };
    tensors.push(marker);
    tensors
}

fn language(plain: &mut Recipe, quantised: &mut Recipe) {
    const HEADS: usize = 8 * 128;
    const KEY_VALUE_HEADS: usize = 4 * 128;
    const MLP: usize = 160;
    plain.draw("model.embed_tokens.weight".to_owned(), &[152_064, TEXT_WIDTH], 0.6, 0.0);
    plain.draw("lm_head.weight".to_owned(), &[128, TEXT_WIDTH], 0.05, 0.0);
    for layer in 0..3 {
        let p = format!("model.layers.{layer}");
        plain.norm(&format!("{p}.input_layernorm"), TEXT_WIDTH, 0.2);
        plain.norm(&format!("{p}.post_attention_layernorm"), TEXT_WIDTH, 0.2);
        for (name, rows, gain, bias) in
            [("q", HEADS, 0.9, 0.3), ("k", KEY_VALUE_HEADS, 0.9, 0.5), ("v", KEY_VALUE_HEADS, 1.0, 0.1)]
        {
            quantised.weight(&format!("{p}.self_attn.{name}_proj"), &[rows, TEXT_WIDTH], gain);
            plain.draw(format!("{p}.self_attn.{name}_proj.bias"), &[rows], bias, 0.0);
        }
        quantised.weight(&format!("{p}.self_attn.o_proj"), &[TEXT_WIDTH, HEADS], 2.5);
        quantised.weight(&format!("{p}.mlp.gate_proj"), &[MLP, TEXT_WIDTH], 1.3);
        quantised.weight(&format!("{p}.mlp.up_proj"), &[MLP, TEXT_WIDTH], 1.3);
        quantised.weight(&format!("{p}.mlp.down_proj"), &[TEXT_WIDTH, MLP], 1.2);
    }
    plain.norm("model.norm", TEXT_WIDTH, 0.2);
}

fn vision(plain: &mut Recipe, quantised: &mut Recipe) {
    const VISION_WIDTH: usize = 160;
    const MLP: usize = 228;
    const PATCH: [usize; 4] = [3, 2, 14, 14];
    let inputs: usize = PATCH.iter().product();
    plain.draw(
        "visual.patch_embed.proj.weight".to_owned(),
        &[&[VISION_WIDTH][..], &PATCH].concat(),
        1.2 / (inputs as f64).sqrt(),
        0.0,
    );
    let mut linear = |name: String, rows: usize, columns, gain, bias| {
        quantised.weight(&name, &[rows, columns], gain);
        plain.draw(format!("{name}.bias"), &[rows], bias, 0.0);
    };
    for block in 0..8 {
        let p = format!("visual.blocks.{block}");
        linear(format!("{p}.attn.qkv"), 3 * VISION_WIDTH, VISION_WIDTH, 1.2, 0.1);
        linear(format!("{p}.attn.proj"), VISION_WIDTH, VISION_WIDTH, 1.2, 0.05);
        linear(format!("{p}.mlp.gate_proj"), MLP, VISION_WIDTH, 1.3, 0.05);
        linear(format!("{p}.mlp.up_proj"), MLP, VISION_WIDTH, 1.3, 0.05);
        linear(format!("{p}.mlp.down_proj"), VISION_WIDTH, MLP, 1.0, 0.05);
    }
    linear("visual.merger.mlp.0".to_owned(), 4 * VISION_WIDTH, 4 * VISION_WIDTH, 1.2, 0.05);
    linear("visual.merger.mlp.2".to_owned(), TEXT_WIDTH, 4 * VISION_WIDTH, 1.3, 0.05);
    for block in 0..8 {
        plain.norm(&format!("visual.blocks.{block}.norm1"), VISION_WIDTH, 0.2);
        plain.norm(&format!("visual.blocks.{block}.norm2"), VISION_WIDTH, 0.2);
    }
    plain.norm("visual.merger.ln_q", VISION_WIDTH, 0.2);
}

const LATENT: usize = 16;

fn vae() -> Recipe {
    let mut r = Recipe::default();
    encoder(&mut r);
    for side in ["encoder", "decoder"] {
        residual(&mut r, &format!("{side}.middle.0"), 32, 32);
        let p = format!("{side}.middle.1");
        r.draw(format!("{p}.norm.gamma"), &[32, 1, 1], 0.15, 1.0);
        r.layer(&format!("{p}.to_qkv"), &[96, 32, 1, 1], 1.5, 0.02);
        r.layer(&format!("{p}.proj"), &[32, 32, 1, 1], 0.8, 0.02);
        residual(&mut r, &format!("{side}.middle.2"), 32, 32);
    }
    r.layer("conv1", &[2 * LATENT, 2 * LATENT, 1, 1, 1], 1.4, 0.3);
    r.layer("conv2", &[LATENT, LATENT, 1, 1, 1], 1.0, 0.02);
    decoder(&mut r);
    r
}

fn residual(r: &mut Recipe, p: &str, input: usize, output: usize) {
    r.draw(format!("{p}.residual.0.gamma"), &[input, 1, 1, 1], 0.15, 1.0);
    r.layer(&format!("{p}.residual.2"), &[output, input, 3, 3, 3], 1.3, 0.02);
    r.draw(format!("{p}.residual.3.gamma"), &[output, 1, 1, 1], 0.15, 1.0);
    r.layer(&format!("{p}.residual.6"), &[output, output, 3, 3, 3], 0.8, 0.02);
    if input != output {
        r.layer(&format!("{p}.shortcut"), &[output, input, 1, 1, 1], 1.0, 0.02);
    }
}

fn encoder(r: &mut Recipe) {
    r.layer("encoder.conv1", &[8, 3, 3, 3, 3], 2.5, 0.02);
    let mut names = (0..).map(|index| format!("encoder.downsamples.{index}"));
    let mut next = || names.next().unwrap();
    for (level, [input, output]) in [[8, 8], [8, 16], [16, 32], [32, 32]].into_iter().enumerate() {
        residual(r, &next(), input, output);
        residual(r, &next(), output, output);
        if level < 3 {
            let p = next();
            r.layer(&format!("{p}.resample.1"), &[output, output, 3, 3], 1.2, 0.02);
            if level > 0 {
                r.layer(&format!("{p}.time_conv"), &[output, output, 3, 1, 1], 0.7, 0.02);
            }
        }
    }
    r.draw("encoder.head.0.gamma".to_owned(), &[32, 1, 1, 1], 0.15, 1.0);
    r.layer("encoder.head.2", &[2 * LATENT, 32, 3, 3, 3], 2.5, 0.02);
}

fn decoder(r: &mut Recipe) {
    r.layer("decoder.conv1", &[32, LATENT, 3, 3, 3], 1.0, 0.02);
    let mut names = (0..).map(|index| format!("decoder.upsamples.{index}"));
    let mut next = || names.next().unwrap();
    for (level, [input, output]) in [[32, 32], [16, 32], [16, 16], [8, 8]].into_iter().enumerate() {
        residual(r, &next(), input, output);
        residual(r, &next(), output, output);
        residual(r, &next(), output, output);
        if level < 3 {
            let p = next();
            r.layer(&format!("{p}.resample.1"), &[output / 2, output, 3, 3], 1.2, 0.02);
            if level < 2 {
                r.layer(&format!("{p}.time_conv"), &[2 * output, output, 3, 1, 1], 0.7, 0.02);
            }
        }
    }
    r.draw("decoder.head.0.gamma".to_owned(), &[8, 1, 1, 1], 0.15, 1.0);
    r.layer("decoder.head.2", &[3, 8, 3, 3, 3], 0.75, 0.02);
}

/// The first eight belong to attention.
const LORA_TARGETS: [&str; 14] = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
    "img_mod.1",
    "txt_mod.1",
];

/// The ways trainers name the tensors of a LoRA.
#[derive(Clone, Copy)]
enum Style {
    /// Lightning files: plain paths, `lora_down` and `lora_up`.
    Kohya,
    /// diffusers trainers: below `transformer.`.
    Peft,
    /// ai-toolkit and ComfyUI's own: below `diffusion_model.`, here in F32.
    Comfy,
    /// Plain paths, `lora_A` and `lora_B`.
    Plain,
    /// musubi: underscores for dots.
    Under,
}

fn lora(
    diffusion: &Recipe,
    style: Style,
    rank: usize,
    alpha: Option<f32>,
    seed: u32,
    targets: &[&str],
) -> Vec<Stored> {
    let (word, prefix, [down, up], precision) = match style {
        Style::Kohya => ("kohya", "", ["lora_down", "lora_up"], Precision::Bf16),
        Style::Peft => ("peft", "transformer.", ["lora_A", "lora_B"], Precision::Bf16),
        Style::Comfy => ("comfy", "diffusion_model.", ["lora_A", "lora_B"], Precision::F32),
        Style::Plain => ("plain", "", ["lora_A", "lora_B"], Precision::Bf16),
        Style::Under => ("under", "lora_unet_", ["lora_down", "lora_up"], Precision::Bf16),
    };
    let mut tensors = Vec::new();
    for module in
        (0..2).flat_map(|block| targets.iter().map(move |t| format!("transformer_blocks.{block}.{t}")))
    {
        let weight = diffusion.0.iter().find(|draw| draw.key == format!("{module}.weight")).unwrap();
        let (rows, columns) = (weight.shape[0], weight.shape[1]);
        let path = if matches!(style, Style::Under) { module.replace('.', "_") } else { module.clone() };
        for (side, name, shape, gain, inputs) in
            [('A', down, [rank, columns], 1.0, columns), ('B', up, [rows, rank], 0.6, rank)]
        {
            let draw = Draw {
                key: format!("{prefix}{path}.{name}.weight"),
                label: format!("{word}{seed}{side}{module}"),
                shape: shape.to_vec(),
                deviation: gain / (inputs as f64).sqrt(),
                mean: 0.0,
            };
            tensors.extend(stored(&draw, &draw.values(seed), precision));
        }
        tensors.extend(alpha.map(|alpha| Stored {
            key: format!("{prefix}{path}.alpha"),
            dtype: Dtype::BF16,
            shape: Vec::new(),
            bytes: bf16::from_f32(alpha).to_le_bytes().to_vec(),
        }));
    }
    tensors
}
