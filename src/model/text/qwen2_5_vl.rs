//! Qwen2.5-VL 7B as Qwen-Image reads texts and pictures with it.
//!
//! The two steps of [`Encoder`] are public: [`Encoder::read`] turns a prompt into rows,
//! [`Encoder::understand`] runs the language model over them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use self::language::Language;
use self::patches::{Grid, patches};
use self::positions::{Span, positions};
use self::template::{Entry, entries, first_kept};
use self::tokenizer::{PAD, Tokenizer};
use self::vision::Vision;
use super::{Error, TextFamily};
use crate::device::residency::Use;
use crate::model::card::Card;
use crate::model::estimate::{Estimate, Kind, TextEstimate, Work};
use crate::model::memo::Memo;
use crate::model::{EncodedText, Result, TextEncoder, TextPrompt, lora};
use crate::stop::Stop;
use crate::weights::{Dtype, Patches, Resident, Weights};

mod language;
mod mlp;
mod on_card;
pub mod patches;
mod positions;
mod rotary;
pub mod template;
pub mod tokenizer;
mod vision;

/// The family of Qwen2.5-VL 7B files.
pub struct Qwen2_5Vl;

/// Present in every such file, and 512 = 4 heads of 128 in this size of the model only.
const MARK: (&str, &[usize]) = ("model.layers.0.self_attn.k_proj.bias", &[512]);

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

/// A tokenizer, a vision tower and a language model.
pub struct Encoder {
    tokenizer: Tokenizer,
    /// Files without pictures in mind lack it.
    vision: Option<Vision>,
    language: Language,
    /// The layer it ends at, counted from the end, where it does not go on to the final norm.
    early: Option<usize>,
    /// Where it was loaded from, to load it again with a change.
    weights: Weights,
    /// The graphics card that computes what it can.
    card: Option<Card>,
    resident: Resident,
    looked: Memo<(Tensor, Grid)>,
}

/// Its parts in memory: what is around the layers, the blocks of the vision tower with what joins their patches, and
/// the layers of the language model. Rows of embeddings are looked up one by one and stay in the file.
const ENDS: usize = 0;
const BLOCKS: usize = 1;

/// A prompt as the language model sees it.
pub struct Reading {
    /// (1, rows, width)
    pub embeds: Tensor,
    /// Each row's place on the axes time, height and width.
    pub positions: [Vec<f32>; 3],
    /// Where its pictures lie.
    pub pictures: Vec<Range<usize>>,
    /// Whether other rows may look at a row.
    pub counted: Vec<bool>,
    /// The first row that belongs to the user's prompt rather than to the template.
    pub first_kept: usize,
}

impl Encoder {
    pub fn load(weights: Weights) -> Result<Self> {
        Self::changed(weights, None, None)
    }

    fn changed(weights: Weights, early: Option<usize>, card: Option<&Card>) -> Result<Self> {
        weights.build(|weights| {
            let language = Language::load(&weights.at("model"))?;
            let seeing = weights.has("visual.patch_embed.proj.weight");
            let vision = seeing.then(|| Vision::load(&weights.at("visual"), language.width())).transpose()?;
            let blocks = vision.as_ref().map_or(0, Vision::parts);
            let resident = resident(weights, blocks, language.layers());
            let (vision, language) = match card {
                Some(card) => (
                    vision.map(|vision| vision.on_card(card, &resident, [ENDS, BLOCKS])).transpose()?,
                    language.on_card(card, &resident, BLOCKS + blocks)?,
                ),
                None => (vision, language),
            };
            Ok(Self {
                tokenizer: Tokenizer::new()?,
                vision,
                language,
                early,
                weights: weights.clone(),
                card: card.cloned(),
                resident,
                looked: Memo::default(),
            })
        })
    }

    /// The same encoder with a card that computes what it can.
    pub fn with_card(&self, card: &Card) -> Result<Self> {
        Self::changed(self.weights.clone(), self.early, Some(card))
    }

    /// The part of the first layer of the language model.
    fn layers(&self) -> usize {
        BLOCKS + self.vision.as_ref().map_or(0, Vision::parts)
    }

