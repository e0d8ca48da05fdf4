//! The parameters of a network as it holds them, patches included: what a file of it is made of. Nothing is computed
//! or read before it is written.

use super::dtype::{Dtype, encode, widen};
use super::kept::Kept;
use super::layout::Put;
use super::patch::Patched;
use super::place::{MARK, Stored, Weights};
use super::{Error, Result};

/// A tensor to be written.
pub struct Held {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    /// Bytes of the type that is written.
    Given(Vec<u8>),
    Stored(Stored),
    Parameter(Box<Parameter>),
}

/// A parameter that is not written as it lies in its file.
struct Parameter {
    stored: Stored,
    kept: Kept,
    /// Whether its scales are written beside it.
    scaled: bool,
    patched: Option<Patched>,
    /// What the network holds it in.
    held: Dtype,
}

/// Numbers that are handed over at a time.
const PIECE: usize = 1 << 22;

impl Held {
    /// A small tensor that no file has.
    pub fn given(name: impl Into<String>, dtype: Dtype, shape: &[usize], values: &[f32]) -> Self {
        let values = Values::Given(encode(dtype, values));
        Self { name: name.into(), dtype, shape: shape.to_vec(), values }
    }

    fn as_in_file(name: String, stored: Stored) -> Self {
        let (dtype, shape) = (stored.dtype(), stored.shape().to_vec());
        Self { name, dtype, shape, values: Values::Stored(stored) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The same tensor with other names before its own.
    #[must_use]
    pub fn under(self, place: &str) -> Self {
        self.named(|name| format!("{place}{name}"))
    }

    /// The same tensor under another name.
    #[must_use]
    pub fn named(self, name: impl FnOnce(&str) -> String) -> Self {
        Self { name: name(&self.name), ..self }
    }

    /// The same tensor, rounded to another type after the one that it is held in.
    #[must_use]
    pub fn written_in(self, dtype: Dtype) -> Self {
        let values = match self.values {
            _ if dtype == self.dtype => self.values,
            Values::Given(bytes) => {
                let mut values = vec![0.0; self.shape.iter().product()];
                widen(self.dtype, &bytes, &mut values);
                Values::Given(encode(dtype, &values))
            }
            Values::Stored(stored) => {
                let held = stored.dtype();
                let (kept, scaled, patched) = (Kept::default(), false, None);
                Values::Parameter(Box::new(Parameter { stored, kept, scaled, patched, held }))
            }
            parameter @ Values::Parameter(_) => parameter,
        };
        Self { dtype, values, ..self }
    }

    /// Its numbers, as a reader of the file would find them.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let count: usize = self.shape.iter().product();
        let mut bytes = Vec::with_capacity(count * self.dtype.width_bytes());
        self.write::<Error>(&mut |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let mut values = vec![0.0; count];
        widen(self.dtype, &bytes, &mut values);
        Ok(values)
    }

    /// Hands its bytes over, piece by piece.
    pub(super) fn write<E>(&self, put: &mut Put<'_, E>) -> Result<(), E> {
        let bytes = match &self.values {
            Values::Given(bytes) => bytes.as_slice(),
            Values::Stored(stored) => stored.as_bytes().unwrap_or_default(),
            Values::Parameter(parameter) => return parameter.write(self.dtype, put),
        };
        bytes.chunks(4 * PIECE).try_for_each(put)
    }
}

impl Parameter {
    fn write<E>(&self, dtype: Dtype, put: &mut Put<'_, E>) -> Result<(), E> {
        let [rows, columns] = self.stored.matrix();
        if rows * columns == 0 {
            return Ok(());
        }
        let whole = self.patched.as_ref().is_some_and(Patched::needs_all);
        let some = if whole { rows } else { (PIECE / columns).clamp(1, rows) };
        let mut noise = self.patched.as_ref().map(Patched::noise);
        let mut values = vec![0.0; some * columns];
        for first in (0..rows).step_by(some) {
            let values = &mut values[..some.min(rows - first) * columns];
            self.stored.widen_into(first * columns, values);
            if let (Some(patched), Some(noise)) = (&self.patched, &mut noise) {
                self.kept.restore(first, values, columns);
                patched.apply(first, values, columns);
                if self.scaled {
                    self.kept.divide(first, values, columns);
                }
                if let Dtype::Fp8(format) = self.held {
                    format.round_all_by_chance(values, noise);
                }
            }
            let mut bytes = encode(self.held, values);
            if dtype != self.held {
                widen(self.held, &bytes, values);
                bytes = encode(dtype, values);
            }
            put(&bytes)?;
        }
        Ok(())
    }
}

/// What a file has beside a matrix, of which it tells how that is kept.
const BESIDE: [&str; 3] = ["scale_weight", "weight_scale", "comfy_quant"];
/// The one of them that files marked as scaled fp8 have, and what inputs are multiplied by where those are in fp8 too.
const SCALE: &str = BESIDE[0];
const INPUT_SCALE: &str = "scale_input";

impl Weights {
    /// Every tensor of the network at this place. `plain`: what it holds parameters in for which neither a loader's
    /// choice nor the file's mark decides; without, what the file has. `input_scales`: whether linear layers in scaled
    /// fp8 have one for their inputs.
    pub fn held(&self, plain: Option<Dtype>, input_scales: bool) -> Result<Vec<Held>> {
        let scales: &[&str] = if input_scales { &[SCALE, INPUT_SCALE] } else { &[SCALE] };
        let mut all = Vec::new();
        for (name, linear) in self.read() {
            let (layer, own) = name.rsplit_once('.').unwrap_or(("", &name));
            if !BESIDE.contains(&own) {
                self.add_held(&name, (layer, own), linear, (plain, scales), &mut all)?;
            }
        }
        if let Some(format) = self.linear_format() {
            all.push(Held::given(MARK, Dtype::Fp8(format), &[0], &[]));
        }
        Ok(all)
    }

    /// A parameter, and what belongs beside it.
    fn add_held(
        &self,
        name: &str,
        (layer, own): (&str, &str),
        linear: bool,
        (plain, scales): (Option<Dtype>, &[&str]),
        all: &mut Vec<Held>,
    ) -> Result<()> {
        let Some(in_file) = self.as_in_file(name) else { return Ok(()) };
        if in_file.elements() == 0 {
            all.push(Held::as_in_file(name.to_owned(), in_file));
            return Ok(());
        }
        let stored = self.parameter(name)?;
        let place = if layer.is_empty() { self.clone() } else { self.at(layer) };
        let matrix = linear && own == "weight";
        let kept = if matrix { Kept::read(&place, stored.matrix())? } else { Kept::default() };
        let patched = self.patches(name).cloned();
        let chosen = if linear { self.sum_format() } else { self.chosen_format() };
        let marked = linear && self.linear_format().is_some();
        let beside = |what: &str| if layer.is_empty() { what.to_owned() } else { format!("{layer}.{what}") };
        if !marked && !kept.is_plain() && patched.is_none() {
            // The file keeps it in a way of its own, which is worth keeping.
            all.push(Held::as_in_file(name.to_owned(), in_file));
            let others = BESIDE.map(|what| (beside(what), place.as_in_file(what)));
            let found = others.into_iter().filter_map(|(name, stored)| Some(Held::as_in_file(name, stored?)));
            all.extend(found);
            return Ok(());
        }
        let held = match (chosen, plain) {
            _ if !marked && !kept.is_plain() => plain.unwrap_or(Dtype::Bf16),
            (Some(format), _) => Dtype::Fp8(format),
            (None, plain) => plain.unwrap_or(stored.dtype()),
        };
        if matrix && marked {
            for scale in scales {
                all.push(match place.as_in_file(scale) {
                    Some(found) if found.dtype().is_number() => {
                        Held::as_in_file(beside(scale), found).written_in(Dtype::F32)
                    }
                    // No network has read it, so nobody has refused it yet.
                    Some(found) => {
                        let (file, name, dtype) =
                            (self.file().name(), place.full_name(scale), found.dtype().name());
                        return Err(Error::NotNumbers { file, name, dtype });
                    }
                    None => Held::given(beside(scale), Dtype::F32, &[], &[1.0]),
                });
            }
        }
        let (shape, name) = (stored.shape().to_vec(), name.to_owned());
        let as_it_lies = patched.is_none() && stored.dtype() == held && stored.as_bytes().is_some();
        let values = if as_it_lies {
            Values::Stored(stored)
        } else {
            Values::Parameter(Box::new(Parameter { stored, kept, scaled: marked, patched, held }))
        };
        all.push(Held { name, dtype: held, shape, values });
        Ok(())
    }

    /// How many numbers the tensors at this place are.
    pub fn numbers_count(&self) -> u64 {
        self.tensors().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::TensorView;

    use super::*;
    use crate::weights::{File, Fp8, Patch, Patches, Storage, write_file};

    type Tensor = (&'static str, safetensors::Dtype, &'static [usize], Vec<u8>);

    fn floats(values: &[f32]) -> Vec<u8> {
        encode(Dtype::F32, values)
    }

    /// A place in a file of these tensors.
    fn place(folder: &std::path::Path, tensors: &[Tensor]) -> Weights {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
        });
        let path = folder.join("network.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        Weights::new(File::open(path).unwrap(), "")
    }

    /// Types and numbers of what is written, by name, read from the file that it makes.
    fn written(weights: &Weights, plain: Option<Dtype>) -> BTreeMap<String, (&'static str, Vec<f32>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved.safetensors");
        write_file(&path, &weights.held(plain, false).unwrap(), None, &mut |_, _| Ok(())).unwrap();
        let saved = Weights::new(File::open(path).unwrap(), "");
        let numbers = |name: &str, shape: &[usize]| match saved.header().dtype(name) {
            Some(dtype) if dtype.is_number() => (dtype.name(), saved.stored(name, shape).unwrap().to_vec()),
            other => (other.map_or("", Dtype::name), Vec::new()),
        };
        let all = saved.tensors().map(|(name, shape)| (name.clone(), numbers(&name, shape)));
        all.collect()
    }

    /// Adds 1 to a column of ones.
    fn one_more(weights: &Weights, folder: &std::path::Path, name: &str) -> Weights {
        let lora = folder.join("lora");
        std::fs::create_dir_all(&lora).unwrap();
        let factors = [
            ("up", safetensors::Dtype::F32, &[2, 1][..], floats(&[1.0, 1.0])),
            ("down", safetensors::Dtype::F32, &[1, 1][..], floats(&[1.0])),
        ];
        let lora = place(&lora, &factors);
        let [up, down] =
            [("up", [2, 1]), ("down", [1, 1])].map(|(name, shape)| lora.stored(name, &shape).unwrap());
        let mut patches = Patches::default();
        patches.add(name.to_owned(), 0, Patch::LowRank { up, down, factor: 1.0 });
        weights.clone().patched(std::sync::Arc::new(patches))
    }

    #[test]
    fn only_what_was_asked_for_is_written_in_the_type_that_it_is_held_in() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [
            ("norm.weight", safetensors::Dtype::F32, &[2][..], floats(&[1.0, 1.1])),
            ("stray.weight", safetensors::Dtype::F32, &[1][..], floats(&[5.0])),
        ];
        let weights = place(folder.path(), &tensors);
        weights.stored("norm.weight", &[2]).unwrap();
        let entry = |dtype, last| [("norm.weight".to_owned(), (dtype, vec![1.0, last]))].into();
        assert_eq!(written(&weights, None), entry("F32", 1.1));
        assert_eq!(written(&weights, Some(Dtype::Bf16)), entry("BF16", 1.101_562_5));
        let chosen = weights.stored_as(Storage::Rounded(Fp8::E4M3));
        assert_eq!(written(&chosen, Some(Dtype::F32)), entry("F8_E4M3", 1.125));
    }

    #[test]
    fn scales_stay_beside_matrices_that_are_multiples_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [
            ("scaled_fp8", safetensors::Dtype::F8_E4M3, &[0][..], Vec::new()),
            ("a.weight", safetensors::Dtype::F8_E4M3, &[2, 1][..], vec![0x38, 0x40]),
            ("a.scale_weight", safetensors::Dtype::F32, &[][..], floats(&[0.5])),
            ("a.bias", safetensors::Dtype::F32, &[2][..], floats(&[1.1, 1.0])),
        ];
        let weights = place(folder.path(), &tensors);
        weights.linear_parameter("a.weight", &[2, 1]).unwrap();
        weights.linear_parameter("a.bias", &[2]).unwrap();
        let expected = |weight: [f32; 2]| {
            BTreeMap::from([
                ("a.bias".to_owned(), ("F8_E4M3", vec![1.125, 1.0])),
                ("a.scale_weight".to_owned(), ("F32", vec![0.5])),
                ("a.weight".to_owned(), ("F8_E4M3", weight.to_vec())),
                ("scaled_fp8".to_owned(), ("F8_E4M3", Vec::new())),
            ])
        };
        assert_eq!(written(&weights, Some(Dtype::F32)), expected([1.0, 2.0]));
        // 0.5 and 1, and 1 more, are 3 and 4 halves.
        let changed = one_more(&weights, folder.path(), "a.weight");
        assert_eq!(written(&changed, Some(Dtype::F32)), expected([3.0, 4.0]));
    }

