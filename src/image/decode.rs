//! Reading picture files: every format becomes RGBA in 8 bits, and what the file said about its
//! transparency is kept beside the pixels, because ComfyUI's rules for masks depend on it.

mod gif;
mod jpeg;
mod webp;

use std::io::Cursor;
use std::path::Path;

use ::image::codecs::png::PngDecoder;
use ::image::metadata::Orientation;
use ::image::{
    AnimationDecoder, DynamicImage, Frames, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
};
use ::png::ColorType;

use super::picture::Picture;
use super::pixels::{Image, Mask};
use super::png::{Header, header};
use super::{Error, Result};

/// More pixels than this in one file, all frames counted, is a trap and not a picture.
pub(super) const MAX_PIXELS: u64 = 178_956_970;

/// The side of the mask a picture without transparency has, whatever its own size: ComfyUI's oddity,
/// kept because workflows test for it.
const EMPTY_MASK_SIDE: usize = 64;

/// Where a file keeps its transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpha {
    None,
    /// One colour is declared see-through. It counts where RGBA is asked for, not as LoadImage's mask.
    KeyColor,
    /// Some colours of the palette are see-through.
    Palette,
    /// Grey pixels have an alpha each.
    Gray,
    /// Coloured pixels have an alpha each.
    Color,
}

/// One picture of a file.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Always 4 channels.
    pub rgba: Picture,
    pub alpha: Alpha,
}

/// A channel of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Red,
    Green,
    Blue,
    Alpha,
}

/// Whether a camera's note on how it was held is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Upright,
    AsStored,
}

/// What LoadImage gives: the frames of a file as a batch, turned upright, and a mask that is 1 where
/// they are see-through (64 x 64 zeros when the file has no transparency).
pub fn load(path: &Path) -> Result<(Image, Mask)> {
    let mut frames = open(path, Turn::Upright)?;
    let size = frames.first().map(|frame| frame.rgba.size());
    frames.retain(|frame| Some(frame.rgba.size()) == size);
    let pictures: Vec<Picture> = frames.iter().map(|frame| frame.rgba.clone()).collect();
    let image = Image::from_pictures(&pictures)?;
    let see_through = |frame: &Frame| !matches!(frame.alpha, Alpha::None | Alpha::KeyColor);
    let mask = if frames.iter().any(see_through) {
        let mut mask = Mask::filled([image.batch(), image.height(), image.width()], 0.0)?;
        let opacity = pictures.iter().flat_map(Picture::alpha);
        mask.data_mut().iter_mut().zip(opacity).for_each(|(to, alpha)| *to = 1.0 - f32::from(alpha) / 255.0);
        mask
    } else {
        Mask::filled([image.batch(), EMPTY_MASK_SIDE, EMPTY_MASK_SIDE], 0.0)?
    };
    Ok((image, mask))
}

/// What LoadImageMask gives: one channel of the first frame, alpha turned round.
pub fn load_channel(path: &Path, channel: Channel) -> Result<Mask> {
    let frames = open(path, Turn::Upright)?;
    let Some(Frame { rgba, .. }) = frames.first() else {
        return Mask::filled([1, EMPTY_MASK_SIDE, EMPTY_MASK_SIDE], 0.0);
    };
    let values = rgba.bytes().chunks_exact(4).map(|pixel| f32::from(pixel[channel as usize]) / 255.0);
    let values = match channel {
        Channel::Alpha => values.map(|value| 1.0 - value).collect(),
        Channel::Red | Channel::Green | Channel::Blue => values.collect(),
    };
    Ok(Mask::new([1, rgba.height(), rgba.width()], values))
}

/// The frames of a picture file, in order; there is at least one.
pub fn open(path: &Path, turn: Turn) -> Result<Vec<Frame>> {
    let file = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    decode(&file, &name.to_string_lossy(), turn)
}

/// The frames of a picture file held in memory; `name` is what errors call it.
pub fn decode(file: &[u8], name: &str, turn: Turn) -> Result<Vec<Frame>> {
    if file.is_empty() {
        return Err(Error::Empty { name: name.to_owned() });
    }
    let source = Source { file, name, turn };
    let format = ::image::guess_format(file).map_err(|_| source.not_a_picture())?;
    match format {
        ImageFormat::Jpeg => source.jpeg(),
        ImageFormat::Png => source.png(),
        ImageFormat::Gif => source.gif(),
        ImageFormat::WebP => source.webp(),
        ImageFormat::Bmp | ImageFormat::Tiff => {
            let reader = ImageReader::with_format(Cursor::new(file), format);
            source.still(reader.into_decoder().map_err(|error| source.damaged(error))?, None)
        }
        _ => Err(source.not_a_picture()),
    }
}

