//! The tensors of a LoRA file by the module they are for, and the patch that they make.

use std::collections::HashMap;
use std::sync::Arc;

use super::adapter::{Adapter, Difference, Lines, Magnitudes, Replacement};
use super::delta::{Delta, Factor, Turns};
use crate::model::{Error, Result};
use crate::weights::{Patch, Stored, Weights};

/// How the two factors of a module are called: what follows its name, for (up, down).
const PAIRS: &[[&str; 2]] = &[
    [".lora_up.weight", ".lora_down.weight"],
    ["_lora.up.weight", "_lora.down.weight"],
    [".lora_B.weight", ".lora_A.weight"],
    [".lora.up.weight", ".lora.down.weight"],
    [".lora_B", ".lora_A"],
    [".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"],
    [".lora_B.default.weight", ".lora_A.default.weight"],
];
const HADAMARD: [[&str; 2]; 2] = [[".hada_w1_a", ".hada_w1_b"], [".hada_w2_a", ".hada_w2_b"]];
/// The matrix as a whole, or its two factors.
const KRONECKER: [(&str, [&str; 2]); 2] =
    [(".lokr_w1", [".lokr_w1_a", ".lokr_w1_b"]), (".lokr_w2", [".lokr_w2_a", ".lokr_w2_b"])];
const GENERALISED: [[&str; 2]; 2] = [[".a1.weight", ".a2.weight"], [".b1.weight", ".b2.weight"]];
const TURNS: &str = ".oft_blocks";
const DIFFERENCES: [&str; 2] = [".diff", ".w_norm"];
const BIAS_DIFFERENCES: [&str; 2] = [".diff_b", ".b_norm"];
const REPLACEMENT: &str = ".set_weight";
/// What means something beside others only.
const ALPHA: &str = ".alpha";
const BESIDE: [&str; 3] = [ALPHA, ".dora_scale", ".rescale"];

/// All endings that make a change.
fn changing() -> impl Iterator<Item = &'static str> {
    let pairs = PAIRS.iter().chain(&HADAMARD).chain(&GENERALISED).flatten().copied();
    let kronecker = KRONECKER.into_iter().flat_map(|(whole, [up, down])| [whole, up, down]);
    pairs.chain(kronecker).chain([TURNS, REPLACEMENT]).chain(DIFFERENCES).chain(BIAS_DIFFERENCES)
}

/// The modules of a file.
pub(super) struct Modules<'a> {
    file: &'a Weights,
    endings: HashMap<&'a str, Vec<&'static str>>,
}

impl<'a> Modules<'a> {
    pub fn of(file: &'a Weights) -> Self {
        let known: Vec<&str> = changing().chain(BESIDE).collect();
        let mut endings: HashMap<&str, Vec<&str>> = HashMap::new();
        for name in file.header().names("") {
            for ending in &known {
                if let Some(module) = name.strip_suffix(ending) {
                    endings.entry(module).or_default().push(ending);
                }
            }
        }
        endings.retain(|_, endings| !endings.iter().all(|ending| BESIDE.contains(ending)));
        Self { file, endings }
    }

    /// What the file holds to change the module it calls `name`.
    pub fn find(&self, name: &str) -> Option<Module<'a>> {
        let (name, endings) = self.endings.get_key_value(name)?;
        Some(Module { file: self.file, name, endings: endings.clone(), used: Vec::new() })
    }
}

/// What a file holds for one module.
pub(super) struct Module<'a> {
    file: &'a Weights,
    name: &'a str,
    endings: Vec<&'static str>,
    used: Vec<String>,
}

