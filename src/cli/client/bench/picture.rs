//! Whether a decoded picture shows anything: a broken network makes flat ones, and fast.

use crate::image::{Turn, decode};

/// Less than this of either, in grey levels from 0 to 255, and there is nothing to see.
const LEAST_MEAN: f64 = 5.0;
const LEAST_VARIANCE: f64 = 10.0;

/// Whether a file is no picture, or one with nothing on it.
pub(super) fn is_flat(file: &[u8]) -> bool {
    let Ok(frames) = decode(file, "the picture", Turn::AsStored) else { return true };
    let Some(frame) = frames.first() else { return true };
    let grey = |pixel: &[u8]| pixel[..3].iter().map(|level| f64::from(*level)).sum::<f64>() / 3.0;
    let levels: Vec<_> = frame.rgba.bytes().chunks_exact(4).map(grey).collect();
    let count = levels.len() as f64;
    let mean = levels.iter().sum::<f64>() / count;
    let variance = levels.iter().map(|level| (level - mean).powi(2)).sum::<f64>() / count;
    mean < LEAST_MEAN || variance < LEAST_VARIANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_photo_is_not_flat_and_one_colour_is() {
        let photo = include_bytes!("../../../../workflows/input/coffee.jpg");
        assert!(!is_flat(photo));
        assert!(is_flat(b"nothing"));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("grey.png");
        image::RgbImage::from_pixel(8, 8, image::Rgb([90; 3])).save(&path).expect("written");
        assert!(is_flat(&std::fs::read(path).expect("a file")));
    }
}
