//! WebP. Animations are taken apart here and put together as libwebp does it: the decoder underneath
//! rounds opaque pixels when it blends them.

use std::io::{self, Cursor};

use ::image::codecs::webp::WebPDecoder;
use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, RgbaImage};

use super::{Alpha, Frame, Source};
use crate::image::Result;

impl Source<'_> {
    pub(super) fn webp(&self) -> Result<Vec<Frame>> {
        let decoder = WebPDecoder::new(Cursor::new(self.file)).map_err(|error| self.damaged(error))?;
        if !decoder.has_animation() {
            return self.still(decoder, None);
        }
        let size = decoder.dimensions();
        let alpha = if decoder.color_type().has_alpha() { Alpha::Color } else { Alpha::None };
        self.fits(size, 1)?;
        if is_cut_off(self.file) {
            let cut_off = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(self.damaged(ImageError::IoError(cut_off)));
        }
        let mut canvas = Canvas::new(size);
        let mut frames = Vec::new();
        for cell in cells(self.file) {
            self.fits(size, frames.len() + 1)?;
            let decoder = WebPDecoder::new(Cursor::new(cell.file)).map_err(|error| self.damaged(error))?;
            self.fits(decoder.dimensions(), 1)?;
            let image = DynamicImage::from_decoder(decoder).map_err(|error| self.damaged(error))?;
            let shown = canvas.show(&image.into_rgba8(), &cell.place);
            frames.push(self.frame(shown.into(), Orientation::NoTransforms, alpha));
        }
        if frames.is_empty() { Err(self.not_a_picture()) } else { Ok(frames) }
    }
}

/// One picture of an animation.
struct Cell {
    place: Place,
    /// A WebP file of this picture alone.
    file: Vec<u8>,
}

struct Place {
    x: u32,
    y: u32,
    /// Laid over what is there, rather than in its place.
    blend: bool,
    /// Taken away again before the next picture.
    clear_after: bool,
}

/// Whether the file is shorter than it says.
fn is_cut_off(file: &[u8]) -> bool {
    let length = file.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    length.is_none_or(|length| file.len() < length as usize + 8)
}

/// The name and content of each RIFF chunk; stops where the file ends early.
fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_at_checked(8)?;
        let (name, length) = header.split_at(4);
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let content = rest.get(..length)?;
        bytes = rest.get(length + length % 2..).unwrap_or_default();
        Some((name, content))
    })
}

fn cells(file: &[u8]) -> impl Iterator<Item = Cell> {
    let animation = chunks(file.get(12..).unwrap_or_default());
    animation.filter(|(name, _)| name == b"ANMF").filter_map(|(_, frame)| {
        let (header, content) = frame.split_at_checked(16)?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], 0]);
        let place = Place {
            x: 2 * number(0),
            y: 2 * number(3),
            blend: header[15] & 2 == 0,
            clear_after: header[15] & 1 != 0,
        };
        Some(Cell { place, file: file_of(content, &header[6..12]) })
    })
}

/// A file around the chunks of one picture; `size` is its width and height as the format writes them.
fn file_of(content: &[u8], size: &[u8]) -> Vec<u8> {
    const HAS_ALPHA: u8 = 0x10;
    let picture = chunks(content).filter(|(name, _)| matches!(*name, b"ALPH" | b"VP8 " | b"VP8L"));
    let picture: Vec<_> = picture.collect();
    let mut features = vec![if picture.iter().any(|(name, _)| *name == b"ALPH") { HAS_ALPHA } else { 0 }];
    features.extend([0; 3]);
    features.extend(size);
    let extended = (features[0] != 0).then_some((b"VP8X".as_slice(), features.as_slice()));
    let mut body = b"WEBP".to_vec();
    for (name, content) in extended.into_iter().chain(picture) {
        body.extend(name);
        body.extend((content.len() as u32).to_le_bytes());
        body.extend(content);
        body.extend(std::iter::repeat_n(0, content.len() % 2));
    }
    [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// What the next picture is laid over.
struct Canvas {
    pixels: RgbaImage,
    /// Nothing is on it: pictures are put down as they are.
    empty: bool,
}

impl Canvas {
    fn new((width, height): (u32, u32)) -> Self {
        Self { pixels: RgbaImage::new(width, height), empty: true }
    }

    /// The canvas with `picture` on it; parts outside are cut off.
    fn show(&mut self, picture: &RgbaImage, place: &Place) -> RgbaImage {
        let mut after = place.clear_after.then(|| self.pixels.clone());
        let (width, height) = self.pixels.dimensions();
        for (x, y, pixel) in picture.enumerate_pixels() {
            let (x, y) = (place.x + x, place.y + y);
            if x < width && y < height {
                let below = self.pixels.get_pixel_mut(x, y);
                below.0 = if place.blend && !self.empty { blend(pixel.0, below.0) } else { pixel.0 };
                if let Some(after) = &mut after {
                    after.get_pixel_mut(x, y).0 = [0; 4];
                }
            }
        }
        let everywhere = picture.dimensions() == (width, height);
        self.empty = place.clear_after && (self.empty || everywhere);
        match after {
            Some(after) => std::mem::replace(&mut self.pixels, after),
            None => self.pixels.clone(),
        }
    }
}

/// Colours not multiplied by their alpha, in libwebp's whole numbers.
fn blend(above: [u8; 4], below: [u8; 4]) -> [u8; 4] {
    let alpha = u32::from(above[3]);
    match alpha {
        0 => below,
        255 => above,
        _ => {
            let rest = (u32::from(below[3]) * (256 - alpha)) >> 8;
            let total = alpha + rest;
            let scale = (1 << 24) / total;
            let mix = |above: u8, below: u8| {
                (((u32::from(above) * alpha + u32::from(below) * rest) * scale) >> 24) as u8
            };
            let [red, green, blue] = [0, 1, 2].map(|channel| mix(above[channel], below[channel]));
            [red, green, blue, total as u8]
        }
    }
}