impl Module<'_> {
    /// The keys that counted.
    pub fn into_used(self) -> Vec<String> {
        self.used
    }

    /// The patch of the network's tensor `name`, if this is one. Of several kinds the last in ComfyUI's order counts.
    pub fn patch(&mut self, name: &str, shape: &[usize], strength: f64) -> Result<Option<Patch>> {
        let size = [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()];
        if let Some(values) = self.take(REPLACEMENT)? {
            self.expect(values.elements() == size[0] * size[1], name, shape)?;
            return Ok(Some(Patch::Whole(Arc::new(Replacement(values)))));
        }
        if let Some(patch) = self.difference(DIFFERENCES, name, shape, strength)? {
            return Ok(Some(patch));
        }
        let alpha = self.file.scalar(&format!("{}{ALPHA}", self.name))?;
        let Some((delta, mut scale)) = self.delta(alpha, size)? else { return Ok(None) };
        self.used.extend(alpha.map(|_| format!("{}{ALPHA}", self.name)));
        self.expect(delta.fits(size), name, shape)?;
        let magnitudes = self.magnitudes(size, name, shape)?;
        if magnitudes.is_some() && delta.turns() {
            // Beside magnitudes, ComfyUI takes the limit of rotations for a factor.
            scale = alpha.unwrap_or(0.0);
        }
        Ok(Some(match (delta, magnitudes) {
            (Delta::LowRank([up, down]), None) => {
                Patch::LowRank { up, down, factor: strength * f64::from(scale) }
            }
            (delta, magnitudes) => {
                Patch::Whole(Arc::new(Adapter { delta, scale, strength: strength as f32, magnitudes }))
            }
        }))
    }

    /// The patch of the bias beside it, which is called `name`.
    pub fn bias_patch(&mut self, name: &str, shape: &[usize], strength: f64) -> Result<Option<Patch>> {
        self.difference(BIAS_DIFFERENCES, name, shape, strength)
    }

    fn difference(
        &mut self,
        endings: [&'static str; 2],
        name: &str,
        shape: &[usize],
        strength: f64,
    ) -> Result<Option<Patch>> {
        let [one, other] = endings;
        let Some(delta) = self.take(one)?.map_or_else(|| self.take(other), |delta| Ok(Some(delta)))? else {
            return Ok(None);
        };
        self.expect(delta.elements() == shape.iter().product::<usize>(), name, shape)?;
        Ok(Some(Patch::Whole(Arc::new(Difference { delta, strength: strength as f32 }))))
    }

    /// What is added to a matrix of this size, and the factor that a file's alpha gives it.
    fn delta(&mut self, alpha: Option<f32>, size: [usize; 2]) -> Result<Option<(Delta, f32)>> {
        let by_rank = |rank: Option<usize>| match (alpha, rank) {
            (Some(alpha), Some(rank)) => alpha / rank as f32,
            _ => 1.0,
        };
        if let Some(blocks) = self.take(TURNS)? {
            // The alpha of rotations is no factor. ComfyUI leaves BOFT out where there is none.
            let turns = Turns { blocks, limit: alpha.unwrap_or(0.0) };
            return Ok(match (turns.blocks.shape().len(), alpha) {
                (3, _) => Some((Delta::Rotation(turns), 1.0)),
                (4, Some(_)) => Some((Delta::Butterfly { turns, rescale: self.take(".rescale")? }, 1.0)),
                _ => None,
            });
        }
        if let Some([beside, added]) = self.all(GENERALISED)? {
            let (delta, rank) = generalised(beside, added, size);
            return Ok(Some((delta, by_rank(Some(rank)))));
        }
        if let Some(factors) = self.kronecker()? {
            let rank = factors[1].rank().or(factors[0].rank());
            return Ok(Some((Delta::Kronecker(factors), by_rank(rank))));
        }
        if let Some(factors) = self.all(HADAMARD)? {
            let rank = factors[0][1].matrix()[0];
            return Ok(Some((Delta::Hadamard(factors), by_rank(Some(rank)))));
        }
        for pair in PAIRS {
            if let Some([factors]) = self.all([*pair])? {
                let rank = factors[1].matrix()[0];
                return Ok(Some((Delta::LowRank(factors), by_rank(Some(rank)))));
            }
        }
        Ok(None)
    }

    fn kronecker(&mut self) -> Result<Option<[Factor; 2]>> {
        let is_there = |(whole, pair): &(&'static str, [&'static str; 2])| {
            self.endings.contains(whole) || pair.iter().all(|ending| self.endings.contains(ending))
        };
        if !KRONECKER.iter().all(is_there) {
            return Ok(None);
        }
        let mut factor = |(whole, pair): (&'static str, [&'static str; 2])| -> Result<Option<Factor>> {
            if let Some(matrix) = self.take(whole)? {
                return Ok(Some(Factor::Whole(matrix)));
            }
            Ok(self.all([pair])?.map(|[factors]| Factor::Product(factors)))
        };
        let [left, right] = KRONECKER;
        Ok(factor(left)?.zip(factor(right)?).map(|(left, right)| [left, right]))
    }

    /// DoRA's magnitudes: one for each row, or for each column.
    fn magnitudes(
        &mut self,
        [rows, columns]: [usize; 2],
        name: &str,
        shape: &[usize],
    ) -> Result<Option<Magnitudes>> {
        let Some(norms) = self.take(".dora_scale")? else { return Ok(None) };
        let of = if norms.matrix()[0] == rows { Lines::Rows } else { Lines::Columns };
        let count = match of {
            Lines::Rows => rows,
            Lines::Columns => columns,
        };
        self.expect(norms.elements() == count, name, shape)?;
        Ok(Some(Magnitudes { norms, of }))
    }

    /// All tensors of some pairs, or none.
    fn all<const N: usize>(&mut self, pairs: [[&'static str; 2]; N]) -> Result<Option<[[Stored; 2]; N]>> {
        if !pairs.iter().flatten().all(|ending| self.endings.contains(ending)) {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(N);
        for [one, other] in pairs {
            let (Some(one), Some(other)) = (self.take(one)?, self.take(other)?) else { return Ok(None) };
            found.push([one, other]);
        }
        Ok(found.try_into().ok())
    }

    /// A tensor of the module, whose key counts from now on.
    fn take(&mut self, ending: &'static str) -> Result<Option<Stored>> {
        let key = format!("{}{ending}", self.name);
        let Some(shape) = self.file.shape(&key) else { return Ok(None) };
        let stored = self.file.stored(&key, shape)?;
        self.used.push(key);
        Ok(Some(stored))
    }

    fn expect(&self, fits: bool, tensor: &str, shape: &[usize]) -> Result<()> {
        if fits {
            return Ok(());
        }
        let found = self.used.iter().filter(|key| !key.ends_with(ALPHA));
        Err(Error::Lora {
            file: self.file.file().name(),
            module: tensor.strip_suffix(".weight").unwrap_or(tensor).to_owned(),
            expected: shape.to_vec(),
            found: found.filter_map(|key| Some(self.file.shape(key)?.to_vec())).collect(),
        })
    }
}

/// GLoRA's four matrices come in two orders; where both would do, ComfyUI takes the older for square matrices
/// whose rank is their side.
fn generalised([a1, a2]: [Stored; 2], [b1, b2]: [Stored; 2], size: [usize; 2]) -> (Delta, usize) {
    let sides = [&a1, &a2, &b1, &b2].map(Stored::matrix);
    let [[a1_rows, a1_columns], [a2_rows, a2_columns], [b1_rows, b1_columns], [b2_rows, b2_columns]] = sides;
    let older = [b1_rows, a1_rows, a2_columns].iter().all(|side| *side == b2_columns);
    let newer = [b1_columns, a1_columns, a2_rows].iter().all(|side| *side == b2_rows);
    let square = a2_rows == size[0] && size[0] == size[1];
    if older && (!newer || square) {
        (Delta::Generalised { beside: [a2, a1], added: [b2, b1] }, a1_rows)
    } else {
        (Delta::Generalised { beside: [a1, a2], added: [b1, b2] }, a2_rows)
    }
}
