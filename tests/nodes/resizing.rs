//! Scaling against PyTorch 1.13 (floats) and Pillow 11.3 (bytes).

use comfyd::image::{Crop, Error, Filter, Image, Kernel, Picture, center_crop, resize};
use serde::Deserialize;

use crate::decoding::{golden, picture};

const SIZES: [(usize, usize); 5] = [(41, 33), (9, 7), (27, 30), (64, 19), (50, 8)];

#[derive(Deserialize)]
struct Recorded {
    shape: [usize; 4],
    values: Vec<f32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    method: String,
    width: usize,
    height: usize,
    values: Vec<f32>,
}

#[test]
fn floats_are_scaled_as_pytorch_scales_them() {
    let text = std::fs::read_to_string(golden("interpolate.json")).unwrap();
    let recorded: Recorded = serde_json::from_str(&text).unwrap();
    for case in recorded.cases {
        let filter = match case.method.as_str() {
            "nearest-exact" => Filter::NearestExact,
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            "area" => Filter::Area,
            other => panic!("{other} is not recorded"),
        };
        let scaled = resize(&recorded.values, recorded.shape, (case.width, case.height), filter).unwrap();
        assert_eq!(scaled.len(), case.values.len());
        for (found, expected) in scaled.iter().zip(&case.values) {
            // The record has seven digits; positions are rounded to f32 in either program.
            assert!((found - expected).abs() < 2e-6, "{} to {}x{}", case.method, case.width, case.height);
        }
    }
}

#[test]
fn channels_apart_scale_as_channels_together() {
    let values: Vec<f32> = (0..5 * 7 * 3).map(|value| value as f32 * 0.37 % 1.0).collect();
    let planes: Vec<f32> = (0..3).flat_map(|c| values.iter().skip(c).step_by(3).copied()).collect();
    for filter in [Filter::NearestExact, Filter::Bilinear, Filter::Bicubic, Filter::Area, Filter::Lanczos] {
        let together = resize(&values, [1, 5, 7, 3], (9, 4), filter).unwrap();
        let apart = resize(&planes, [3, 5, 7, 1], (9, 4), filter).unwrap();
        let regrouped: Vec<f32> = (0..9 * 4)
            .flat_map(|at| (0..3).map(move |c| (c, at)))
            .map(|(c, at)| apart[c * 36 + at])
            .collect();
        assert_eq!(together, regrouped, "{filter:?}");
    }
}

fn recorded(name: &str, channels: usize) -> Picture {
    let picture = picture(name);
    if channels == 3 { picture.to_rgb() } else { picture }
}

#[test]
fn bytes_are_scaled_exactly_as_pillow_scales_them() {
    for (width, height) in SIZES {
        for (name, channels) in [("rgb", 3), ("rgba", 4)] {
            let source = recorded(&format!("noise_{name}.png"), channels);
            let expected = recorded(&format!("lanczos_{name}_{width}x{height}.png"), channels);
            assert_eq!(source.resized((width, height), Kernel::Lanczos).unwrap(), expected);
        }
        let source = recorded("noise_rgb.png", 3);
        let expected = recorded(&format!("bilinear_rgb_{width}x{height}.png"), 3);
        assert_eq!(source.resized((width, height), Kernel::Bilinear).unwrap(), expected);
    }
}

#[test]
fn lanczos_on_floats_is_lanczos_on_bytes() {
    let source = Image::from_pictures(&[recorded("noise_rgb.png", 3)]).unwrap();
    let scaled = source.resized((41, 33), Filter::Lanczos, Crop::Disabled).unwrap();
    assert_eq!(scaled.picture(0), recorded("lanczos_rgb_41x33.png", 3));
    // Even at its own size a picture passes through bytes: clipped and cut off.
    let beyond = Image::new([1, 1, 2, 3], vec![-1.0, 0.5, 2.0, 0.999, 0.001, 1.0]);
    let same = beyond.resized((2, 1), Filter::Lanczos, Crop::Disabled).unwrap();
    assert_eq!(same.data(), [0.0, 127.0 / 255.0, 1.0, 254.0 / 255.0, 0.0, 1.0]);
}

#[test]
fn the_middle_with_the_aspect_of_the_target_is_kept() {
    let cases = [
        (((32, 24), (16, 16)), ((4, 0), (24, 24))),
        (((24, 32), (16, 16)), ((0, 4), (24, 24))),
        (((32, 24), (64, 48)), ((0, 0), (32, 24))),
        // Half a pixel rounds to the even side.
        (((5, 2), (2, 1)), ((0, 0), (5, 2))),
        (((7, 2), (2, 1)), ((2, 0), (3, 2))),
    ];
    for ((from, to), expected) in cases {
        assert_eq!(center_crop(from, to), expected, "{from:?} to {to:?}");
    }
}

#[test]
fn nothing_is_scaled_to_nothing() {
    let dot = Image::zeros([1, 1, 1, 3]).unwrap();
    let nothing = dot.resized((0, 5), Filter::Bilinear, Crop::Center);
    assert!(matches!(nothing, Err(Error::NoPixels { width: 0, height: 5 })));
}

#[test]
fn a_picture_beyond_all_memory_is_an_error() {
    assert!(matches!(Image::zeros([4096, 16_384, 16_384, 3]), Err(Error::OutOfMemory { .. })));
    assert!(matches!(Image::zeros([usize::MAX, 2, 1, 1]), Err(Error::OutOfMemory { .. })));
}