/// A file being decoded.
struct Source<'a> {
    file: &'a [u8],
    name: &'a str,
    turn: Turn,
}

impl Source<'_> {
    fn png(&self) -> Result<Vec<Frame>> {
        let decoder = PngDecoder::new(Cursor::new(self.file)).map_err(|error| self.damaged(error))?;
        let alpha = header(Cursor::new(self.file)).map(|header| png_alpha(&header));
        if decoder.is_apng().unwrap_or(false) && decoder.color_type().bytes_per_pixel() <= 4 {
            self.fits(decoder.dimensions(), 1)?;
            let animation = decoder.apng().map_err(|error| self.damaged(error))?;
            return self.animation(animation.into_frames(), alpha.unwrap_or(Alpha::None));
        }
        self.still(decoder, alpha)
    }

    /// One picture; `alpha` where the file knows more than the decoded pixels.
    fn still(&self, mut decoder: impl ImageDecoder, alpha: Option<Alpha>) -> Result<Vec<Frame>> {
        self.fits(decoder.dimensions(), 1)?;
        let damaged = |error| self.damaged(error);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_PIXELS * 16);
        decoder.set_limits(limits).map_err(damaged)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        let alpha = alpha.unwrap_or(match (image.color().has_alpha(), image.color().has_color()) {
            (false, _) => Alpha::None,
            (true, false) => Alpha::Gray,
            (true, true) => Alpha::Color,
        });
        Ok(vec![self.frame(image, orientation, alpha)])
    }

    fn frame(&self, mut image: DynamicImage, orientation: Orientation, alpha: Alpha) -> Frame {
        if self.turn == Turn::Upright {
            image.apply_orientation(orientation);
        }
        Frame { rgba: to_picture(image), alpha }
    }

    fn animation(&self, frames: Frames, alpha: Alpha) -> Result<Vec<Frame>> {
        let mut all = Vec::new();
        for frame in frames {
            let image = frame.map_err(|error| self.damaged(error))?.into_buffer();
            self.fits(image.dimensions(), all.len() + 1)?;
            all.push(self.frame(image.into(), Orientation::NoTransforms, alpha));
        }
        if all.is_empty() {
            return Err(self.not_a_picture());
        }
        Ok(all)
    }

    fn fits(&self, (width, height): (u32, u32), frames: usize) -> Result<()> {
        if u64::from(width) * u64::from(height) * frames as u64 > MAX_PIXELS {
            return Err(Error::TooLarge { name: self.name.to_owned(), width, height });
        }
        Ok(())
    }

    fn damaged(&self, source: ImageError) -> Error {
        match source {
            ImageError::Unsupported(_) => self.not_a_picture(),
            source => Error::Damaged { name: self.name.to_owned(), source },
        }
    }

    fn not_a_picture(&self) -> Error {
        Error::NotAPicture { name: self.name.to_owned() }
    }
}

fn png_alpha(header: &Header) -> Alpha {
    match (header.color, header.transparency) {
        (ColorType::GrayscaleAlpha, _) => Alpha::Gray,
        (ColorType::Rgba, _) => Alpha::Color,
        (ColorType::Indexed, true) => Alpha::Palette,
        (ColorType::Grayscale | ColorType::Rgb, true) => Alpha::KeyColor,
        (_, false) => Alpha::None,
    }
}

/// RGBA in 8 bits. Of 16 bits the upper 8 are kept, save for plain grey, which ComfyUI scales by 1/255
/// and clips.
fn to_picture(image: DynamicImage) -> Picture {
    let size = (image.width() as usize, image.height() as usize);
    let high = |value: u16| (value >> 8) as u8;
    let bytes = match image {
        DynamicImage::ImageLuma16(image) => {
            let gray = image.into_raw().into_iter().map(|value| (value / 255).min(255) as u8);
            gray.flat_map(|gray| [gray, gray, gray, 255]).collect()
        }
        DynamicImage::ImageLumaA16(image) => {
            image.pixels().flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[1]].map(high)).collect()
        }
        DynamicImage::ImageRgb16(image) => {
            image.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2], u16::MAX].map(high)).collect()
        }
        DynamicImage::ImageRgba16(image) => image.into_raw().into_iter().map(high).collect(),
        other => other.into_rgba8().into_raw(),
    };
    Picture::new(size, 4, bytes)
}
