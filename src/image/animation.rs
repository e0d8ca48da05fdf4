//! Pictures in motion: animated PNG and WebP, with texts inside.

use ::png::chunk::ChunkType;
use ::png::{BitDepth, ColorType, DeflateCompression, Encoder};
use webp::{AnimEncoder, AnimFrame, WebPConfig};

use super::picture::Picture;
use super::{Error, Result};

/// Compression of an animated WebP.
#[derive(Clone, Copy, Debug)]
pub struct WebpSettings {
    pub lossless: bool,
    /// 0 to 100.
    pub quality: u8,
    /// 0 (fast) to 6 (small).
    pub effort: u8,
}

/// An animated PNG, each frame shown for some milliseconds; a single frame is a plain PNG. Texts go into
/// ComfyUI's own `comf` chunks behind the pixels.
pub fn to_apng(
    frames: &[Picture],
    milliseconds: u16,
    level: u8,
    texts: &[(String, String)],
) -> Result<Vec<u8>> {
    let Some(first) = frames.first() else { return Err(no_frames("PNG")) };
    same_size(frames)?;
    let fail = |error: ::png::EncodingError| first.encode_error("PNG", error.to_string());
    let write = || {
        let mut file = Vec::new();
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let mut encoder = Encoder::new(&mut file, side(first.width()), side(first.height()));
        encoder.set_color(if first.channels() == 4 { ColorType::Rgba } else { ColorType::Rgb });
        encoder.set_depth(BitDepth::Eight);
        encoder.set_deflate_compression(DeflateCompression::Level(level));
        if frames.len() > 1 {
            encoder.set_animated(side(frames.len()), 0)?;
            encoder.set_frame_delay(milliseconds, 1000)?;
        }
        let mut writer = encoder.write_header()?;
        for frame in frames {
            writer.write_image_data(frame.bytes())?;
        }
        for (key, text) in texts {
            let chunk = [key.as_bytes(), b"\0", text.as_bytes()].concat();
            writer.write_chunk(ChunkType(*b"comf"), &chunk)?;
        }
        writer.finish()?;
        Ok(file)
    };
    write().map_err(fail)
}

/// An animated WebP, each frame shown for some milliseconds; a single frame is a plain WebP. Texts go into its
/// EXIF tags.
pub fn to_animated_webp(
    frames: &[Picture],
    milliseconds: i32,
    settings: WebpSettings,
    tags: &[(u16, String)],
) -> Result<Vec<u8>> {
    let Some(first) = frames.first() else { return Err(no_frames("WebP")) };
    same_size(frames)?;
    let fail = |problem: String| first.encode_error("WebP", problem);
    let mut config = WebPConfig::new().map_err(|()| fail("the encoder does not start".to_owned()))?;
    config.lossless = settings.lossless.into();
    config.quality = f32::from(settings.quality.min(100));
    config.method = settings.effort.min(6).into();
    let (width, height) = (first.width() as u32, first.height() as u32);
    let file = if let [only] = frames {
        let encoder = match only.channels() {
            4 => webp::Encoder::from_rgba(only.bytes(), width, height),
            _ => webp::Encoder::from_rgb(only.bytes(), width, height),
        };
        encoder.encode_advanced(&config).map_err(|error| fail(format!("{error:?}")))?
    } else {
        let mut encoder = AnimEncoder::new(width, height, &config);
        for (picture, start) in frames.iter().zip((0..).step_by(milliseconds.max(1) as usize)) {
            encoder.add_frame(frame(picture, start));
        }
        encoder.try_encode().map_err(|error| fail(format!("{error:?}")))?
    };
    with_exif(&file, first, &exif(tags)).ok_or_else(|| fail("the encoder wrote no WebP file".to_owned()))
}

/// One frame, shown from `start` on.
fn frame(picture: &Picture, start: i32) -> AnimFrame<'_> {
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    match picture.channels() {
        4 => AnimFrame::from_rgba(picture.bytes(), width, height, start),
        _ => AnimFrame::from_rgb(picture.bytes(), width, height, start),
    }
}

fn no_frames(format: &'static str) -> Error {
    Error::Encode { format, width: 0, height: 0, problem: "there are no pictures".to_owned() }
}

fn same_size(frames: &[Picture]) -> Result<()> {
    let size = |picture: &Picture| (picture.size(), picture.channels());
    match frames.iter().find(|frame| size(frame) != size(&frames[0])) {
        Some(other) => Err(Error::SizesDiffer { expected: frames[0].size(), found: other.size() }),
        None => Ok(()),
    }
}

/// A TIFF block of ASCII tags.
fn exif(tags: &[(u16, String)]) -> Vec<u8> {
    const ASCII: u16 = 2;
    const FIRST: u32 = 8;
    let mut tags: Vec<&(u16, String)> = tags.iter().collect();
    tags.sort_by_key(|(tag, _)| *tag);
    let mut block = b"II*\0".to_vec();
    block.extend(FIRST.to_le_bytes());
    block.extend((tags.len() as u16).to_le_bytes());
    let mut texts = Vec::new();
    let behind = FIRST + 2 + 12 * tags.len() as u32 + 4;
    for (tag, text) in tags {
        let length = text.len() as u32 + 1;
        block.extend(tag.to_le_bytes());
        block.extend(ASCII.to_le_bytes());
        block.extend(length.to_le_bytes());
        if length > 4 {
            block.extend((behind + texts.len() as u32).to_le_bytes());
            texts.extend(text.bytes().chain([0]));
        } else {
            let mut inside = [0; 4];
            inside[..text.len()].copy_from_slice(text.as_bytes());
            block.extend(inside);
        }
    }
    block.extend(0u32.to_le_bytes());
    block.extend(texts);
    block
}

/// A WebP file with an EXIF chunk at its end; `None` for anything else.
fn with_exif(file: &[u8], picture: &Picture, exif: &[u8]) -> Option<Vec<u8>> {
    const HAS_EXIF: u8 = 0x08;
    const HAS_ALPHA: u8 = 0x10;
    let chunks = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WEBP")?;
    let mut body = b"WEBP".to_vec();
    if let Some(rest) = chunks.strip_prefix(b"VP8X") {
        body.extend(b"VP8X");
        body.extend(rest);
        *body.get_mut(12)? |= HAS_EXIF;
    } else {
        let side = |side: usize| (side as u32 - 1).to_le_bytes();
        let alpha = if picture.channels() == 4 { HAS_ALPHA } else { 0 };
        body.extend(b"VP8X\x0a\0\0\0");
        body.extend([HAS_EXIF | alpha, 0, 0, 0]);
        body.extend(&side(picture.width())[..3]);
        body.extend(&side(picture.height())[..3]);
        body.extend(chunks);
    }
    body.extend(b"EXIF");
    body.extend((exif.len() as u32).to_le_bytes());
    body.extend(exif);
    if exif.len() % 2 == 1 {
        body.push(0);
    }
    Some([b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat())
}
