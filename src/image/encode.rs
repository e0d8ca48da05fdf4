//! Pictures as bytes of a file, and files written whole or not at all.

use std::path::Path;

use ::image::ExtendedColorType;
use ::image::codecs::jpeg::JpegEncoder;

use super::picture::Picture;
use super::{Error, Result};

impl Picture {
    /// JPEG without alpha; `quality` is 1 to 100.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>> {
        let fail = |problem: String| self.encode_error("JPEG", problem);
        let (Ok(width), Ok(height)) = (u32::try_from(self.width()), u32::try_from(self.height())) else {
            return Err(fail("too large".to_owned()));
        };
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100))
            .encode(self.to_rgb().bytes(), width, height, ExtendedColorType::Rgb8)
            .map_err(|error| fail(error.to_string()))?;
        Ok(file)
    }

    /// Lossy WebP, with alpha where there is some; `quality` is 0 to 100.
    pub fn to_webp(&self, quality: u8) -> Result<Vec<u8>> {
        const LONGEST: usize = 16_383;
        if self.width().max(self.height()) > LONGEST || self.bytes().is_empty() {
            let problem = format!("the format holds sides of 1 to {LONGEST} pixels");
            return Err(self.encode_error("WebP", problem));
        }
        let (width, height) = (self.width() as u32, self.height() as u32);
        let encoder = match self.channels() {
            4 => webp::Encoder::from_rgba(self.bytes(), width, height),
            _ => webp::Encoder::from_rgb(self.bytes(), width, height),
        };
        let file = encoder.encode_simple(false, f32::from(quality.min(100)));
        file.map(|file| file.to_vec()).map_err(|error| self.encode_error("WebP", format!("{error:?}")))
    }

    pub(super) fn encode_error(&self, format: &'static str, problem: String) -> Error {
        Error::Encode { format, width: self.width(), height: self.height(), problem }
    }
}

/// Writes `bytes` under another name in the same folder first, so that nobody ever sees half a file.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(path.file_name().unwrap_or_default());
    unfinished.push(".unfinished");
    let unfinished = path.with_file_name(unfinished);
    std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path)).map_err(|source| {
        // The first error is the one to tell; the leftover may not even exist.
        let _ = std::fs::remove_file(&unfinished);
        Error::Write { path: path.to_owned(), source }
    })
}
