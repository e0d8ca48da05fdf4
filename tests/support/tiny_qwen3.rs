//! A miniature Qwen3-VL in the layout of the real files: three layers of either half, two of them heard early.
//!
//! Every number is a code of eight bits, made from the name of its tensor and its place in it, times a power of two: the
//! same in F32, BF16 and as whole numbers with a scale.
#![allow(clippy::unwrap_used, dead_code, reason = "test code; not every test binary uses all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

pub const WIDTH: usize = 64;
const VOCABULARY: usize = 151_936;
const INNER: usize = 96;
const HEAD: usize = 128;
const VISION: usize = 128;
/// Of a cell's four patches.
const JOINED: usize = 4 * VISION;

/// How a file differs from the one that was recorded.
#[derive(Clone, Copy, Default)]
pub struct Form {
    /// Names as in files that are made for ComfyUI.
    pub short: bool,
    /// Matrices in whole numbers of eight bits with a scale for each row; the vision tower keeps its long name.
    pub eight_bits: bool,
    pub headless: bool,
}

/// The file that was recorded, and a folder that stays for others. Written once by each process.
pub fn whole() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let draft = write(folder, &format!("qwen3-vl-draft-{}", std::process::id()), Form::default());
        let path = folder.join("qwen3_vl_tiny.safetensors");
        std::fs::rename(draft, &path).unwrap();
        path
    })
}

/// Writes a file into `folder`.
pub fn write(folder: &Path, name: &str, form: Form) -> PathBuf {
    let mut stored: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, shape) in tensors() {
        if form.headless && name == "lm_head.weight" {
            continue;
        }
        let mut written = name.clone();
        if form.short {
            written = written.replace("model.language_model.", "model.");
        }
        if form.short && !form.eight_bits {
            written = written.replace("model.visual.", "visual.");
        }
        let of_language = name.contains(".layers.") || name.contains("embed_tokens");
        if form.eight_bits && shape.len() == 2 && of_language {
            let bytes = codes(&name, shape.iter().product()).map(|code| code as i8 as u8).collect();
            let whole = if name.contains("embed_tokens") { TABLE } else { f64::from(divisor(shape[1])) };
            let scale = whole.recip() as f32;
            let layer = written.strip_suffix(".weight").unwrap();
            let scales = (0..shape[0]).flat_map(|_| scale.to_le_bytes()).collect();
            let described = br#"{"format": "int8_tensorwise"}"#.to_vec();
            stored.push((format!("{layer}.weight_scale"), Dtype::F32, vec![shape[0], 1], scales));
            stored.push((format!("{layer}.comfy_quant"), Dtype::U8, vec![described.len()], described));
            stored.push((written, Dtype::I8, shape, bytes));
        } else {
            let values = values(&name, &shape);
            let bytes = values.flat_map(|value| bf16::from_f64(value).to_le_bytes()).collect();
            stored.push((written, Dtype::BF16, shape, bytes));
        }
    }
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let path = folder.join(name);
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

/// Codes of -128 to 127.
fn codes(name: &str, count: usize) -> impl Iterator<Item = i32> {
    let seed = crc32fast::hash(name.as_bytes());
    (0..count as u32).map(move |index| {
        let mut x = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9));
        x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
        x = (x ^ (x >> 15)).wrapping_mul(0x735a_2d97);
        ((x ^ (x >> 15)) >> 24) as i32 - 128
    })
}

/// What the codes of a table are divided by.
const TABLE: f64 = 128.0;

/// What the codes of a matrix with so many inputs are divided by: their deviation is 74.
fn divisor(inputs: usize) -> u32 {
    (0..16)
        .map(|power| 1u32 << power)
        .take_while(|power| (power * power) as usize <= 74 * 74 * inputs)
        .last()
        .unwrap()
}

fn values(name: &str, shape: &[usize]) -> impl Iterator<Item = f64> {
    let table = name.contains("embed_tokens") || name.contains("pos_embed");
    let (norm, bias) = (shape.len() == 1 && name.ends_with(".weight"), shape.len() == 1);
    let divisor = f64::from(divisor(shape[1..].iter().product()));
    codes(name, shape.iter().product()).map(move |code| match code {
        code if norm => f64::from(128 + (code >> 1)) / 128.0,
        code if bias => f64::from(code) / 1024.0,
        code if table => f64::from(code) / TABLE,
        code => f64::from(code) / divisor,
    })
}

/// Names and shapes.
fn tensors() -> BTreeMap<String, Vec<usize>> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        all.insert(name, shape.to_vec());
    };
    let mut with_bias = |name: String, shape: &[usize]| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[..1]);
    };
    with_bias("model.visual.patch_embed.proj".to_owned(), &[VISION, 3, 2, 16, 16]);
    for block in 0..3 {
        let p = format!("model.visual.blocks.{block}");
        for norm in ["norm1", "norm2"] {
            with_bias(format!("{p}.{norm}"), &[VISION]);
        }
        with_bias(format!("{p}.attn.qkv"), &[3 * VISION, VISION]);
        with_bias(format!("{p}.attn.proj"), &[VISION, VISION]);
        with_bias(format!("{p}.mlp.linear_fc1"), &[INNER, VISION]);
        with_bias(format!("{p}.mlp.linear_fc2"), &[VISION, INNER]);
    }
    for (merger, normed) in
        [("merger", VISION), ("deepstack_merger_list.0", JOINED), ("deepstack_merger_list.1", JOINED)]
    {
        let p = format!("model.visual.{merger}");
        with_bias(format!("{p}.norm"), &[normed]);
        with_bias(format!("{p}.linear_fc1"), &[JOINED, JOINED]);
        with_bias(format!("{p}.linear_fc2"), &[WIDTH, JOINED]);
    }
    let mut matrix = |name: String, shape: &[usize]| add(format!("{name}.weight"), shape);
    matrix("model.visual.pos_embed".to_owned(), &[25, VISION]);
    for layer in 0..3 {
        let p = format!("model.language_model.layers.{layer}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            matrix(format!("{p}.{norm}"), &[WIDTH]);
        }
        for norm in ["q_norm", "k_norm"] {
            matrix(format!("{p}.self_attn.{norm}"), &[HEAD]);
        }
        matrix(format!("{p}.self_attn.q_proj"), &[2 * HEAD, WIDTH]);
        matrix(format!("{p}.self_attn.k_proj"), &[HEAD, WIDTH]);
        matrix(format!("{p}.self_attn.v_proj"), &[HEAD, WIDTH]);
        matrix(format!("{p}.self_attn.o_proj"), &[WIDTH, 2 * HEAD]);
        matrix(format!("{p}.mlp.gate_proj"), &[INNER, WIDTH]);
        matrix(format!("{p}.mlp.up_proj"), &[INNER, WIDTH]);
        matrix(format!("{p}.mlp.down_proj"), &[WIDTH, INNER]);
    }
    matrix("model.language_model.norm".to_owned(), &[WIDTH]);
    matrix("model.language_model.embed_tokens".to_owned(), &[VOCABULARY, WIDTH]);
    matrix("lm_head".to_owned(), &[VOCABULARY, WIDTH]);
    all
}
