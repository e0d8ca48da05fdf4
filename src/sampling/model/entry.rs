//! Entries of a conditioning: where and when each of them counts, and their weighted average.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Model;
use super::hooked::Timeline;
use super::windows::{Blending, Windows};
use crate::model::control::{Control, Steering};
use crate::model::lora::Lora;
use crate::model::notes::Notes;
use crate::model::{Cond, ReferenceMethod};
use crate::sampling::hook::Hooks;
use crate::sampling::latent::with_frames;
use crate::sampling::{Error, Result, mask};

/// One entry of a CONDITIONING.
#[derive(Clone, Debug)]
pub struct Entry {
    /// (1, tokens, width), f32.
    pub text: Tensor,
    /// The rows of `text` that each picture its encoder saw lies in, in their order.
    pub pictures: Vec<Range<usize>>,
    /// (1, width), for models that use one.
    pub pooled: Option<Tensor>,
    /// Reference latents as the VAE gives them, not normalised: (1, channels, \[frames,\] h, w).
    pub references: Vec<Tensor>,
    /// The model's own way unless it is said.
    pub reference_method: Option<ReferenceMethod>,
    /// Its weight beside the other entries.
    pub strength: f64,
    /// The part of the run it counts in, 0 to 1 from noise to picture. It counts at every sigma unless it is
    /// said, at those above 1 too, which are in no part.
    pub span: Option<[f64; 2]>,
    /// The part of the run its text was encoded for, likewise; it counts where both do.
    pub text_span: Option<[f64; 2]>,
    /// The part of the picture it sees.
    pub area: Option<Area>,
    /// How much it counts at each place, (frames, h, w) of any size, and a factor to that.
    pub mask: Option<(Tensor, f64)>,
    /// Whether it sees only the rectangle around its mask.
    pub mask_bounds: bool,
    /// What steers it, in the order it was added.
    pub controls: Vec<Controlled>,
    /// What changes the network for it.
    pub hooks: Hooks,
    /// Whether it counts just as much as the other entries of its side leave open, whatever its own weights.
    pub fills: bool,
}

/// A control in an entry.
#[derive(Clone)]
pub struct Controlled {
    pub control: Arc<Control>,
    /// The part of the run it counts in, 0 to 1 from noise to picture.
    pub start: f64,
    pub end: f64,
    /// Whether it steers the other sides too, where nothing else does.
    pub all_sides: bool,
}

impl fmt::Debug for Controlled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a control from {} to {}", self.start, self.end)
    }
}

impl Entry {
    pub fn new(text: Tensor) -> Self {
        Self {
            text,
            pictures: Vec::new(),
            pooled: None,
            references: Vec::new(),
            reference_method: None,
            strength: 1.0,
            span: None,
            text_span: None,
            area: None,
            mask: None,
            mask_bounds: false,
            controls: Vec::new(),
            hooks: Hooks::default(),
            fills: false,
        }
    }
}

/// A rectangle of the latent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Area {
    /// In cells.
    Cells(Rectangle<usize>),
    /// In shares of the whole.
    Shares(Rectangle<f64>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rectangle<T> {
    pub y: T,
    pub x: T,
    pub height: T,
    pub width: T,
}

impl Area {
    /// In cells of an (h, w) latent, cut at its edges. Nothing if it begins where the latent ends.
    fn cells(self, h: usize, w: usize) -> Result<Option<Rectangle<usize>>> {
        let Rectangle { y, x, height, width } = match self {
            Self::Cells(cells) => cells,
            Self::Shares(share) => {
                let part = |share: f64, whole: usize| (share * whole as f64).round_ties_even() as usize;
                Rectangle {
                    y: part(share.y, h),
                    x: part(share.x, w),
                    height: part(share.height, h).max(1),
                    width: part(share.width, w).max(1),
                }
            }
        };
        if y > h || x > w {
            return Err(Error::AreaOutside { start: [x, y], latent: [w, h] });
        }
        let area = Rectangle { y, x, height: height.min(h - y), width: width.min(w - x) };
        Ok(Some(area).filter(|area| area.height > 0 && area.width > 0))
    }
}

impl Rectangle<usize> {
    fn lies_inside(&self, other: &Self) -> bool {
        self.y >= other.y
            && self.x >= other.x
            && self.y + self.height <= other.y + other.height
            && self.x + self.width <= other.x + other.width
    }

    fn cut(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.narrow(3, self.y, self.height)?.narrow(4, self.x, self.width)?.contiguous()?)
    }

    /// A tensor of the rectangle, with zeros around it up to (h, w).
    fn surround(&self, x: &Tensor, h: usize, w: usize) -> Result<Tensor> {
        let tall = x.pad_with_zeros(3, self.y, h - self.y - self.height)?;
        Ok(tall.pad_with_zeros(4, self.x, w - self.x - self.width)?)
    }
}

