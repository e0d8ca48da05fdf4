//! One picture in 8 bits, as files and previews hold it.

use super::pillow::{self, Kernel};
use super::{Error, Result};

/// An 8-bit picture: (height, width, channels), row-major, 3 channels (RGB) or 4 (RGBA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    bytes: Vec<u8>,
}

impl Picture {
    /// Wraps `bytes` of a picture of `(width, height)`.
    pub fn new((width, height): (usize, usize), channels: usize, bytes: Vec<u8>) -> Self {
        assert!(matches!(channels, 3 | 4), "a picture has 3 or 4 channels, not {channels}");
        assert_eq!(bytes.len(), width * height * channels, "the bytes must fill {width}x{height}x{channels}");
        Self { width, height, channels, bytes }
    }

    pub fn width(&self) -> usize {
        self.width
    }
    pub fn height(&self) -> usize {
        self.height
    }
    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }
    pub fn channels(&self) -> usize {
        self.channels
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn pixels(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.channels)
    }

    /// The opacity of each pixel; 255 where there is no alpha.
    pub fn alpha(&self) -> Vec<u8> {
        self.pixels().map(|pixel| pixel.get(3).copied().unwrap_or(255)).collect()
    }

    /// Without its alpha; the colours stay as they are.
    #[must_use]
    pub fn to_rgb(&self) -> Self {
        let bytes = self.pixels().flat_map(|pixel| pixel[..3].iter().copied()).collect();
        Self::new(self.size(), 3, bytes)
    }

    #[must_use]
    pub fn to_rgba(&self) -> Self {
        self.clone_with_alpha(&self.alpha())
    }

    /// The colours of this picture with the alpha of `other`, which must have the same size.
    pub fn with_alpha_of(&self, other: &Self) -> Result<Self> {
        if self.size() != other.size() {
            return Err(Error::SizesDiffer { expected: self.size(), found: other.size() });
        }
        Ok(self.clone_with_alpha(&other.alpha()))
    }

    /// Black, with the alpha of this picture.
    #[must_use]
    pub fn alpha_on_black(&self) -> Self {
        let bytes = self.alpha().into_iter().flat_map(|alpha| [0, 0, 0, alpha]).collect();
        Self::new(self.size(), 4, bytes)
    }

    fn clone_with_alpha(&self, alpha: &[u8]) -> Self {
        let pixels = self.pixels().zip(alpha);
        let bytes = pixels.flat_map(|(color, alpha)| [color[0], color[1], color[2], *alpha]).collect();
        Self::new(self.size(), 4, bytes)
    }

    /// Scaled with antialiasing, as Pillow does it.
    pub fn resized(self, (width, height): (usize, usize), kernel: Kernel) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::NoPixels { width, height });
        }
        let size = self.size();
        let bytes = pillow::resize(self.bytes, self.channels, size, (width, height), kernel);
        Ok(Self { width, height, channels: self.channels, bytes })
    }

    /// The top left corner in another size, black where there is nothing.
    #[must_use]
    pub fn cut(&self, (width, height): (usize, usize)) -> Self {
        let mut bytes = vec![0; width * height * self.channels];
        let length = width.min(self.width) * self.channels;
        let rows = self.bytes.chunks(self.width * self.channels);
        for (to, from) in bytes.chunks_mut(width * self.channels).zip(rows) {
            to[..length].copy_from_slice(&from[..length]);
        }
        Self::new((width, height), self.channels, bytes)
    }

    /// Scaled, up or down, so that its longer side is `longest`; how ComfyUI sends previews.
    pub fn contained(self, longest: usize) -> Result<Self> {
        let (width, height) = (self.width as f64, self.height as f64);
        let side = |share: f64| ((share * longest as f64).round_ties_even() as usize).max(1);
        let size =
            if width > height { (longest, side(height / width)) } else { (side(width / height), longest) };
        self.resized(size, Kernel::Bilinear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize) -> Picture {
        Picture::new((width, height), 3, vec![7; width * height * 3])
    }

    #[test]
    fn previews_keep_their_aspect_and_grow_or_shrink_to_the_limit() {
        let sizes = [
            ((64, 64), (512, 512)),
            ((1664, 928), (512, 286)),
            ((10, 1000), (5, 512)),
            ((1, 9999), (1, 512)),
        ];
        for (from, to) in sizes {
            let preview = grey(from.0, from.1).contained(512).unwrap();
            assert_eq!(preview.size(), to);
            assert!(preview.bytes().iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn alpha_can_be_dropped_added_and_moved() {
        let half = Picture::new((2, 1), 4, vec![1, 2, 3, 100, 4, 5, 6, 200]);
        assert_eq!(half.to_rgb().bytes(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(half.to_rgb().to_rgba().bytes(), [1, 2, 3, 255, 4, 5, 6, 255]);
        assert_eq!(half.alpha_on_black().bytes(), [0, 0, 0, 100, 0, 0, 0, 200]);
        assert_eq!(grey(2, 1).with_alpha_of(&half).unwrap().bytes(), [7, 7, 7, 100, 7, 7, 7, 200]);
        assert!(matches!(grey(1, 2).with_alpha_of(&half), Err(Error::SizesDiffer { .. })));
    }
}
