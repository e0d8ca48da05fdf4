//! Writes small safetensors files, valid ones and broken ones.

use std::path::{Path, PathBuf};

/// A tensor to write: name, dtype word, shape, bytes.
pub struct Entry<'a>(pub &'a str, pub &'static str, pub Vec<usize>, pub Vec<u8>);

impl<'a> Entry<'a> {
    pub fn f32(name: &'a str, shape: &[usize], values: &[f32]) -> Self {
        Self(name, "F32", shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn fp8(name: &'a str, shape: &[usize], codes: &[u8]) -> Self {
        Self(name, "F8_E4M3", shape.to_vec(), codes.to_vec())
    }
}

/// Writes a valid file of `entries` into `folder`.
pub fn write(folder: &Path, name: &str, entries: &[Entry<'_>]) -> PathBuf {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for Entry(name, dtype, shape, bytes) in entries {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            (*name).to_owned(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        data.extend(bytes);
    }
    write_raw(folder, name, &serde_json::Value::Object(header).to_string(), &data)
}

/// Writes a file with any header and any data.
pub fn write_raw(folder: &Path, name: &str, header: &str, data: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(&path, bytes).unwrap();
    path
}
