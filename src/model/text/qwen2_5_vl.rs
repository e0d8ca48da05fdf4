//! Qwen2.5-VL 7B as Qwen-Image reads texts and pictures with it.

use std::sync::Arc;

use self::vision::Vision;
use super::qwen_vl::language::Kind;
use super::qwen_vl::picture::{Cut, Grid};
use super::qwen_vl::prompt::{Entry, rows};
use super::qwen_vl::tokenizer::Tokenizer;
use super::qwen_vl::{self, Edition};
use super::{Error, TextFamily};
use crate::model::{Result, TextEncoder, lora};
use crate::weights::Weights;

pub mod template;
mod vision;

/// The family of Qwen2.5-VL 7B files.
pub struct Qwen2_5Vl;

pub type Encoder = qwen_vl::Encoder<Qwen2_5Vl>;

/// Present in every such file, and 512 = 4 heads of 128 in this size of the model only.
const MARK: (&str, &[usize]) = ("model.layers.0.self_attn.k_proj.bias", &[512]);

/// How its tower wants pictures.
pub const PICTURES: Cut = Cut {
    patch: 14,
    pixels: [3_136, 12_845_056],
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

impl TextFamily for Qwen2_5Vl {
    fn name(&self) -> &'static str {
        "Qwen2.5-VL 7B"
    }

    fn claims(&self, weights: &Weights) -> bool {
        weights.shape(MARK.0) == Some(MARK.1)
    }

    /// HunyuanImage drops another template and adds the states of a second encoder.
    fn foreign_types(&self) -> &'static [&'static str] {
        &["hunyuan_image"]
    }

    fn load(&self, weights: Weights) -> Result<Arc<dyn TextEncoder>> {
        Ok(Arc::new(Encoder::load(weights)?))
    }
}

impl Edition for Qwen2_5Vl {
    type Vision = Vision;

    const LANGUAGE: Kind = Kind {
        theta: 1_000_000.0,
        // 16 pairs turn with time, 24 with height, 24 with width.
        axis: |pair| match pair {
            ..16 => 0,
            16..40 => 1,
            40.. => 2,
        },
        normed: false,
    };

    const FURTHER_TOKENS: &'static [&'static str] = &[];

    const EARLY: Option<usize> = None;

    const SYSTEM: &'static str = "You are a helpful assistant.";

    const UNTHOUGHT: &'static str = "";

    /// That of the 3B model; 7B has a matrix of its own.
    const WIDEST_TIED: usize = 2_048;

    const LORA: lora::Names = lora::Names {
        spellings: |tensor| {
            let module = tensor.strip_suffix(".weight");
            let spelled = module.map(|module| format!("text_encoders.qwen25_7b.transformer.{module}"));
            spelled.into_iter().collect()
        },
        place: "qwen25_7b.transformer.",
    };

    fn picture(_number: usize) -> String {
        "<|vision_start|><|image_pad|><|vision_end|>".to_owned()
    }

    fn entries(
        tokenizer: &Tokenizer,
        text: &str,
        template: Option<&str>,
        images: usize,
    ) -> Result<Vec<Entry>, Error> {
        template::entries(tokenizer, text, template, images)
    }

    fn first_kept(entries: &[Entry], grids: &[Grid]) -> usize {
        template::first_kept(entries, rows(entries, grids))
    }
}
