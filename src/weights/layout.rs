//! What a file of a kind holds: names, types and shapes of its tensors, without their numbers. From a layout a file can
//! be made that has everything but sense.

use std::io::{self, Write as _};
use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use super::dtype::{Dtype, encoded};

/// The tensors of a file, in the order in which the file has them.
#[derive(Clone, Debug)]
pub struct Layout {
    tensors: Vec<Tensor>,
    /// Texts by name, if the file has a place for them.
    metadata: Option<Vec<(String, String)>>,
}

/// Takes bytes that belong into a file.
pub(super) type Put<'a, E> = dyn FnMut(&[u8]) -> Result<(), E> + 'a;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.elements() as u64 * self.dtype.width_bytes() as u64
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A line of a list of tensors that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of a list of tensors: {problem}: `{line}`")]
pub struct BadLine {
    number: usize,
    line: String,
    problem: &'static str,
}

impl Layout {
    /// Reads a list: in each line a type, a shape (`3072x256`, or `-` for a single number) and a name, in which
    /// `{a,b}` and `{0..9}` stand for several.
    pub fn parse(list: &str) -> Result<Self, BadLine> {
        let mut tensors = Vec::new();
        for (index, line) in list.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |problem| BadLine { number: index + 1, line: line.to_owned(), problem };
            let mut words = line.split_whitespace();
            let (Some(dtype), Some(shape), Some(names), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(bad("expected a type, a shape and a name"));
            };
            let dtype = Dtype::named(dtype).ok_or_else(|| bad("there is no such type"))?;
            let sides = shape.split('x').filter(|side| *side != "-").map(str::parse);
            let shape: Vec<usize> = sides.collect::<Result<_, _>>().map_err(|_| bad("this is no shape"))?;
            let names = expanded(names).ok_or_else(|| bad("these braces do not close"))?;
            tensors.extend(names.into_iter().map(|name| Tensor { name, dtype, shape: shape.clone() }));
        }
        Ok(Self::of(tensors))
    }

    fn of(mut tensors: Vec<Tensor>) -> Self {
        // As the library orders them that writes such files.
        tensors.sort_by(|a, b| {
            b.dtype.width_bytes().cmp(&a.dtype.width_bytes()).then_with(|| a.name.cmp(&b.name))
        });
        Self { tensors, metadata: None }
    }

    /// Tensors of these names, types and shapes, and texts.
    pub(super) fn new<'a>(
        tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>,
        metadata: Option<Vec<(String, String)>>,
    ) -> Self {
        let owned = |(name, dtype, shape): (&str, Dtype, &[usize])| Tensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        };
        Self { metadata, ..Self::of(tensors.map(owned).collect()) }
    }

    /// Only the tensors whose names are wanted.
    #[must_use]
    pub fn only(mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|tensor| is_wanted(&tensor.name));
        self
    }

    /// Without the layers from number `most` on, of those whose names begin with `start` and a number.
    #[must_use]
    pub fn first_of(self, start: &str, most: usize) -> Self {
        let number = |name: &str| name.strip_prefix(start)?.split('.').next()?.parse::<usize>().ok();
        self.only(|name| number(name).is_none_or(|number| number < most))
    }

    /// How many tensors there are.
    pub fn count(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of a file of this layout.
    pub fn file_bytes(&self) -> u64 {
        self.head().len() as u64 + self.tensors.iter().map(Tensor::bytes).sum::<u64>()
    }

    /// What stands before the numbers.
    fn head(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        if let Some(metadata) = &self.metadata {
            let texts = metadata.iter().map(|(name, text)| (name.clone(), text.as_str().into()));
            header.insert("__metadata__".to_owned(), serde_json::Value::Object(texts.collect()));
        }
        let mut place = 0;
        for tensor in &self.tensors {
            let end = place + tensor.bytes();
            let entry =
                json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [place, end]});
            header.insert(tensor.name.clone(), entry);
            place = end;
        }
        let mut json = serde_json::Value::Object(header).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut head = (json.len() as u64).to_le_bytes().to_vec();
        head.extend(json);
        head
    }

    /// Makes a file of zeros that takes no room on disks that know holes.
    pub fn write_empty(&self, path: &Path) -> io::Result<()> {
        let mut file = std::fs::File::create(path)?;
        file.write_all(&self.head())?;
        file.set_len(self.file_bytes())
    }

    /// Makes a file of random numbers, the same ones for the same seed, of the sizes that trained ones have, so that
    /// whatever is computed from them stays finite. See [`Layout::write`] for the rest.
    pub fn write_random(
        &self,
        path: &Path,
        seed: u64,
        told: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        let fill = |tensor: &Tensor, put: &mut Put<'_, io::Error>| {
            let dice = Dice::new(tensor, seed);
            let total = tensor.bytes() as usize;
            for first in (0..total).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(total - first)];
                dice.fill(first, piece);
                put(piece)?;
            }
            Ok(())
        };
        self.write(path, fill, told)
    }

    /// Makes a file, tensor by tensor: `fill` hands over the bytes of the one it is told. It appears at `path` when it is
    /// whole. `told` hears of each piece, in bytes, and ends the work with an error.
    pub(super) fn write<E, F>(
        &self,
        path: &Path,
        mut fill: F,
        told: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<io::Error>,
        F: FnMut(&Tensor, &mut Put<'_, E>) -> Result<(), E>,
    {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let head = self.head();
        file.write_all(&head)?;
        told(head.len() as u64)?;
        for tensor in &self.tensors {
            let mut count = 0;
            fill(tensor, &mut |piece| {
                count += piece.len() as u64;
                file.write_all(piece)?;
                told(piece.len() as u64)
            })?;
            if count != tensor.bytes() {
                let wrong = format!("tensor `{}` has {} bytes, not {count}", tensor.name, tensor.bytes());
                return Err(io::Error::new(io::ErrorKind::InvalidData, wrong).into());
            }
        }
        // Some disks tell only now that they are full.
        file.as_file().sync_data()?;
        // Whoever may read the folder may read the file, as if it had been downloaded.
        allow_reading(file.as_file())?;
        file.persist(path).map_err(|failed| failed.error)?;
        Ok(())
    }
}

#[cfg(unix)]
fn allow_reading(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn allow_reading(_file: &std::fs::File) -> io::Result<()> {
    Ok(())
}

/// Bytes that are made and written at a time; a multiple of [`RUN`].
const PIECE: usize = 1 << 24;
/// Bytes of which all are drawn from one seed; a multiple of every width.
const RUN: usize = 1 << 16;

/// The random numbers of one tensor: 256 different ones, evenly spaced.
struct Dice {
    seed: u64,
    width: usize,
    faces: Vec<[u8; 8]>,
}

impl Dice {
    fn new(tensor: &Tensor, seed: u64) -> Self {
        let (lowest, highest) = range(tensor);
        let face = |index: usize| lowest + (highest - lowest) * (index as f32 + 0.5) / 256.0;
        Self {
            seed: mixed(seed ^ u64::from(crc32fast::hash(tensor.name.as_bytes()))),
            width: tensor.dtype.width_bytes(),
            faces: (0..256).map(|index| encoded(tensor.dtype, face(index))).collect(),
        }
    }

    /// The bytes of the tensor from `first` on, which is a multiple of [`RUN`].
    fn fill(&self, first: usize, out: &mut [u8]) {
        match self.width {
            1 => self.fill_with::<1>(first, out),
            2 => self.fill_with::<2>(first, out),
            4 => self.fill_with::<4>(first, out),
            _ => self.fill_with::<8>(first, out),
        }
    }

    /// [`Dice::fill`] for numbers of `N` bytes.
    fn fill_with<const N: usize>(&self, first: usize, out: &mut [u8]) {
        let faces: Vec<[u8; N]> = self.faces.iter().map(|face| std::array::from_fn(|at| face[at])).collect();
        out.par_chunks_mut(RUN).enumerate().for_each(|(run, out)| {
            let mut state = self.seed ^ mixed((first / RUN + run) as u64);
            // A draw has eight bytes, for eight numbers.
            for numbers in out.as_chunks_mut::<N>().0.chunks_mut(8) {
                state = state.wrapping_add(GOLDEN);
                for (number, face) in numbers.iter_mut().zip(mixed(state).to_le_bytes()) {
                    *number = faces[usize::from(face)];
                }
            }
        });
    }
}

/// What the numbers of a tensor lie between.
fn range(tensor: &Tensor) -> (f32, f32) {
    let inputs: usize = tensor.shape.iter().skip(1).product();
    if tensor.name.ends_with("bias") {
        (-0.05, 0.05)
    } else if inputs > 1 {
        // Products keep the size of their inputs.
        let limit = (3.0 / inputs as f32).sqrt();
        (-limit, limit)
    } else {
        // Factors: of norms, and of matrices in eight bits.
        (0.95, 1.05)
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The mixing step of SplitMix64 (Steele et al., 2014).
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Every name that a pattern stands for.
fn expanded(pattern: &str) -> Option<Vec<String>> {
    let Some((before, rest)) = pattern.split_once('{') else { return Some(vec![pattern.to_owned()]) };
    let (choices, after) = rest.split_once('}')?;
    let choices: Vec<String> = match choices.split_once("..") {
        Some((first, last)) => {
            (first.parse::<usize>().ok()?..=last.parse().ok()?).map(|number| number.to_string()).collect()
        }
        None => choices.split(',').map(str::to_owned).collect(),
    };
    let ends = expanded(after)?;
    Some(
        choices
            .iter()
            .flat_map(|choice| ends.iter().map(move |end| format!("{before}{choice}{end}")))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{File, Weights};

    const LIST: &str = "# A comment.\n\nF8_E4M3 300x70 blocks.{0..2}.{a,b.c}.weight\nF8_E4M3 300 blocks.{0..2}.a.bias\n\
                        BF16 9 norm.weight\nF32 - a.scale_weight\nF8_E4M3 0 mark\n";

    fn whole() -> Layout {
        Layout::parse(LIST).unwrap()
    }

    #[test]
    fn lists_are_short_and_mistakes_in_them_are_told() {
        assert_eq!(whole().count(), 12);
        assert_eq!(whole().only(|name| !name.starts_with("blocks.1")).count(), 9);
        for (list, words) in [
            ("BF16 3", "line 1 of a list of tensors: expected a type"),
            ("\nBF61 3 x", "line 2 of a list of tensors: there is no such type"),
            ("BF16 3y x", "no shape"),
            ("BF16 3 x.{0..3", "do not close"),
        ] {
            let told = Layout::parse(list).unwrap_err().to_string();
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn files_have_the_tensors_and_random_numbers_of_a_sensible_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("random.safetensors");
        let mut written = 0;
        whole()
            .write_random(&path, 1, &mut |bytes| {
                written += bytes;
                Ok(())
            })
            .unwrap();
        assert_eq!(written, whole().file_bytes());
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, written);
        // The library that others read with agrees.
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), 12);
        let weights = Weights::new(File::open(&path).unwrap(), "");
        let matrix = weights.stored("blocks.2.b.c.weight", &[300, 70]).unwrap().to_vec();
        let mean_square = matrix.iter().map(|x| x * x).sum::<f32>() / matrix.len() as f32;
        assert!((mean_square * 70.0 - 1.0).abs() < 0.05, "{mean_square}");
        assert!(weights.stored("norm.weight", &[9]).unwrap().to_vec().iter().all(|x| (x - 1.0).abs() < 0.06));
        assert!((weights.scalar("a.scale_weight").unwrap().unwrap() - 1.0).abs() < 0.06);
    }

    #[test]
    fn a_seed_makes_the_same_file_and_another_seed_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, seed| {
            let path = folder.path().join(name);
            whole().write_random(&path, seed, &mut |_| Ok(())).unwrap();
            std::fs::read(path).unwrap()
        };
        assert!(made("a", 1) == made("b", 1) && made("a", 1) != made("c", 2));
    }

    #[test]
    fn work_that_is_stopped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let stopped =
            whole().write_random(&folder.path().join("x"), 1, &mut |_| Err(io::Error::other("stop")));
        assert!(stopped.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_empty_file_is_all_there_to_a_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.safetensors");
        whole().write_empty(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(file.header().shape("blocks.0.a.weight"), Some(&[300, 70][..]));
    }
}
