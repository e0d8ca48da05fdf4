//! PNG files with text chunks: the workflow a picture was made with travels inside it.

use std::borrow::Cow;
use std::io::{BufRead, Cursor, Seek};

use ::png::{BitDepth, ColorType, DeflateCompression, Encoder, Filter};

use super::picture::Picture;
use super::{Error, Image, Result};

/// Deflate level of saved pictures.
pub const SAVE_LEVEL: u8 = 4;
/// Deflate level of pictures that are looked at once.
pub const PREVIEW_LEVEL: u8 = 1;

impl Picture {
    /// PNG with one chunk per `(keyword, text)`: `tEXt` where Latin-1 can hold the text, `iTXt` elsewhere.
    /// Keywords PNG has no room for (none, more than 79 letters, not Latin-1) are left out.
    pub fn to_png(&self, level: u8, texts: &[(String, String)]) -> Result<Vec<u8>> {
        write(self.size(), self.channels(), BitDepth::Eight, self.bytes(), level, texts)
            .map_err(|error| self.encode_error("PNG", error.to_string()))
    }
}

impl Image {
    /// One picture of the batch as PNG with 16 bits a channel, otherwise as [`Picture::to_png`].
    pub fn to_png_16(&self, index: usize, level: u8, texts: &[(String, String)]) -> Result<Vec<u8>> {
        let (channels, values) = self.shown(index);
        let bytes: Vec<u8> = values.flat_map(|value| ((value * 65535.0) as u16).to_be_bytes()).collect();
        write(self.size(), channels, BitDepth::Sixteen, &bytes, level, texts).map_err(|error| {
            let (width, height) = self.size();
            Error::Encode { format: "PNG", width, height, problem: error.to_string() }
        })
    }
}

fn write(
    (width, height): (usize, usize),
    channels: usize,
    depth: BitDepth,
    pixels: &[u8],
    level: u8,
    texts: &[(String, String)],
) -> Result<Vec<u8>, ::png::EncodingError> {
    let mut file = Vec::new();
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let mut encoder = Encoder::new(&mut file, side(width), side(height));
    encoder.set_color(if channels == 4 { ColorType::Rgba } else { ColorType::Rgb });
    encoder.set_depth(depth);
    encoder.set_deflate_compression(DeflateCompression::Level(level));
    encoder.set_filter(Filter::Adaptive);
    for (keyword, text) in texts.iter().filter(|(keyword, _)| is_keyword(keyword)) {
        if is_latin1(text) {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}

fn is_keyword(keyword: &str) -> bool {
    is_latin1(keyword) && (1..=79).contains(&keyword.chars().count())
}

fn is_latin1(text: &str) -> bool {
    text.chars().all(|letter| u32::from(letter) < 256)
}

/// What stands in the header of a PNG file that decoding to pixels loses.
pub(super) struct Header {
    pub color: ColorType,
    /// Some colours are see-through although the pixels have no alpha.
    pub transparency: bool,
}

pub(super) fn header(file: impl BufRead + Seek) -> Option<Header> {
    let reader = ::png::Decoder::new(file).read_info().ok()?;
    let info = reader.info();
    Some(Header { color: info.color_type, transparency: info.trns.is_some() })
}

/// The text chunks of a PNG file, in file order by kind; nothing for any other file.
pub fn text_chunks(file: &[u8]) -> Vec<(String, String)> {
    /// Compressed chunks may not grow beyond this.
    const LONGEST: usize = 64 << 20;
    let Ok(mut reader) = ::png::Decoder::new(Cursor::new(file)).read_info() else { return Vec::new() };
    // Chunks may also follow the pixels.
    let _ = reader.finish();
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let compressed = info.compressed_latin1_text.iter().filter_map(|chunk| {
        let mut chunk = Cow::Borrowed(chunk);
        chunk.to_mut().decompress_text_with_limit(LONGEST).ok()?;
        Some((chunk.keyword.clone(), chunk.get_text().ok()?))
    });
    let unicode = info.utf8_text.iter().filter_map(|chunk| {
        let mut chunk = Cow::Borrowed(chunk);
        chunk.to_mut().decompress_text_with_limit(LONGEST).ok()?;
        Some((chunk.keyword.clone(), chunk.get_text().ok()?))
    });
    plain.chain(compressed).chain(unicode).collect()
}
