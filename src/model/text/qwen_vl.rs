//! The vision-language models of Qwen as text encoders: what their editions do alike.
//!
//! The two steps of [`Encoder`] are public: [`Encoder::read`] turns a prompt into rows,
//! [`Encoder::understand`] runs the language model over them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use self::language::{Kind, Language, Rows};
use self::picture::{Cut, Grid};
use self::places::Places;
use self::positions::{Span, positions};
use self::prompt::{Entry, rows};
use self::tokenizer::{PAD, Tokenizer};
use super::Error;
use super::generation::{Choosing, Question, Written};
use crate::device::residency::Use;
use crate::model::card::Card;
use crate::model::estimate::{self, Estimate, TextEstimate, Work};
use crate::model::memo::Memo;
use crate::model::{EncodedText, Result, TextEncoder, TextPrompt, lora};
use crate::stop::Stop;
use crate::weights::{Dtype, Patches, Resident, Row, Weights};

mod generation;
pub(super) mod language;
pub(super) mod mlp;
pub(super) mod on_card;
pub mod picture;
pub(super) mod places;
mod positions;
pub mod prompt;
pub(super) mod rotary;
pub mod tokenizer;

/// What sets an edition of the model apart.
pub trait Edition: Send + Sync + 'static {
    type Vision: Tower;

    const LANGUAGE: Kind;

    /// Its tokens after [`tokenizer::ADDED`].
    const FURTHER_TOKENS: &'static [&'static str];

    /// The layer it ends at, counted from the end, unless another one is asked for; without one it goes on to the
    /// final norm.
    const EARLY: Option<usize>;

    const LORA: lora::Names;

    /// What the model is told about its part in a conversation, if nothing else is.
    const SYSTEM: &'static str;

    /// How an answer begins that is not thought over; empty for models that do not think.
    const UNTHOUGHT: &'static str;

    /// The widest size whose embeddings score words too, so that its files lack `lm_head.weight`.
    const WIDEST_TIED: usize;

    /// How the `number`th picture of a conversation is introduced; the first is 1.
    fn picture(number: usize) -> String;

    /// The entries of a text with so many pictures, in a template or in the edition's own.
    fn entries(
        tokenizer: &Tokenizer,
        text: &str,
        template: Option<&str>,
        images: usize,
    ) -> Result<Vec<Entry>, Error>;

    /// The first row that belongs to the user's prompt rather than to the template. `grids`: the sizes of the pictures.
    fn first_kept(entries: &[Entry], grids: &[Grid]) -> usize;
}

/// What looks at pictures: blocks over patches, and what joins the patches of a cell to a token.
pub trait Tower: Sized + Send + Sync {
    /// How it wants its pictures.
    const CUT: &'static Cut;

    /// The tensors around its blocks.
    const AROUND: &'static [&'static str];

    /// Reads the tower at `weights`; its tokens are `outputs` wide.
    fn load(weights: &Weights, outputs: usize) -> Result<Self>;

    /// The same tower on a card, if that is possible. `parts`: of what is around the layers, and of the first block.
    fn on_card(self, card: &Card, resident: &Resident, parts: [usize; 2]) -> Result<Self>;

    fn blocks(&self) -> usize;

    /// The block whose weights those of a tensor that is in no block are used with, if there is one.
    fn block_of(&self, _tensor: &str) -> Option<usize> {
        None
    }

    /// What each of [`Tower::parts`] costs.
    fn work(&self, grid: Grid) -> Vec<Work>;

    /// Memory that a picture takes, about, besides the weights.
    fn working_bytes(&self, grid: Grid) -> u64;

    /// `patches`: (4 * cells, [`Cut::row`]), cells in raster order. `weights`: as [`Tower::parts`] counts them.
    fn forward(&self, patches: &Tensor, grid: Grid, weights: Row<'_, '_>, stop: &Stop) -> Result<Seen>;

    /// Its parts in memory: the blocks, and what joins their patches.
    fn parts(&self) -> usize {
        self.blocks() + 1
    }
}

/// What a tower makes of a picture.
#[derive(Clone)]
pub struct Seen {
    /// (cells, outputs)
    pub tokens: Tensor,
    /// What the language model adds to its states after each of its first layers, alike.
    pub deep: Vec<Tensor>,
}

