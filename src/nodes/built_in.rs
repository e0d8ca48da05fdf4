//! The tiny editor that ships inside the binary, so that the main job runs before any download.
//!
//! Its files are unpacked the first time a graph asks for one, because networks read their weights
//! through a memory map. `models/tiny/README.md` says what they can do.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The built-in model could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("cannot unpack the built-in `{name}` into {}: {source}", .cache.display())]
pub struct Error {
    pub name: &'static str,
    pub cache: PathBuf,
    pub source: io::Error,
}

/// One weight file kept compressed (zstd) in the binary.
pub struct Packed {
    /// ComfyUI's word for the model folder it would lie in.
    pub folder: &'static str,
    pub name: &'static str,
    bytes: &'static [u8],
}

macro_rules! packed {
    ($folder:literal, $name:literal) => {
        Packed {
            folder: $folder,
            name: concat!($name, ".safetensors"),
            bytes: include_bytes!(concat!("../../models/tiny/", $folder, "/", $name, ".safetensors.zst")),
        }
    };
}

pub const FILES: &[Packed] = &[
    packed!("diffusion_models", "tiny_edit_diffusion_fp8_e4m3fn"),
    packed!("text_encoders", "tiny_edit_text_encoder_fp8_scaled"),
    packed!("vae", "tiny_edit_vae"),
];

/// The built-in file of that name, if there is one.
pub fn find(folder: &str, name: &str) -> Option<&'static Packed> {
    FILES.iter().find(|file| file.folder == folder && file.name == name)
}

impl Packed {
    /// The unpacked file below `cache`, written now if it is not there yet. The folder carries a digest of
    /// the packed bytes, so another version of comfyd never finds a stale file.
    pub fn unpacked(&self, cache: &Path) -> Result<PathBuf, Error> {
        self.unpack(cache).map_err(|source| Error { name: self.name, cache: cache.to_owned(), source })
    }

    fn unpack(&self, cache: &Path) -> io::Result<PathBuf> {
        let digest = Sha256::digest(self.bytes);
        let version = digest.first_chunk().map_or(0, |start| u64::from_be_bytes(*start));
        let folder = cache.join(format!("{version:016x}"));
        let path = folder.join(self.name);
        if !path.is_file() {
            fs::create_dir_all(&folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            zstd::stream::copy_decode(self.bytes, &mut file)?;
            file.flush()?;
            file.persist(&path)?;
        }
        Ok(path)
    }
}
