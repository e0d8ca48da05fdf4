//! A place in a file, from which networks take their tensors; and tensors that stay in the file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::{Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::dtype::{Dtype, narrow, widen, widen_slice};
use super::fp8::Fp8;
use super::header::{Entry, Header};
use super::pages::Parts;
use super::patch::{Patched, Patches};
use super::{Error, File, Result};
use crate::device::ops::Numbers;

/// How the parameters of a network are kept, as chosen in its loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// As in the file.
    #[default]
    AsFile,
    /// Every parameter, biases and norms included, rounded to this format.
    Rounded(Fp8),
}

/// A place in a file: `weights.at("transformer_blocks").at(3).at("attn")`. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    file: Arc<File>,
    prefix: String,
    storage: Storage,
    linear_format: Option<Fp8>,
    numbers: Numbers,
    eight_bits_on_cards: bool,
    patches: Arc<Patches>,
    defects: Arc<Mutex<Defects>>,
    read: Arc<Mutex<Read>>,
    /// The network at this place as the owner of memory knows it, once somebody has asked.
    network: Arc<OnceLock<Arc<Parts>>>,
}

/// What a file has where its matrices are in scaled fp8.
pub const MARK: &str = "scaled_fp8";

/// The tensors that a network asked for, by their names in the file, and whether linear layers did.
type Read = BTreeMap<String, bool>;

/// What a network expected and did not find.
#[derive(Debug, Default)]
pub(super) struct Defects {
    pub missing: Vec<String>,
    pub misshapen: Vec<Misshapen>,
}

/// A tensor whose shape is not the expected one.
#[derive(Debug)]
pub struct Misshapen {
    pub name: String,
    pub expected: Vec<usize>,
    pub found: Vec<usize>,
}

impl Weights {
    /// The place `prefix` of a file (`""` or `"model.diffusion_model"`), from which a network is built.
    pub fn new(file: Arc<File>, prefix: &str) -> Self {
        let mut weights = Self {
            file,
            prefix: prefix.to_owned(),
            storage: Storage::default(),
            linear_format: None,
            numbers: Numbers::default(),
            eight_bits_on_cards: false,
            patches: Arc::default(),
            defects: Arc::default(),
            read: Arc::default(),
            network: Arc::default(),
        };
        weights.linear_format = match weights.header().dtype(&weights.full_name(MARK)) {
            Some(Dtype::Fp8(format)) => Some(format),
            Some(_) => Some(Fp8::E4M3),
            None => None,
        };
        weights
    }

    #[must_use]
    pub fn stored_as(self, storage: Storage) -> Self {
        Self { storage, ..self }
    }

    /// The same place for layers that multiply such numbers.
    #[must_use]
    pub fn multiplied_with(self, numbers: Numbers) -> Self {
        Self { numbers, ..self }
    }

    /// What becomes of numbers that layers multiply their weights with.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// The same place for layers whose large matrices graphics cards round to eight bits, if so.
    #[must_use]
    pub fn in_eight_bits_on_cards(self, eight_bits_on_cards: bool) -> Self {
        Self { eight_bits_on_cards, ..self }
    }

    /// Whether graphics cards round large matrices to eight bits.
    pub fn eight_bits_on_cards(&self) -> bool {
        self.eight_bits_on_cards
    }

    /// The same place with low-rank and other patches on top of the file's matrices.
    #[must_use]
    pub fn patched(self, patches: Arc<Patches>) -> Self {
        Self { patches, ..self }
    }

    /// The same place for networks that know each matrix called `…fused` as several below each other, called `…apart[0]`
    /// and so on. They stay where they are in the file.
    #[must_use]
    pub fn with_rows_apart(self, fused: &str, apart: &[&str]) -> Self {
        match self.header().with_rows_apart(fused, apart) {
            Some(header) => Self { file: self.file.renamed(header), network: Arc::default(), ..self },
            None => self,
        }
    }

