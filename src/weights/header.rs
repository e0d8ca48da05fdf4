//! The table of contents of a safetensors file: names, shapes and types; no data.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use serde::Deserialize;

use super::dtype::Dtype;

/// What is wrong with a file that should be safetensors.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("it is empty (0 bytes); download it again")]
    Empty,
    #[error("it is a {0}; expected a .safetensors file, convert or download that one")]
    OtherFormat(&'static str),
    #[error("it is too short to be a safetensors file ({0} bytes); download it again")]
    TooShort(usize),
    #[error(
        "its header should be {expected} bytes long but only {found} bytes follow; it is truncated, or not \
         a safetensors file"
    )]
    HeaderCut { expected: u64, found: usize },
    #[error("its header is not valid JSON, so it is corrupt or not a safetensors file: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its entry for tensor `{name}` is malformed: {source}")]
    Entry { name: String, source: serde_json::Error },
    #[error("tensor `{name}` has the unknown type `{dtype}`")]
    Dtype { name: String, dtype: String },
    #[error(
        "tensor `{name}` of shape {shape:?} and type {dtype} needs {expected} bytes, but its offsets span {found}"
    )]
    Size { name: String, shape: Vec<usize>, dtype: &'static str, expected: String, found: usize },
    #[error("tensor `{name}` ends before it begins (offsets {begin} to {end})")]
    Backwards { name: String, begin: usize, end: usize },
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap { first: String, second: String },
    #[error("it is truncated: its tensors need {expected} bytes, {found} are there; download it again")]
    Truncated { expected: usize, found: usize },
}

/// Where one tensor lies in its file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub bytes: Range<usize>,
}

impl Entry {
    /// One of so many parts of a matrix, each as high as the others.
    fn rows(&self, part: usize, parts: usize) -> Option<Self> {
        let [rows, others @ ..] = self.shape.as_slice() else { return None };
        if others.is_empty() || rows % parts != 0 {
            return None;
        }
        let length = self.bytes.len() / parts;
        let start = self.bytes.start + part * length;
        let shape = [&[rows / parts], others].concat();
        Some(Self { dtype: self.dtype, shape, bytes: start..start + length })
    }
}

/// Names, shapes and types of the tensors of one file, checked against the file's length.
#[derive(Clone, Debug, Default)]
pub struct Header {
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

const LENGTH_BYTES: usize = 8;

impl Header {
    /// Reads and checks the header of a whole file: eight bytes of length, JSON, data.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let json = json_part(file)?;
        let data_start = LENGTH_BYTES + json.len();
        let raw: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json)?;
        let mut header = Self::default();
        for (name, value) in raw {
            if name == "__metadata__" {
                header.metadata =
                    serde_json::from_value(value).map_err(|source| HeaderError::Entry { name, source })?;
            } else {
                let entry = checked_entry(&name, value, data_start)?;
                header.entries.insert(name, entry);
            }
        }
        header.check_layout(data_start, file.len())?;
        Ok(header)
    }

    fn check_layout(&self, data_start: usize, file_length: usize) -> Result<(), HeaderError> {
        let mut by_place: Vec<_> = self.entries.iter().filter(|(_, entry)| !entry.bytes.is_empty()).collect();
        by_place.sort_by_key(|(_, entry)| entry.bytes.start);
        for pair in by_place.windows(2) {
            if pair[0].1.bytes.end > pair[1].1.bytes.start {
                return Err(HeaderError::Overlap { first: pair[0].0.clone(), second: pair[1].0.clone() });
            }
        }
        match by_place.last() {
            Some((_, last)) if last.bytes.end > file_length => Err(HeaderError::Truncated {
                expected: last.bytes.end - data_start,
                found: file_length - data_start,
            }),
            _ => Ok(()),
        }
    }

    /// The same tensors for whoever knows each matrix called `…fused.…` as several of equal height: `…apart[0].…` is its
    /// first rows. What else is called so is all of theirs. Nothing if there is none.
    pub(super) fn with_rows_apart(&self, fused: &str, apart: &[&str]) -> Option<Self> {
        let place = |name: &str| {
            let (module, ending) = name.rsplit_once('.')?;
            Some((module.strip_suffix(fused)?.to_owned(), ending.to_owned()))
        };
        let found: Vec<_> =
            self.entries.iter().filter_map(|(name, entry)| Some((name, entry, place(name)?))).collect();
        if found.is_empty() {
            return None;
        }
        let mut header = self.clone();
        for (name, entry, (start, ending)) in found {
            header.entries.remove(name);
            for (part, called) in apart.iter().enumerate() {
                let own = entry.rows(part, apart.len()).unwrap_or_else(|| entry.clone());
                header.entries.insert(format!("{start}{called}.{ending}"), own);
            }
        }
        Some(header)
    }

    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|entry| entry.shape.as_slice())
    }

    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.get(name).map(|entry| entry.dtype)
    }

    /// All names that start with `prefix`, sorted.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
    }

    /// How many numbered children a place has: one more than the highest N of `place.N.…`.
    pub fn count(&self, place: &str) -> usize {
        let prefix = format!("{place}.");
        let numbers =
            self.names(&prefix).filter_map(|name| name[prefix.len()..].split('.').next()?.parse().ok());
        numbers.max().map_or(0, |highest: usize| highest + 1)
    }

    /// The file's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Cuts the JSON out of the file, or tells what the file is instead.
fn json_part(file: &[u8]) -> Result<&[u8], HeaderError> {
    const OTHERS: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "PyTorch pickle (.ckpt, .pt, .bin)"),
        (b"\x80\x02", "pickle"),
        (b"GGUF", "GGUF file"),
        (b"<!DOCTYPE", "web page (a failed download)"),
        (b"<html", "web page (a failed download)"),
        (b"version https://git-lfs", "Git LFS pointer, not the file itself"),
    ];
    if file.is_empty() {
        return Err(HeaderError::Empty);
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| file.starts_with(magic)) {
        return Err(HeaderError::OtherFormat(what));
    }
    let (length, rest) = file.split_first_chunk().ok_or(HeaderError::TooShort(file.len()))?;
    let expected = u64::from_le_bytes(*length);
    usize::try_from(expected)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or(HeaderError::HeaderCut { expected, found: rest.len() })
}

fn checked_entry(name: &str, value: serde_json::Value, data_start: usize) -> Result<Entry, HeaderError> {
    let raw: RawEntry = serde_json::from_value(value)
        .map_err(|source| HeaderError::Entry { name: name.to_owned(), source })?;
    let dtype = Dtype::named(&raw.dtype)
        .ok_or_else(|| HeaderError::Dtype { name: name.to_owned(), dtype: raw.dtype.clone() })?;
    let (begin, end) = raw.data_offsets;
    let backwards = || HeaderError::Backwards { name: name.to_owned(), begin, end };
    let found = end.checked_sub(begin).ok_or_else(backwards)?;
    let expected = raw.shape.iter().try_fold(dtype.width_bytes(), |bytes, side| bytes.checked_mul(*side));
    if expected != Some(found) {
        return Err(HeaderError::Size {
            name: name.to_owned(),
            shape: raw.shape,
            dtype: dtype.name(),
            expected: expected.map_or("too many".to_owned(), |bytes| bytes.to_string()),
            found,
        });
    }
    // An offset that overflows is as far behind the end of the file as one can point.
    let bytes = data_start.saturating_add(begin)..data_start.saturating_add(end);
    Ok(Entry { dtype, shape: raw.shape, bytes })
}
