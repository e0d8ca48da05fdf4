//! How the matrix of a layer is kept: as multiples of a scale, or of one for each row, and perhaps turned.
//!
//! Turning spreads what few large numbers say over all of a group before it is rounded to eight bits. Groups of inputs
//! are multiplied by a regular Hadamard matrix, whose inverse it is itself; a product with a turned matrix is the
//! product with turned inputs. Method: "ConvRot: rotation-based plug-and-play 4-bit quantization for diffusion
//! transformers" (2025).

use rayon::prelude::*;
use serde::Deserialize;

use super::dtype::Dtype;
use super::{Error, Result, Storage, Weights};

/// Formats that a file may name, and whose values its tensors and scales are.
const READ: [&str; 3] = ["float8_e4m3fn", "float8_e5m2", "int8_tensorwise"];

/// The metadata in which a file tells formats, unless it has a tensor for each layer.
const METADATA: &str = "_quantization_metadata";

/// What a matrix in a file is multiplied by.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// None, one for all rows, or one for each.
    scales: Vec<f32>,
    /// Columns that were turned together.
    turned: Option<usize>,
}

/// What a file says of a layer.
#[derive(Deserialize)]
struct Described {
    format: String,
    #[serde(default)]
    convrot: bool,
    #[serde(default = "usual_group")]
    convrot_groupsize: usize,
}

fn usual_group() -> usize {
    Kept::USUAL_GROUP
}

impl Kept {
    /// Columns that are turned together where nothing else is said.
    pub const USUAL_GROUP: usize = 256;

    /// What is said at `weights` of its matrix. A scale has two spellings, of which the second is the newer.
    pub fn read(weights: &Weights, [rows, columns]: [usize; 2]) -> Result<Self> {
        let mut scales = Vec::new();
        let spellings = ["scale_weight", "weight_scale"];
        if let Some((name, shape)) = spellings.iter().find_map(|name| Some((*name, weights.shape(name)?))) {
            let count = shape.iter().product::<usize>();
            let shape = if [1, rows].contains(&count) { shape.to_vec() } else { vec![rows, 1] };
            // A loader's choice of a format is not for them.
            let exact = weights.clone().stored_as(Storage::AsFile);
            scales = exact.stored(name, &shape)?.to_vec();
        }
        let turned = described(weights)?.filter(|described| described.convrot);
        let turned = turned.map(|described| described.convrot_groupsize);
        if let Some(group) = turned
            && !(group.is_power_of_two() && group.ilog2().is_multiple_of(2) && columns.is_multiple_of(group))
        {
            return Err(unread(
                weights,
                format!("int8_tensorwise, {columns} inputs turned {group} at a time"),
            ));
        }
        Ok(Self { scales, turned })
    }

    fn scale(&self, row: usize) -> f32 {
        match &self.scales[..] {
            [] => 1.0,
            [one] => *one,
            scales => scales[row],
        }
    }

    /// The scale of each row.
    pub fn scales(&self, rows: usize) -> Vec<f32> {
        (0..rows).map(|row| self.scale(row)).collect()
    }

    /// The scale of all rows, where nothing else has to be done.
    pub fn one_scale(&self) -> Option<f32> {
        (self.turned.is_none() && self.scales.len() <= 1).then(|| self.scale(0))
    }

    /// How many columns were turned together, if they were.
    pub fn group(&self) -> Option<usize> {
        self.turned
    }

    /// Whether anything has to be done.
    pub fn is_plain(&self) -> bool {
        self.turned.is_none() && self.scales.is_empty()
    }

    /// Makes rows as they are kept, from `first` on, what they stand for.
    pub fn restore(&self, first: usize, values: &mut [f32], columns: usize) {
        if self.is_plain() {
            return;
        }
        values.par_chunks_mut(columns).with_min_len(16).enumerate().for_each(|(row, values)| {
            let scale = self.scale(first + row);
            for value in values.iter_mut() {
                *value *= scale;
            }
            self.turn_row(values);
        });
    }

