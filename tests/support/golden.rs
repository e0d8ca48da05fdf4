//! What ComfyUI computed with the tiny checkpoints, one case per workflow.
//!
//! A case is a pair of files below `tests/golden/qwen-tiny/default`: the tensors, and a JSON page that tells
//! of every tensor its shape, its hash, and whether it was kept whole, as a sample, or not at all.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "test code; not every test binary uses all of it"
)]

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// A file of the recorded data.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen-tiny").join(name)
}

/// One recorded run.
pub struct Case {
    pub name: String,
    /// What was observed: tensors with their shapes, tokens, grids.
    pub facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    /// Every case there is, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        let files = std::fs::read_dir(path("default")).unwrap().map(|file| file.unwrap().path());
        let mut names: Vec<String> = files
            .filter(|file| file.extension().is_some_and(|suffix| suffix == "json"))
            .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.into_iter().map(|name| Self::open(&name))
    }

    pub fn open(name: &str) -> Self {
        Self::under("default", name)
    }

    /// The same run with other arithmetic, `bf16`. What was observed besides tensors is shared.
    pub fn under(policy: &str, name: &str) -> Self {
        let facts = path(&format!("default/{name}.json"));
        let tensors = path(&format!("{policy}/{name}.safetensors"));
        Self {
            name: name.to_owned(),
            facts: serde_json::from_slice(&std::fs::read(facts).unwrap()).unwrap(),
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
        }
    }

    /// The workflow that was run.
    pub fn workflow(&self) -> Value {
        let file = path(&format!("workflows/{}.json", self.name));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    /// The name a tensor is kept under: a repeated one points to its first occurrence.
    fn kept(&self, name: &str) -> Option<&str> {
        let (name, entry) = self.facts["tensors"].as_object().unwrap().get_key_value(name)?;
        entry.get("same_as").map_or(Some(name.as_str()), |same| self.kept(same.as_str().unwrap()))
    }

    /// Whether a tensor equals one that was recorded before it.
    pub fn repeats(&self, name: &str) -> bool {
        self.kept(name).is_some_and(|kept| kept != name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.kept(name).is_some()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        serde_json::from_value(self.fact(name)["shape"].clone()).unwrap()
    }

    fn fact(&self, name: &str) -> &Value {
        let kept = self.kept(name).unwrap_or_else(|| panic!("{}: {name} was not recorded", self.name));
        &self.facts["tensors"][kept]
    }

    /// A tensor, where all of it was kept, under this name or that of a tensor with the same hash.
    pub fn whole(&self, name: &str) -> Option<Tensor> {
        let kept = self.kept(name)?;
        let hash = &self.fact(name)["sha256"];
        let equal = |(other, fact): &(&String, &Value)| {
            fact["stored"] == "full" && (*other == kept || fact["sha256"] == *hash)
        };
        let (other, _) = self.facts["tensors"].as_object().unwrap().iter().find(equal)?;
        self.tensors.get(other).cloned()
    }

    /// The relative L2 distance of `found` from what was recorded; `None` where no values were kept.
    /// The shapes must agree, but for leading ones that only video has.
    pub fn distance(&self, name: &str, found: &Tensor) -> Option<f64> {
        let mut shape = self.shape(name);
        while shape.len() > found.rank() && shape[0] == 1 {
            shape.remove(0);
        }
        assert_eq!(found.dims(), shape, "{}: shape of {name}", self.name);
        let expected = self.kept_values(name)?;
        let found = values(found);
        let (total, count) = (found.len(), expected.len());
        let sampled: Vec<f64> = (0..count).map(|i| found[i * total / count]).collect();
        Some(relative_l2(&sampled, &expected))
    }

    /// What was kept of a tensor: all of its values, or some at equal distances.
    pub fn kept_values(&self, name: &str) -> Option<Vec<f64>> {
        self.tensors.get(self.kept(name)?).map(values)
    }

    /// Asserts that `found` has the recorded shape and, where values or a sample of them were kept, is no
    /// further from them than `tolerance`, relative L2. Tells whether there were values.
    pub fn assert_close(&self, name: &str, found: &Tensor, tolerance: f64) -> bool {
        let distance = self.distance(name, found);
        let error = distance.unwrap_or(0.0);
        if distance.is_some() {
            record(name.split('.').next().unwrap_or(name), error, tolerance);
        }
        assert!(error <= tolerance, "{}: {name} is off by {error:.2e}, allowed {tolerance:.0e}", self.name);
        distance.is_some()
    }
}

/// Notes how far a value was from what was recorded, for [`table`], in the file that `COMFYD_GOLDENS` names.
pub fn record(group: &str, error: f64, allowed: f64) {
    let Ok(path) = std::env::var("COMFYD_GOLDENS") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{group}\t{error:e}\t{allowed:e}\n").as_bytes()).unwrap();
}

/// What [`record`] noted, one line for each group: its name, how many cases, the worst error, what is allowed.
pub fn table() -> String {
    let path = std::env::var("COMFYD_GOLDENS").expect("COMFYD_GOLDENS names the file that the tests wrote");
    let mut groups: BTreeMap<String, (usize, f64, f64)> = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut columns = line.split('\t');
        let group = groups.entry(columns.next().unwrap().to_owned()).or_default();
        let mut number = || columns.next().unwrap().parse::<f64>().unwrap();
        *group = (group.0 + 1, group.1.max(number()), group.2.max(number()));
    }
    let line = |(name, (cases, worst, allowed)): (String, (usize, f64, f64))| {
        format!("{name:40} {cases:5}   {worst:.1e}   {allowed:.0e}\n")
    };
    groups.into_iter().map(line).collect()
}

/// The L2 norm of the difference, over that of `expected`.
pub fn relative_l2(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|x| x.powi(2)).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}