    /// Tokenises the prompt, looks up its embeddings and puts the tokens of its pictures between them.
    pub fn read(&self, prompt: &TextPrompt, stop: &Stop) -> Result<Reading> {
        let entries = entries(&self.tokenizer, &prompt.text, prompt.template, prompt.images.len())?;
        let (mut embeds, mut pictures, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        let mut padding = false;
        for run in entries.chunk_by(|a, b| matches!((a, b), (Entry::Token(_), Entry::Token(_)))) {
            if let [Entry::Image(index)] = run {
                let (tokens, grid) = self.look(&prompt.images[*index], stop)?;
                pictures.push(Span { start: counted.len(), grid });
                counted.resize(counted.len() + grid.cells(), true);
                embeds.push(tokens);
            } else {
                let ids: Vec<u32> = run.iter().filter_map(|entry| entry.token()).collect();
                counted.extend(ids.iter().map(|id| {
                    padding |= *id == PAD;
                    !padding
                }));
                embeds.push(self.language.embed(&ids)?);
            }
        }
        Ok(Reading {
            embeds: Tensor::cat(&embeds, 0)?.unsqueeze(0)?,
            positions: positions(counted.len(), &pictures),
            pictures: pictures.iter().map(Span::rows).collect(),
            first_kept: first_kept(&entries, counted.len()),
            counted,
        })
    }

    /// The states of all rows after the last layer: (1, rows, width).
    pub fn understand(&self, reading: &Reading, stop: &Stop) -> Result<Tensor> {
        let stay = self.resident.visit(self.language.working_bytes(reading.counted.len()))?;
        let _ends = stay.part(ENDS)?;
        let Reading { embeds, positions, counted, .. } = reading;
        self.language.forward(embeds, (positions, counted), self.early, stay.from(self.layers()), stop)
    }

    /// A picture's tokens, (cells, width), and its size in cells. `image`: (1, h, w, 3), 0..1.
    pub fn look(&self, image: &Tensor, stop: &Stop) -> Result<(Tensor, Grid)> {
        let vision = self.vision.as_ref().ok_or(Error::Blind)?;
        self.looked.get_or(image, "", || {
            let (patches, grid) = patches(image)?;
            let stay = self.resident.visit(vision.working_bytes(grid))?;
            let _ends = stay.part(ENDS)?;
            Ok((vision.forward(&patches, grid, stay.from(BLOCKS), stop)?, grid))
        })
    }
}

fn resident(weights: &Weights, blocks: usize, layers: usize) -> Resident {
    let joining = blocks.saturating_sub(1);
    let blocks_named = (0..blocks).map(|index| match index {
        _ if index == joining => "the end of the vision tower".to_owned(),
        _ => format!("vision block {index}"),
    });
    let ends = std::iter::once("what is around the layers".to_owned());
    let names = ends.chain(blocks_named).chain((0..layers).map(|index| format!("layer {index}"))).collect();
    let number = |inside: &str| inside.split('.').next()?.parse::<usize>().ok();
    weights.resident("the text encoder", names, BLOCKS, Use::Seldom, |tensor| {
        if let Some(inside) = tensor.strip_prefix("visual.blocks.") {
            Some(BLOCKS + number(inside)?)
        } else if tensor.starts_with("visual.merger.") {
            Some(BLOCKS + joining)
        } else if let Some(inside) = tensor.strip_prefix("model.layers.") {
            Some(BLOCKS + blocks + number(inside)?)
        } else {
            matches!(tensor, "model.norm.weight" | "visual.patch_embed.proj.weight").then_some(ENDS)
        }
    })
}

impl TextEncoder for Encoder {
    fn encode(&self, prompt: &TextPrompt, stop: &Stop) -> Result<EncodedText> {
        let reading = self.read(prompt, stop)?;
        let hidden = self.understand(&reading, stop)?;
        let counted = &reading.counted[reading.first_kept..];
        let mask: Vec<i64> = counted.iter().map(|counted| i64::from(*counted)).collect();
        let attention_mask =
            mask.contains(&0).then(|| Tensor::new(vec![mask], hidden.device())).transpose()?;
        let hidden = hidden.narrow(1, reading.first_kept, counted.len())?;
        let kept = |rows: &Range<usize>| {
            let first = rows.start.checked_sub(reading.first_kept)?;
            Some(first..first + rows.len())
        };
        let pictures = reading.pictures.iter().filter_map(kept).collect();
        Ok(EncodedText { hidden, pictures, attention_mask, pooled: None })
    }

    fn estimate(&self, prompt: &TextPrompt) -> Result<TextEstimate> {
        let network = self.resident.network();
        let estimate = |kind, working_bytes, first: usize, works: Vec<Work>| {
            let parts = works.into_iter().enumerate().map(|(index, work)| (first + index, work)).collect();
            Estimate { kind, network: network.clone(), working_bytes, parts }.using_weights(1)
        };
        let entries = entries(&self.tokenizer, &prompt.text, prompt.template, prompt.images.len())?;
        let grids = prompt.images.iter().map(|image| Ok(patches::grid(image.dim(1)?, image.dim(2)?)));
        let grids = grids.collect::<Result<Vec<_>>>()?;
        let rows = entries.iter().map(|entry| match entry {
            Entry::Image(index) => grids[*index].cells(),
            Entry::Token(_) => 1,
        });
        let rows: usize = rows.sum();
        let looks = grids.iter().map(|grid| {
            let vision = self.vision.as_ref().ok_or(Error::Blind)?;
            Ok(estimate(Kind::Look, vision.working_bytes(*grid), BLOCKS, vision.work(*grid)))
        });
        Ok(TextEstimate {
            looks: looks.collect::<Result<_>>()?,
            reading: estimate(
                Kind::Read,
                self.language.working_bytes(rows),
                self.layers(),
                self.language.work(rows, self.early),
            ),
            shape: [rows - first_kept(&entries, rows), self.language.width()],
        })
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn lora_names(&self) -> lora::Names {
        lora::Names {
            spellings: |tensor| {
                let module = tensor.strip_suffix(".weight");
                let spelled = module.map(|module| format!("text_encoders.qwen25_7b.transformer.{module}"));
                spelled.into_iter().collect()
            },
            place: "qwen25_7b.transformer.",
        }
    }

    fn held_in(&self) -> Option<Dtype> {
        self.weights.header().dtype(&self.weights.full_name("model.norm.weight"))
    }

    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn TextEncoder>> {
        Ok(Arc::new(Self::changed(self.weights.clone().patched(patches), self.early, self.card.as_ref())?))
    }

    fn ending_at(&self, layer: usize) -> Result<Arc<dyn TextEncoder>> {
        Ok(Arc::new(Self::changed(self.weights.clone(), Some(layer), self.card.as_ref())?))
    }

    fn on_card(&self, card: &Card) -> Result<Arc<dyn TextEncoder>> {
        Ok(Arc::new(self.with_card(card)?))
    }
}