    /// Divides rows, from `first` on, by their scales.
    pub fn divide(&self, first: usize, values: &mut [f32], columns: usize) {
        values.par_chunks_mut(columns).with_min_len(16).enumerate().for_each(|(row, values)| {
            let scale = self.scale(first + row);
            for value in values {
                *value /= scale;
            }
        });
    }

    /// Rows of inputs as they meet the matrix, if that is turned.
    pub fn turned(&self, inputs: &[f32], columns: usize) -> Option<Vec<f32>> {
        self.turned?;
        let mut turned = inputs.to_vec();
        turned.par_chunks_mut(columns).with_min_len(4).for_each(|row| self.turn_row(row));
        Some(turned)
    }

    fn turn_row(&self, row: &mut [f32]) {
        if let Some(group) = self.turned {
            row.chunks_exact_mut(group).for_each(turn);
        }
    }
}

/// Multiplies a group by the regular Hadamard matrix of its size, a power of four, divided by the root of the size: the
/// matrix of four, for each of its digits to the base of four.
fn turn(group: &mut [f32]) {
    let mut apart = 1;
    while apart < group.len() {
        for four in group.chunks_exact_mut(4 * apart) {
            let (ab, cd) = four.split_at_mut(2 * apart);
            let ((a, b), (c, d)) = (ab.split_at_mut(apart), cd.split_at_mut(apart));
            for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                // Half the sum of all four, less one of them.
                let half = 0.5 * (*a + *b + *c + *d);
                (*a, *b, *c, *d) = (half - *d, half - *c, half - *b, half - *a);
            }
        }
        apart *= 4;
    }
}

/// What the file says of the layer at `weights`, if it says anything that counts here.
fn described(weights: &Weights) -> Result<Option<Described>> {
    let header = weights.header();
    let text = match header.get(&weights.full_name("comfy_quant")) {
        Some(entry) => weights.file().bytes().get(entry.bytes.clone()).map(<[u8]>::to_vec),
        None if header.dtype(&weights.full_name("weight")) == Some(Dtype::I8) => of_metadata(weights),
        None => None,
    };
    let Some(text) = text else { return Ok(None) };
    let described: Described = serde_json::from_slice(&text)
        .map_err(|_| unread(weights, String::from_utf8_lossy(&text).into_owned()))?;
    if !READ.contains(&&*described.format) {
        return Err(unread(weights, described.format));
    }
    Ok(Some(described))
}

fn of_metadata(weights: &Weights) -> Option<Vec<u8>> {
    let metadata: serde_json::Value =
        serde_json::from_str(weights.header().metadata().get(METADATA)?).ok()?;
    let layers = metadata.get("layers")?.as_object()?;
    let layer = weights.full_name("");
    // Names begin where the network does.
    let is_named =
        |name: &str| layer.strip_suffix(name).is_some_and(|above| above.is_empty() || above.ends_with('.'));
    let known = layers.iter().find(|(name, _)| is_named(name));
    known.map(|(_, described)| described.to_string().into_bytes())
}

fn unread(weights: &Weights, format: String) -> Error {
    Error::Format { file: weights.file().name(), layer: weights.full_name(""), format }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_twice_changes_nothing_and_lengths_stay() {
        let group: Vec<f32> = (0..64).map(|index| ((index * 37 % 19) as f32 - 9.0) / 4.0).collect();
        let mut turned = group.clone();
        turn(&mut turned);
        let length = |group: &[f32]| group.iter().map(|value| value * value).sum::<f32>();
        assert!((length(&group) - length(&turned)).abs() < 1e-3);
        assert!(group.iter().zip(&turned).any(|(a, b)| (a - b).abs() > 0.1));
        turn(&mut turned);
        assert!(group.iter().zip(&turned).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_group_of_four_is_multiplied_by_the_matrix() {
        let mut group = [1.0, 2.0, 3.0, 5.0];
        turn(&mut group);
        assert_eq!(group.map(|value| (value * 2.0) as i32), [1, 5, 7, 9]);
    }
}
