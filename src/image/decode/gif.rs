//! GIF: frames put over each other; the first one decides about transparency, as in Pillow.

use std::io::Cursor;

use ::image::codecs::gif::GifDecoder;
use ::image::{AnimationDecoder, ImageDecoder};

use super::{Alpha, Frame, Source};
use crate::image::{Picture, Result};

impl Source<'_> {
    pub(super) fn gif(&self) -> Result<Vec<Frame>> {
        let decoder = GifDecoder::new(Cursor::new(self.file)).map_err(|error| self.damaged(error))?;
        self.fits(decoder.dimensions(), 1)?;
        let Some(hidden) = hidden_color(self.file) else {
            return self.animation(decoder.into_frames(), Alpha::None);
        };
        let mut frames = self.animation(decoder.into_frames(), Alpha::Palette)?;
        for frame in &mut frames {
            let mut bytes = frame.rgba.bytes().to_vec();
            for pixel in bytes.chunks_exact_mut(4).filter(|pixel| pixel[3] == 0) {
                pixel[..3].copy_from_slice(&hidden);
            }
            frame.rgba = Picture::new(frame.rgba.size(), 4, bytes);
        }
        Ok(frames)
    }
}

/// The colour the palette holds under the pixels that are see-through; `None` when none are.
fn hidden_color(file: &[u8]) -> Option<[u8; 3]> {
    let mut decoder = gif::DecodeOptions::new().read_info(Cursor::new(file)).ok()?;
    let frame = decoder.next_frame_info().ok()??;
    let at = 3 * usize::from(frame.transparent?);
    let own = frame.palette.clone();
    let palette = own.as_deref().or(decoder.global_palette()).unwrap_or_default();
    Some(palette.get(at..at + 3).and_then(|color| color.try_into().ok()).unwrap_or_default())
}