    #[test]
    fn a_scale_of_inputs_that_is_no_number_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [
            ("scaled_fp8", safetensors::Dtype::F8_E4M3, &[0][..], Vec::new()),
            ("a.weight", safetensors::Dtype::F8_E4M3, &[2, 1][..], vec![0x38, 0x40]),
            ("a.scale_input", safetensors::Dtype::U8, &[1][..], vec![1]),
        ];
        let weights = place(folder.path(), &tensors);
        weights.linear_parameter("a.weight", &[2, 1]).unwrap();
        let told = weights.held(None, true).err().unwrap().to_string();
        assert!(told.contains("a.scale_input"), "{told}");
    }

    #[test]
    fn whole_numbers_stay_until_they_are_changed() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [
            ("a.weight", safetensors::Dtype::I8, &[2, 1][..], vec![3, 4]),
            ("a.weight_scale", safetensors::Dtype::F32, &[][..], floats(&[0.5])),
            ("a.comfy_quant", safetensors::Dtype::U8, &[28][..], br#"{"format":"int8_tensorwise"}"#.to_vec()),
        ];
        let weights = place(folder.path(), &tensors);
        weights.linear_parameter("a.weight", &[2, 1]).unwrap();
        let same = written(&weights, Some(Dtype::F32));
        assert_eq!(same.keys().collect::<Vec<_>>(), ["a.comfy_quant", "a.weight", "a.weight_scale"]);
        assert_eq!(same["a.weight"], ("I8", vec![3.0, 4.0]));
        let changed = one_more(&weights, folder.path(), "a.weight");
        let expected = [("a.weight".to_owned(), ("F32", vec![2.5, 3.0]))];
        assert_eq!(written(&changed, Some(Dtype::F32)), expected.into());
    }
}