impl From<Tensor> for Seen {
    fn from(tokens: Tensor) -> Self {
        Self { tokens, deep: Vec::new() }
    }
}

/// A tokenizer, a vision tower and a language model.
pub struct Encoder<E: Edition> {
    tokenizer: Tokenizer,
    /// Files without pictures in mind lack it.
    vision: Option<E::Vision>,
    language: Language,
    /// The layer it ends at, counted from the end, where it does not go on to the final norm.
    early: Option<usize>,
    /// Where it was loaded from, to load it again with a change.
    weights: Weights,
    places: Places,
    /// The graphics card that computes what it can.
    card: Option<Card>,
    resident: Resident,
    looked: Memo<(Seen, Grid)>,
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
    /// Where its pictures lie, and what is added to their rows after each of the first layers.
    pub pictures: Vec<(Range<usize>, Vec<Tensor>)>,
    /// Whether other rows may look at a row.
    pub counted: Vec<bool>,
    /// The first row that belongs to the user's prompt rather than to the template.
    pub first_kept: usize,
}

impl<E: Edition> Encoder<E> {
    pub fn load(weights: Weights) -> Result<Self> {
        Self::changed(weights, E::EARLY, None)
    }

    fn changed(weights: Weights, early: Option<usize>, card: Option<&Card>) -> Result<Self> {
        weights.build(|weights| {
            let places = Places::of(weights);
            let language = Language::load(&weights.at(places.language), E::LANGUAGE)?;
            let tower = weights.at(places.vision);
            let seeing = tower.has("patch_embed.proj.weight");
            let vision = seeing.then(|| E::Vision::load(&tower, language.width())).transpose()?;
            let resident = resident(weights, &places, vision.as_ref(), language.layers());
            let blocks = vision.as_ref().map_or(0, Tower::parts);
            let (vision, language) = match card {
                Some(card) => (
                    vision.map(|vision| vision.on_card(card, &resident, [ENDS, BLOCKS])).transpose()?,
                    language.on_card(card, &resident, BLOCKS + blocks)?,
                ),
                None => (vision, language),
            };
            Ok(Self {
                tokenizer: Tokenizer::new(E::FURTHER_TOKENS)?,
                vision,
                language,
                early,
                weights: weights.clone(),
                places,
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
        BLOCKS + self.vision.as_ref().map_or(0, Tower::parts)
    }

    fn entries(&self, prompt: &TextPrompt) -> Result<Vec<Entry>, Error> {
        E::entries(&self.tokenizer, &prompt.text, prompt.template, prompt.images.len())
    }

    /// Tokenises the prompt, looks up its embeddings and puts the tokens of its pictures between them.
    pub fn read(&self, prompt: &TextPrompt, stop: &Stop) -> Result<Reading> {
        let entries = self.entries(prompt)?;
        let (mut embeds, mut counted) = (Vec::new(), Vec::new());
        let (mut spans, mut pictures) = (Vec::new(), Vec::new());
        let mut padding = false;
        for run in entries.chunk_by(|a, b| matches!((a, b), (Entry::Token(_), Entry::Token(_)))) {
            if let [Entry::Image(index)] = run {
                let (Seen { tokens, deep }, grid) = self.look(&prompt.images[*index], stop)?;
                let span = Span { start: counted.len(), grid };
                pictures.push((span.rows(), deep));
                spans.push(span);
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
        let grids: Vec<Grid> = spans.iter().map(|span| span.grid).collect();
        Ok(Reading {
            embeds: Tensor::cat(&embeds, 0)?.unsqueeze(0)?,
            positions: positions(counted.len(), &spans),
            pictures,
            first_kept: E::first_kept(&entries, &grids),
            counted,
        })
    }

    /// The states of all rows after the last layer: (1, rows, width).
    pub fn understand(&self, reading: &Reading, stop: &Stop) -> Result<Tensor> {
        let stay = self.resident.visit(self.language.working_bytes(reading.counted.len()))?;
        let _ends = stay.part(ENDS)?;
        let Reading { embeds, positions, counted, pictures, .. } = reading;
        let rows = Rows { embeds, positions, counted, deep: pictures };
        self.language.forward(&rows, self.early, None, stay.from(self.layers()), stop)
    }

    /// What the tower makes of a picture, and its size in cells. `image`: (1, h, w, 3), 0..1.
    pub fn look(&self, image: &Tensor, stop: &Stop) -> Result<(Seen, Grid)> {
        let vision = self.vision.as_ref().ok_or(Error::Blind)?;
        self.looked.get_or(image, "", || {
            let (patches, grid) = E::Vision::CUT.patches(image)?;
            let stay = self.resident.visit(vision.working_bytes(grid))?;
            let _ends = stay.part(ENDS)?;
            Ok((vision.forward(&patches, grid, stay.from(BLOCKS), stop)?, grid))
        })
    }
}

fn resident<T: Tower>(weights: &Weights, places: &Places, vision: Option<&T>, layers: usize) -> Resident {
    let blocks = vision.map_or(0, Tower::parts);
    let joining = blocks.saturating_sub(1);
    let blocks_named = (0..blocks).map(|index| match index {
        _ if index == joining => "the end of the vision tower".to_owned(),
        _ => format!("vision block {index}"),
    });
    let ends = std::iter::once("what is around the layers".to_owned());
    let names = ends.chain(blocks_named).chain((0..layers).map(|index| format!("layer {index}"))).collect();
    let number = |inside: &str| inside.split('.').next()?.parse::<usize>().ok();
    let seen = |inside: &str| {
        if let Some(inside) = inside.strip_prefix("blocks.") {
            Some(BLOCKS + number(inside)?)
        } else if inside.starts_with("merger.") {
            Some(BLOCKS + joining)
        } else if let Some(block) = vision.and_then(|vision| vision.block_of(inside)) {
            Some(BLOCKS + block)
        } else {
            T::AROUND.contains(&inside).then_some(ENDS)
        }
    };
    weights.resident("the text encoder", names, BLOCKS, Use::Seldom, |tensor| {
        if let Some(inside) = places.in_vision(tensor) {
            seen(inside)
        } else if let Some(inside) = places.in_language(tensor)?.strip_prefix("layers.") {
            Some(BLOCKS + blocks + number(inside)?)
        } else {
            (places.in_language(tensor) == Some("norm.weight")).then_some(ENDS)
        }
    })
}

impl<E: Edition> TextEncoder for Encoder<E> {
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
        let pictures = reading.pictures.iter().filter_map(|(rows, _)| kept(rows)).collect();
        Ok(EncodedText { hidden, pictures, attention_mask, pooled: None })
    }

    fn generate(
        &self,
        question: &Question,
        how: &Choosing,
        stop: &Stop,
        told: &mut dyn FnMut(usize),
    ) -> Result<Written> {
        self.answer(question, how, stop, told)
    }

    fn estimate(&self, prompt: &TextPrompt) -> Result<TextEstimate> {
        let network = self.resident.network();
        let estimate = |kind, working_bytes, first: usize, works: Vec<Work>| {
            let parts = works.into_iter().enumerate().map(|(index, work)| (first + index, work)).collect();
            Estimate { kind, network: network.clone(), working_bytes, parts }.using_weights(1)
        };
        let entries = self.entries(prompt)?;
        let grids = prompt.images.iter().map(|image| Ok(E::Vision::CUT.grid(image.dim(1)?, image.dim(2)?)));
        let grids = grids.collect::<Result<Vec<_>>>()?;
        let rows = rows(&entries, &grids);
        let looks = grids.iter().map(|grid| {
            let vision = self.vision.as_ref().ok_or(Error::Blind)?;
            Ok(estimate(estimate::Kind::Look, vision.working_bytes(*grid), BLOCKS, vision.work(*grid)))
        });
        Ok(TextEstimate {
            looks: looks.collect::<Result<_>>()?,
            reading: estimate(
                estimate::Kind::Read,
                self.language.working_bytes(rows),
                self.layers(),
                self.language.work(rows, self.early),
            ),
            shape: [rows - E::first_kept(&entries, &grids), self.language.width()],
        })
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn lora_names(&self) -> lora::Names {
        E::LORA
    }

    fn held_in(&self) -> Option<Dtype> {
        let norm = format!("{}.norm.weight", self.places.language);
        self.weights.header().dtype(&self.weights.full_name(&norm))
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