/// The entries of all sides, made ready for one run.
pub struct Prompts {
    sides: Vec<Vec<Ready>>,
    timeline: Timeline,
    windows: Option<Windows>,
    sigmas: Vec<f32>,
}

/// One entry at the size and on the device of the latent.
#[derive(Clone)]
struct Ready {
    cond: Cond,
    /// The sigmas between which it counts, the larger first.
    span: Option<[f64; 2]>,
    area: Option<Rectangle<usize>>,
    /// How much it counts at each place of its area: (1, 1, 1, h, w).
    weight: Tensor,
    /// Whether it counts everywhere, and the same everywhere.
    even: bool,
    /// Whether its controls steer the other sides too.
    shares_controls: bool,
    hooks: Hooks,
    /// See [`Entry::fills`].
    fills: bool,
}

/// An entry that counts at the moment.
struct Counting<'a> {
    side: usize,
    entry: &'a Ready,
    weight: Tensor,
}

/// Entries that one network answers for one area, and what hooks add to that network.
struct Call<'a> {
    area: Option<Rectangle<usize>>,
    loras: Vec<Lora>,
    entries: Vec<&'a Counting<'a>>,
}

/// Gives a velocity for each of some conditions, by the network with such LoRAs.
pub type Ask<'a> = dyn FnMut(&Tensor, &[&Cond], &[Lora]) -> Result<Vec<Tensor>> + 'a;

impl Prompts {
    /// For latents of shape (batch, channels, frames, h, w), in a run over `sigmas`.
    pub fn new(
        model: &Model,
        sides: &[&[Entry]],
        shape: &[usize],
        device: &Device,
        sigmas: &[f32],
    ) -> Result<Self> {
        let size = [shape[3], shape[4]];
        let ready = |entry: &Entry| Ready::new(entry, model, size, device).transpose();
        let ready = |entries: &&[Entry]| entries.iter().filter_map(ready).collect::<Result<Vec<_>>>();
        let mut sides = sides.iter().map(ready).collect::<Result<Vec<_>>>()?;
        for side in 0..sides.len() {
            for other in (0..sides.len()).filter(|other| *other != side) {
                let entries = sides[side].clone();
                mirror_areas(&entries, &mut sides[other]);
            }
        }
        if let [positive, others @ ..] = sides.as_mut_slice() {
            for other in others {
                share_controls(positive, other);
            }
        }
        let hooks = sides.iter().flatten().map(|entry| &entry.hooks);
        let largest = sigmas.iter().copied().fold(f32::MIN, f32::max);
        let timeline = Timeline::new(hooks, model.flow(), largest);
        Ok(Self { sides, timeline, windows: model.windows, sigmas: sigmas.to_vec() })
    }

    /// How many sides there are.
    pub fn sides(&self) -> usize {
        self.sides.len()
    }

