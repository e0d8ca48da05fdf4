//! JPEG, with the chroma interpolation of libjpeg and no mercy for files that end early.

use std::io::Cursor;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, GrayImage, ImageBuffer, ImageError, RgbImage};
use jpeg_decoder::{Decoder, Error as JpegError, PixelFormat};

use super::{Alpha, Frame, MAX_PIXELS, Source};
use crate::image::Result;

impl Source<'_> {
    pub(super) fn jpeg(&self) -> Result<Vec<Frame>> {
        let damaged = |error: JpegError| self.damaged(decoding_error(error));
        let mut decoder = Decoder::new(Cursor::new(self.file));
        decoder.set_max_decoding_buffer_size(MAX_PIXELS as usize * 4);
        decoder.read_info().map_err(damaged)?;
        let Some(info) = decoder.info() else { return Err(self.not_a_picture()) };
        let (width, height) = (u32::from(info.width), u32::from(info.height));
        self.fits((width, height), 1)?;
        let bytes = decoder.decode().map_err(damaged)?;
        let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk);
        let image = match info.pixel_format {
            PixelFormat::L8 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
            PixelFormat::RGB24 => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
            PixelFormat::CMYK32 => {
                RgbImage::from_raw(width, height, from_cmyk(&bytes)).map(DynamicImage::from)
            }
            PixelFormat::L16 => {
                let values = bytes.as_chunks().0.iter().map(|pair| u16::from_ne_bytes(*pair)).collect();
                ImageBuffer::from_raw(width, height, values).map(DynamicImage::ImageLuma16)
            }
        };
        let image = image.ok_or_else(|| self.not_a_picture())?;
        Ok(vec![self.frame(image, orientation.unwrap_or(Orientation::NoTransforms), Alpha::None)])
    }
}

fn decoding_error(error: JpegError) -> ImageError {
    match error {
        JpegError::Io(error) => ImageError::IoError(error),
        error => ImageError::Decoding(::image::error::DecodingError::new(
            ::image::error::ImageFormatHint::Exact(::image::ImageFormat::Jpeg),
            error,
        )),
    }
}

/// Ink to light without a colour profile, as Pillow does it.
fn from_cmyk(bytes: &[u8]) -> Vec<u8> {
    let pixels = bytes.as_chunks::<4>().0.iter();
    pixels
        .flat_map(|[cyan, magenta, yellow, black]| {
            let light = 255 - u32::from(*black);
            [cyan, magenta, yellow].map(|ink| {
                let product = u32::from(*ink) * light + 128;
                (light - (((product >> 8) + product) >> 8)) as u8
            })
        })
        .collect()
}
