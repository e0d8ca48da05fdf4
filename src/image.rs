//! Pixels and files of pixels: PNG, JPEG, WebP and others in, PNG, JPEG and WebP out, text chunks,
//! resizing, masks.
//!
//! Two shapes of picture: [`Image`] and [`Mask`] are batches of floats as nodes pass them on,
//! [`Picture`] is one 8-bit picture as files hold it. Deliberately knows no latents and no nodes.

mod animation;
mod canny;
mod decode;
mod encode;
mod picture;
mod pillow;
mod pixels;
mod png;
mod quantize;
mod resize;

use std::path::PathBuf;

pub use animation::{WebpSettings, to_animated_webp, to_apng};
pub use canny::canny;
pub use decode::{Alpha, Channel, Frame, Turn, decode, load, load_channel, open};
pub use encode::write_file;
pub use picture::Picture;
pub use pillow::Kernel;
pub use pixels::{Image, Mask};
pub use png::{PREVIEW_LEVEL, SAVE_LEVEL, text_chunks};
pub use quantize::{Dither, quantized};
pub use resize::{Crop, Filter, center_crop, resize};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{name} is empty (0 bytes); send the file again")]
    Empty { name: String },
    #[error("{name} is not a picture; expected PNG, JPEG, WebP, GIF, BMP or TIFF")]
    NotAPicture { name: String },
    #[error("{name} is damaged or cut off: {source}")]
    Damaged { name: String, source: ::image::ImageError },
    #[error(
        "{name} has {width}x{height} pixels; the most that is read is {} in all frames",
        decode::MAX_PIXELS
    )]
    TooLarge { name: String, width: u32, height: u32 },
    #[error("cannot encode a picture of {width}x{height} pixels as {format}: {problem}")]
    Encode { format: &'static str, width: usize, height: usize, problem: String },
    #[error("a picture needs at least one pixel each way; asked for {width}x{height}")]
    NoPixels { width: usize, height: usize },
    #[error("not enough memory for {count} pixel values; make fewer or smaller pictures")]
    OutOfMemory { count: usize },
    #[error("the pictures have different sizes: expected {expected:?}, found {found:?} (width, height)")]
    SizesDiffer { expected: (usize, usize), found: (usize, usize) },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