    /// The clean estimates of some sides, each the weighted mean of its entries; of several windows where there are some
    /// and the latent is longer than one.
    pub fn estimate(
        &mut self,
        x: &Tensor,
        sigma: f64,
        sides: &[usize],
        ask: &mut Ask<'_>,
    ) -> Result<Vec<Tensor>> {
        let step = self.step(sigma);
        let Self { sides: all, timeline, windows, .. } = self;
        let Some(windows) = windows else { return estimate(all, timeline, x, sigma, sides, ask) };
        let (axis, count) = (windows.axis, x.dim(windows.axis)?);
        if count <= windows.length {
            return estimate(all, timeline, x, sigma, sides, ask);
        }
        let blendings = sides.iter().map(|_| Blending::new(x, axis));
        let mut blendings: Vec<Blending> = blendings.collect::<Result<_>>()?;
        for window in windows.places(count, step) {
            let weights = windows.weights(&window, count);
            let places: Vec<u32> = window.into_iter().map(|place| place as u32).collect();
            let index = Tensor::new(places, x.device())?;
            let part = x.index_select(&index, axis)?;
            let (h, w) = (x.dim(3)?, x.dim(4)?);
            let entry = |entry: &Ready| entry.seen_through(&index, axis, h, w);
            let entries = |side: &Vec<Ready>| side.iter().map(entry).collect::<Result<Vec<_>>>();
            let entries = all.iter().map(entries).collect::<Result<Vec<_>>>()?;
            let estimates = estimate(&entries, timeline, &part, sigma, sides, ask)?;
            for (blending, estimate) in blendings.iter_mut().zip(&estimates) {
                blending.add(&index, estimate, &weights)?;
            }
        }
        blendings.into_iter().map(Blending::mean).collect()
    }

    /// Which step of the run has this sigma, or comes before it.
    fn step(&self, sigma: f64) -> usize {
        const NEAR: f64 = 1e-4;
        let reached = |known: &f32| f64::from(*known) <= sigma * (1.0 + NEAR);
        let step = self.sigmas.iter().position(reached).unwrap_or(0);
        match self.sigmas.get(step) {
            Some(known) if f64::from(*known) < sigma * (1.0 - NEAR) => step.saturating_sub(1),
            _ => step,
        }
    }
}

/// The clean estimates of some sides. Entries that see the same part of the picture with the same network are one call of
/// `ask`.
fn estimate(
    all: &[Vec<Ready>],
    timeline: &mut Timeline,
    x: &Tensor,
    sigma: f64,
    sides: &[usize],
    ask: &mut Ask<'_>,
) -> Result<Vec<Tensor>> {
    let mut counting = Vec::new();
    for (side, index) in sides.iter().enumerate() {
        counting.extend(counting_at(sigma, &all[*index], side, x)?);
    }
    for counted in &counting {
        timeline.advance(&counted.entry.hooks, sigma);
    }
    let mut answers: Vec<Vec<(&Counting<'_>, Tensor)>> = sides.iter().map(|_| Vec::new()).collect();
    for Call { area, loras, entries } in calls(&counting, timeline) {
        let part = area.map_or_else(|| Ok(x.clone()), |area| area.cut(x))?;
        let conds: Vec<&Cond> = entries.iter().map(|counted| &counted.entry.cond).collect();
        for (counted, velocity) in entries.into_iter().zip(ask(&part, &conds, &loras)?) {
            answers[counted.side].push((counted, (&part - (velocity * sigma)?)?));
        }
    }
    answers.iter().map(|answers| mean(answers, x)).collect()
}

/// The entries of a side that count at a sigma.
fn counting_at<'a>(sigma: f64, entries: &'a [Ready], side: usize, x: &Tensor) -> Result<Vec<Counting<'a>>> {
    let at_work = entries.iter().filter(|entry| entry.counts_at(sigma));
    let (filling, others): (Vec<&Ready>, Vec<&Ready>) = at_work.partition(|entry| entry.fills);
    let counting = |entry: &'a Ready| Counting { side, entry, weight: entry.weight.clone() };
    let mut all: Vec<Counting<'a>> = others.into_iter().map(counting).collect();
    if filling.is_empty() {
        return Ok(all);
    }
    let (h, w) = (x.dim(3)?, x.dim(4)?);
    let mut open = Tensor::ones((1, 1, 1, h, w), DType::F32, x.device())?;
    for Counting { entry, weight, .. } in &all {
        open = (open - entry.whole(weight, h, w)?)?;
    }
    let open = open.relu()?;
    if open.max_all()?.to_scalar::<f32>()? > 0.0 {
        for entry in filling {
            let weight = entry.area.map_or_else(|| Ok(open.clone()), |area| area.cut(&open))?;
            all.push(Counting { side, entry, weight });
        }
    }
    Ok(all)
}