    /// Runs `build` and reports everything it missed in one error, instead of one tensor per attempt.
    pub fn build<T, E: From<Error>>(self, build: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let built = build(&self);
        let defects = std::mem::take(&mut *self.defects.lock().unwrap_or_else(PoisonError::into_inner));
        let file = self.file.name();
        if !defects.missing.is_empty() {
            return Err(Error::Missing { file, names: defects.missing }.into());
        }
        if !defects.misshapen.is_empty() {
            return Err(Error::Shape { file, tensors: defects.misshapen }.into());
        }
        built
    }

    /// A place further down.
    #[must_use]
    pub fn at(&self, part: impl Display) -> Self {
        Self { prefix: self.full_name(&part.to_string()), network: Arc::default(), ..self.clone() }
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub fn header(&self) -> &Header {
        self.file.header()
    }

    /// The name in the file of something at this place.
    pub fn full_name(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.header().has(&self.full_name(name))
    }

    /// [`Weights::has`] of a tensor that says something of the network by being there.
    pub fn is_marked(&self, name: &str) -> bool {
        self.note_read(name, false);
        self.has(name)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header().shape(&self.full_name(name))
    }

    /// Every tensor at this place and further down, by its name here, with its shape.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &[usize])> {
        let place = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        let all = self.header().names("").filter_map(move |name| {
            Some((name.strip_prefix(&place)?.to_owned(), self.header().shape(name)?))
        });
        all.collect::<Vec<_>>().into_iter()
    }

    /// How many numbered children `name` has here.
    pub fn count(&self, name: &str) -> usize {
        self.header().count(&self.full_name(name))
    }

    /// One side of a tensor, for networks that read their sizes from their weights.
    pub fn side(&self, name: &str, axis: usize) -> Result<usize> {
        let found = self.shape(name).and_then(|shape| shape.get(axis)).copied();
        found.ok_or_else(|| {
            let name = self.full_name(name);
            self.note(|defects| defects.missing.push(name.clone()));
            Error::Missing { file: self.file.name(), names: vec![name] }
        })
    }

    /// [`Weights::side`] for networks that can go on without: a missing tensor is noted for
    /// [`Weights::build`] where it is read.
    pub fn side_or(&self, name: &str, axis: usize, otherwise: usize) -> usize {
        self.shape(name).and_then(|shape| shape.get(axis)).copied().unwrap_or(otherwise)
    }

    /// The format all parameters of linear layers are rounded to, because the file is marked as scaled fp8.
    pub fn linear_format(&self) -> Option<Fp8> {
        self.linear_format
    }

    /// The eight-bit format that a patched parameter of a linear layer is kept in: that of the parameter, where
    /// it was chosen or is marked, and none where the file's own is widened.
    pub fn sum_format(&self) -> Option<Fp8> {
        self.chosen_format().or(self.linear_format)
    }

    /// The eight-bit format chosen for all parameters.
    pub fn chosen_format(&self) -> Option<Fp8> {
        match self.storage {
            Storage::Rounded(format) => Some(format),
            Storage::AsFile => None,
        }
    }

    /// The patches on the tensor `name`.
    pub fn patches(&self, name: &str) -> Option<&Patched> {
        self.patches.of(&self.full_name(name))
    }

    /// Every patch on this file's tensors.
    pub fn all_patches(&self) -> &Patches {
        &self.patches
    }

    /// A tensor that stays in the file and is read when used. `shape` is what it must have.
    ///
    /// A tensor that is absent or has another shape is noted for [`Weights::build`], and something
    /// of the right shape stands in so that the rest can be looked at too.
    pub fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored> {
        self.note_read(name, false);
        self.lying(name, shape)
    }

