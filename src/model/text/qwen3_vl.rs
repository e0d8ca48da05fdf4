//! Qwen3-VL (2B, 4B, 8B and larger ones that are no mixture of experts) as Qwen-Image 2.1 reads texts and pictures
//! with it.
//!
//! What neither names nor shapes of tensors tell is as in the published `config.json` and `preprocessor_config.json`
//! of these sizes, which agree in it; `vision` says where they do not.

use std::sync::Arc;

use self::vision::Vision;
use super::qwen_vl::language::Kind;
use super::qwen_vl::picture::{Cut, Grid};
use super::qwen_vl::places::{Places, short};
use super::qwen_vl::prompt::{self, Entry};
use super::qwen_vl::tokenizer::{THINKING, Tokenizer};
use super::qwen_vl::{self, Edition};
use super::{Error, TextFamily};
use crate::model::{Result, TextEncoder, lora};
use crate::weights::Weights;

pub mod template;
mod vision;

/// The family of Qwen3-VL files.
pub struct Qwen3Vl;

pub type Encoder = qwen_vl::Encoder<Qwen3Vl>;

/// How its tower wants pictures.
pub const PICTURES: Cut = Cut { patch: 16, pixels: [65_536, 16_777_216], mean: [0.5; 3], std: [0.5; 3] };

impl TextFamily for Qwen3Vl {
    fn name(&self) -> &'static str {
        "Qwen3-VL"
    }

    /// Qwen3 has the same language model and no vision tower, and the larger mixtures have no single MLP.
    fn claims(&self, weights: &Weights) -> bool {
        let Places { language, vision } = Places::of(weights);
        [
            format!("{language}.layers.0.self_attn.q_norm.weight"),
            format!("{language}.layers.0.mlp.gate_proj.weight"),
            format!("{vision}.deepstack_merger_list.0.norm.weight"),
        ]
        .iter()
        .all(|name| weights.has(name))
    }

    /// These put other words around a prompt, or take the states of several layers.
    fn foreign_types(&self) -> &'static [&'static str] {
        &["krea2", "joyimage", "ideogram4"]
    }

    fn load(&self, weights: Weights) -> Result<Arc<dyn TextEncoder>> {
        Ok(Arc::new(Encoder::load(weights)?))
    }
}

impl Edition for Qwen3Vl {
    type Vision = Vision;

    const LANGUAGE: Kind = Kind {
        theta: 5_000_000.0,
        // 24 pairs turn with time, 20 with height, 20 with width: these three in turn, and time alone at the end.
        axis: |pair| if pair < 60 { pair % 3 } else { 0 },
        normed: true,
    };

    const FURTHER_TOKENS: &'static [&'static str] = THINKING;

    /// Qwen-Image 2.1 reads the states after the last layer as they are.
    const EARLY: Option<usize> = Some(1);

    /// ComfyUI keeps to the template of Qwen-Image 2.1.
    const SYSTEM: &'static str = template::TASK;

    const UNTHOUGHT: &'static str = "<think>\n\n</think>\n\n";

    /// That of the 4B model; 8B has a matrix of its own.
    const WIDEST_TIED: usize = 2_560;

    /// Trainers spell modules as the model's makers do, or as ComfyUI does.
    const LORA: lora::Names = lora::Names {
        spellings: |tensor| {
            let Some(module) = tensor.strip_suffix(".weight") else { return Vec::new() };
            let short = short(module);
            vec![format!("text_encoder.{module}"), format!("text_encoders.qwen3vl_8b.transformer.{short}")]
        },
        place: "qwen3vl_8b.transformer.",
    };

    fn picture(number: usize) -> String {
        template::picture(number)
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
        prompt::rows(&entries[..template::first_kept(entries)], grids)
    }
}