/// Entries by what one call can answer.
fn calls<'a>(counting: &'a [Counting<'a>], timeline: &Timeline) -> Vec<Call<'a>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for counted in counting {
        let (area, loras) = (counted.entry.area, timeline.loras(&counted.entry.hooks));
        match calls.iter_mut().find(|call| call.area == area && call.loras == loras) {
            Some(call) => call.entries.push(counted),
            None => calls.push(Call { area, loras, entries: vec![counted] }),
        }
    }
    calls
}

/// The weighted mean of estimates. A place where nothing counts becomes 0, as in ComfyUI.
fn mean(answers: &[(&Counting<'_>, Tensor)], x: &Tensor) -> Result<Tensor> {
    /// ComfyUI's, to divide by where nothing counts.
    const NOTHING: f64 = 1e-37;
    if let [(Counting { entry: Ready { even: true, .. }, .. }, estimate)] = answers {
        return Ok(estimate.clone());
    }
    let (h, w) = (x.dim(3)?, x.dim(4)?);
    let mut sum = x.zeros_like()?;
    let mut weights = Tensor::full(NOTHING as f32, (1, 1, 1, h, w), x.device())?;
    for (Counting { entry, weight, .. }, estimate) in answers {
        sum = (sum + entry.whole(&estimate.broadcast_mul(weight)?, h, w)?)?;
        weights = (weights + entry.whole(weight, h, w)?)?;
    }
    Ok(sum.broadcast_div(&weights)?)
}

impl Ready {
    /// Something of its area with zeros around it.
    fn whole(&self, x: &Tensor, h: usize, w: usize) -> Result<Tensor> {
        self.area.map_or_else(|| Ok(x.clone()), |area| area.surround(x, h, w))
    }

    /// What of it counts in a window over rows or columns of an (h, w) latent: an area becomes the places where it lies.
    fn seen_through(&self, index: &Tensor, axis: usize, h: usize, w: usize) -> Result<Self> {
        const ROWS: usize = 3;
        if axis < ROWS {
            return Ok(self.clone());
        }
        let weight = self.whole(&self.weight, h, w)?.index_select(index, axis)?;
        Ok(Self { weight, area: None, ..self.clone() })
    }

    /// In single precision, as in ComfyUI: a sigma may be the very one it begins at.
    fn counts_at(&self, sigma: f64) -> bool {
        self.span.is_none_or(|[from, until]| {
            let [from, until, sigma] = [from, until, sigma].map(|sigma| sigma as f32);
            until <= sigma && sigma <= from
        })
    }

    /// Nothing if its area holds no place of the latent.
    fn new(entry: &Entry, model: &Model, [h, w]: [usize; 2], device: &Device) -> Result<Option<Self>> {
        let (flow, format) = (model.flow(), model.latent());
        let reference = |latent: &Tensor| -> Result<Tensor> {
            Ok(format.normalise(&with_frames(&latent.to_device(device)?)?)?)
        };
        let cond = Cond {
            text: entry.text.to_device(device)?,
            pictures: entry.pictures.clone(),
            references: entry.references.iter().map(reference).collect::<Result<_>>()?,
            reference_method: entry.reference_method,
            controls: entry
                .controls
                .iter()
                .map(|Controlled { control, start, end, .. }| Steering {
                    control: control.clone(),
                    from: flow.timestep(flow.at_percent(*start)),
                    until: flow.timestep(flow.at_percent(*end)),
                })
                .collect(),
            notes: Notes::default(),
        };
        let mask = entry
            .mask
            .as_ref()
            .map(|(mask, factor)| Ok::<_, Error>((mask::resize(mask, [1, h, w], device)?, *factor)));
        let mask = mask.transpose()?;
        let bounds = mask.as_ref().filter(|_| entry.mask_bounds);
        let area = match bounds {
            Some((mask, _)) => Some(mask::bounds(mask)?),
            None => entry.area,
        };
        let area = match area.map(|area| area.cells(h, w)).transpose()? {
            Some(None) => return Ok(None),
            area => area.flatten(),
        };
        let weight = match (mask, area) {
            (Some((mask, factor)), area) => {
                let mask = (mask * factor)?;
                area.map_or_else(|| Ok(mask.clone()), |area| area.cut(&mask))?
            }
            (None, Some(area)) => soft_edges(area, h, w, device)?,
            (None, None) => Tensor::ones((1, 1, 1, h, w), DType::F32, device)?,
        };
        Ok(Some(Self {
            cond,
            span: shared(entry.span, entry.text_span)
                .map(|span| span.map(|percent| flow.at_percent(percent))),
            area,
            weight: (weight * entry.strength)?,
            even: area.is_none() && entry.mask.is_none() && entry.strength != 0.0 && !entry.fills,
            shares_controls: entry.controls.last().is_some_and(|control| control.all_sides),
            hooks: entry.hooks.clone(),
            fills: entry.fills,
        }))
    }
}

/// What lies in both of two parts of a run.
fn shared(one: Option<[f64; 2]>, other: Option<[f64; 2]>) -> Option<[f64; 2]> {
    match (one, other) {
        (Some(one), Some(other)) => Some([one[0].max(other[0]), one[1].min(other[1])]),
        (one, other) => one.or(other),
    }
}

/// Adds to `others`, for each area of `entries`, the prompt that already counts there, so that both
/// sides see the same parts of the picture.
fn mirror_areas(entries: &[Ready], others: &mut Vec<Ready>) {
    for entry in entries {
        let Some(area) = entry.area else { continue };
        let size = |other: &&Ready| other.area.map_or(usize::MAX, |area| area.height * area.width);
        let around = |other: &&Ready| other.area.is_none_or(|other| area.lies_inside(&other));
        let Some(smallest) = others.iter().filter(around).min_by_key(size) else { continue };
        if smallest.area != Some(area) {
            let cond = Cond { controls: entry.cond.controls.clone(), ..smallest.cond.clone() };
            others.push(Ready { cond, ..entry.clone() });
        }
    }
}

/// Gives the controls of `entries` that are for all sides to `others`, in turn, unless something steers those.
fn share_controls(entries: &[Ready], others: &mut Vec<Ready>) {
    let whole = |entry: &&Ready| entry.area.is_none();
    let controls: Vec<_> = entries
        .iter()
        .filter(whole)
        .filter(|entry| entry.shares_controls)
        .map(|entry| entry.cond.controls.clone())
        .collect();
    if others.iter().filter(whole).any(|other| !other.cond.controls.is_empty()) {
        return;
    }
    let places: Vec<_> = (0..others.len()).filter(|place| others[*place].area.is_none()).collect();
    if places.is_empty() {
        return;
    }
    for (turn, controls) in controls.into_iter().enumerate() {
        let place = places[turn % places.len()];
        let steered =
            Ready { cond: Cond { controls, ..others[place].cond.clone() }, ..others[place].clone() };
        if turn < places.len() { others[place] = steered } else { others.push(steered) }
    }
}

/// Weights that rise over up to 8 cells at the sides of an area that lie inside the picture.
fn soft_edges(area: Rectangle<usize>, h: usize, w: usize, device: &Device) -> Result<Tensor> {
    let ramp = |start: usize, length: usize, whole: usize| {
        let width = (length / 4).min(8);
        let rise = |place: usize| if place < width { (place + 1) as f32 / width as f32 } else { 1.0 };
        let weight = |place: usize| {
            let first = if start > 0 { rise(place) } else { 1.0 };
            let last = if start + length < whole { rise(length - 1 - place) } else { 1.0 };
            first * last
        };
        (0..length).map(weight).collect::<Vec<f32>>()
    };
    let rows = Tensor::from_vec(ramp(area.y, area.height, h), (1, 1, 1, area.height, 1), device)?;
    let columns = Tensor::from_vec(ramp(area.x, area.width, w), (1, 1, 1, 1, area.width), device)?;
    Ok(rows.broadcast_mul(&columns)?)
}