    /// [`Weights::stored`] for others than the network.
    fn lying(&self, name: &str, shape: &[usize]) -> Result<Stored> {
        let name = self.full_name(name);
        let Some(entry) = self.header().get(&name) else {
            self.note(|defects| defects.missing.push(name));
            return Ok(Stored::stand_in(shape));
        };
        if entry.shape != shape {
            let (expected, found) = (shape.to_vec(), entry.shape.clone());
            self.note(|defects| defects.misshapen.push(Misshapen { name, expected, found }));
            return Ok(Stored::stand_in(shape));
        }
        if !entry.dtype.is_number() {
            return Err(Error::NotNumbers { file: self.file.name(), name, dtype: entry.dtype.name() });
        }
        let stored = Stored::entry(&self.file, entry);
        Ok(match self.storage {
            Storage::AsFile => stored,
            Storage::Rounded(format) => stored.rounded_to(format),
        })
    }

    /// A small tensor, widened to `f32` and patched right away.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let stored = self.stored(name, shape)?;
        let mut values = stored.to_vec();
        if let Some(patched) = self.patches(name) {
            patched.apply_rounded(&mut values, stored.matrix()[1], self.chosen_format());
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// A parameter of a linear layer of this shape, with the values that the layer has.
    ///
    /// In a file marked as scaled fp8 ComfyUI creates all parameters of linear layers as fp8, so that loading
    /// rounds them, biases stored as BF16 included. Results differ visibly without this.
    pub fn linear_parameter(&self, name: &str, shape: &[usize]) -> Result<Stored> {
        self.note_read(name, true);
        let stored = self.lying(name, shape)?;
        Ok(match self.linear_format {
            Some(format) => stored.rounded_to(format),
            None => stored,
        })
    }

    /// A parameter of any layer, with the values that the layer has.
    pub fn parameter(&self, name: &str) -> Result<Stored> {
        let shape = self.shape(name).map(<[usize]>::to_vec).unwrap_or_default();
        let stored = self.lying(name, &shape)?;
        let linear = self.reads().get(&self.full_name(name)).copied().unwrap_or(false);
        Ok(match self.linear_format.filter(|_| linear) {
            Some(format) => stored.rounded_to(format),
            None => stored,
        })
    }

    /// What the network here asked for and the file has, by name, and whether linear layers did.
    pub(super) fn read(&self) -> Vec<(String, bool)> {
        let place = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        let here = |(name, linear): (&String, &bool)| {
            let inside = name.strip_prefix(&place).filter(|_| self.header().has(name))?;
            Some((inside.to_owned(), *linear))
        };
        self.reads().iter().filter_map(here).collect()
    }

    /// A tensor as it is in the file, whatever it is and was chosen, if there is one.
    pub(super) fn as_in_file(&self, name: &str) -> Option<Stored> {
        Some(Stored::entry(&self.file, self.header().get(&self.full_name(name))?))
    }

    /// A single number, whether stored as `[]`, `[1]` or `[1, 1]`; `None` when the file has none.
    pub fn scalar(&self, name: &str) -> Result<Option<f32>> {
        let Some(shape) = self.shape(name) else { return Ok(None) };
        let shape = if shape.iter().all(|side| *side == 1) { shape.to_vec() } else { Vec::new() };
        let stored = self.stored(name, &shape)?;
        let mut value = [0.0];
        stored.widen_into(0, &mut value);
        Ok(Some(value[0]))
    }

    pub(super) fn network_or(&self, make: impl FnOnce() -> Arc<Parts>) -> Arc<Parts> {
        self.network.get_or_init(make).clone()
    }

    fn reads(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_read(&self, name: &str, linear: bool) {
        *self.reads().entry(self.full_name(name)).or_default() |= linear;
    }

    fn note(&self, note: impl FnOnce(&mut Defects)) {
        note(&mut self.defects.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A tensor that lies in a file and is widened to `f32` when it is used. Cloning shares the file.
#[derive(Clone)]
pub struct Stored {
    source: Source,
    dtype: Dtype,
    shape: Vec<usize>,
    rounded: Option<Fp8>,
}

#[derive(Clone)]
enum Source {
    File(Arc<File>, Range<usize>),
    /// In place of a missing tensor, until [`Weights::build`] reports it.
    Zeros,
}

impl Stored {
    fn entry(file: &Arc<File>, entry: &Entry) -> Self {
        let source = Source::File(file.clone(), entry.bytes.clone());
        Self { source, dtype: entry.dtype, shape: entry.shape.clone(), rounded: None }
    }

    fn stand_in(shape: &[usize]) -> Self {
        Self { source: Source::Zeros, dtype: Dtype::F32, shape: shape.to_vec(), rounded: None }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The first axis, and all others as one.
    pub fn matrix(&self) -> [usize; 2] {
        let rows = self.shape.first().copied().unwrap_or(1);
        [rows, self.shape.iter().skip(1).product()]
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same tensor with its values rounded to `format`; whole numbers stay.
    #[must_use]
    pub fn rounded_to(self, format: Fp8) -> Self {
        if self.dtype == Dtype::I8 {
            return self;
        }
        let rounded = (self.dtype != Dtype::Fp8(format)).then_some(format).or(self.rounded);
        Self { rounded, ..self }
    }

    /// The bytes of `count` elements from `first` on.
    fn bytes(&self, first: usize, count: usize) -> Option<&[u8]> {
        let Source::File(file, bytes) = &self.source else { return None };
        let width = self.dtype.width_bytes();
        let begin = bytes.start + first * width;
        let end = begin + count * width;
        assert!(end <= bytes.end, "read past the end of a stored tensor");
        Some(&file.bytes()[begin..end])
    }

    /// The whole tensor as it is in the file, unless its values are others.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if self.rounded.is_some() { None } else { self.bytes(0, self.elements()) }
    }

    /// Whether all values are BF16 numbers, so that [`Stored::narrow_into`] can be used.
    pub fn is_bf16(&self) -> bool {
        self.dtype.is_bf16() || self.rounded.is_some()
    }

    /// The elements from `first` on, as many as fit into `out`, of a tensor whose values are all BF16 numbers. On the
    /// calling thread.
    pub fn narrow_into(&self, first: usize, out: &mut [bf16]) {
        match self.bytes(first, out.len()) {
            Some(bytes) if self.rounded.is_none() => narrow(self.dtype, bytes, out),
            Some(_) => {
                let mut wide = vec![0.0; out.len()];
                self.widen_few_into(first, &mut wide);
                out.iter_mut().zip(wide).for_each(|(out, value)| *out = bf16::from_f32(value));
            }
            None => out.fill(bf16::ZERO),
        }
    }

    /// [`Stored::widen_into`] on the calling thread.
    pub fn widen_few_into(&self, first: usize, out: &mut [f32]) {
        let Some(bytes) = self.bytes(first, out.len()) else {
            out.fill(0.0);
            return;
        };
        widen_slice(self.dtype, bytes, out);
        if let Some(format) = self.rounded {
            for value in out {
                *value = format.round(*value);
            }
        }
    }

    /// Widens the elements from `first` on, as many as fit into `out`.
    pub fn widen_into(&self, first: usize, out: &mut [f32]) {
        let Some(bytes) = self.bytes(first, out.len()) else {
            out.fill(0.0);
            return;
        };
        widen(self.dtype, bytes, out);
        if let Some(format) = self.rounded {
            out.par_iter_mut().with_min_len(1 << 14).for_each(|value| *value = format.round(*value));
        }
    }

    /// All elements, widened.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.elements()];
        self.widen_into(0, &mut values);
        values
    }

    /// The whole tensor as `f32`.
    pub fn to_tensor(&self) -> Result<Tensor> {
        self.widened(0, &self.shape)
    }

    /// Rows `first..` of the first axis, `count` of them, as `f32`.
    pub fn rows(&self, first: usize, count: usize) -> Result<Tensor> {
        let mut shape = self.shape.clone();
        shape[0] = count;
        let row: usize = self.shape[1..].iter().product();
        self.widened(first * row, &shape)
    }

    fn widened(&self, first: usize, shape: &[usize]) -> Result<Tensor> {
        let mut values = vec![0.0; shape.iter().product()];
        self.widen_into(first, &mut values);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}
