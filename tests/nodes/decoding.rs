//! Picture files of every kind, against what Pillow 11.3 reads from them.

use std::path::PathBuf;

use comfyd::image::{
    Alpha, Channel, Error, Frame, Picture, Turn, decode, load, load_channel, open, text_chunks,
};

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pixels").join(name)
}

fn input(name: &str) -> PathBuf {
    golden("input").join(name)
}

fn frames(name: &str) -> Vec<Frame> {
    open(&input(name), Turn::Upright).expect("a readable file")
}

pub fn picture(name: &str) -> Picture {
    open(&golden(name), Turn::AsStored).expect("a readable file").remove(0).rgba
}

#[test]
fn every_format_is_read_to_the_pixel() {
    let files = [
        ("anim.webp", Alpha::None),
        ("blended.webp", Alpha::Color),
        ("still.webp", Alpha::None),
        ("see_through.gif", Alpha::Palette),
        ("tiny.bmp", Alpha::None),
        ("la.png", Alpha::Gray),
        ("key_color.png", Alpha::KeyColor),
        ("rgb16.png", Alpha::None),
    ];
    for (name, alpha) in files {
        let read = frames(name);
        for (index, frame) in read.iter().enumerate() {
            assert_eq!(frame.alpha, alpha, "{name}");
            let expected = picture(&format!("decoded_{name}_{}.png", index + 1));
            assert_eq!(frame.rgba, expected, "frame {index} of {name}");
        }
        assert!(!golden(&format!("decoded_{name}_{}.png", read.len() + 1)).exists(), "{name} lacks a frame");
    }
}

#[test]
fn sixteen_bits_of_grey_are_scaled() {
    let expected: Vec<u8> = (0..256u32).map(|value| (value * 257 / 255).min(255) as u8).collect();
    let read = frames("gray16.png").remove(0).rgba;
    assert_eq!(read.bytes().iter().step_by(4).copied().collect::<Vec<_>>(), expected);
}

#[test]
fn pictures_are_turned_upright_unless_asked_for_as_stored() {
    assert_eq!(frames("exif.jpg")[0].rgba.size(), (30, 40));
    assert_eq!(open(&input("exif.jpg"), Turn::AsStored).unwrap()[0].rgba.size(), (40, 30));
}

#[test]
fn only_real_transparency_makes_a_mask_of_the_pictures_size() {
    let sizes = [
        ("rgb.png", (64, 64)),
        ("key_color.png", (64, 64)),
        ("rgba.png", (32, 24)),
        ("pal.png", (16, 16)),
        ("la.png", (20, 16)),
        ("see_through.gif", (14, 11)),
    ];
    for (name, size) in sizes {
        let (image, mask) = load(&input(name)).unwrap();
        assert_eq!(mask.size(), size, "{name}");
        assert_eq!(mask.batch(), image.batch(), "{name}");
    }
}

#[test]
fn a_see_through_colour_counts_for_the_alpha_of_load_image_mask() {
    let mask = load_channel(&input("key_color.png"), Channel::Alpha).unwrap();
    assert_eq!(mask.data()[0], 1.0);
    let opaque = load_channel(&input("rgb.png"), Channel::Alpha).unwrap();
    assert!(opaque.size() == (32, 24) && opaque.data().iter().all(|value| *value == 0.0));
}

#[test]
fn what_is_no_picture_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.png");
    std::fs::write(&empty, b"").unwrap();
    assert!(matches!(load(&empty), Err(Error::Empty { .. })));
    assert!(matches!(load(&folder.path().join("absent.png")), Err(Error::Read { .. })));
    assert!(matches!(load(&input("notimage.png")), Err(Error::NotAPicture { .. })));
    assert!(matches!(load(&input("enormous.png")), Err(Error::TooLarge { width: 60_000, .. })));
}

#[test]
fn files_that_end_early_are_damaged() {
    for name in ["rgb.png", "photo.jpg", "anim.gif", "anim.webp", "still.webp", "tiny.bmp"] {
        let file = std::fs::read(input(name)).unwrap();
        for length in [file.len() / 2, file.len() * 3 / 4] {
            let cut = decode(&file[..length], name, Turn::Upright);
            assert!(matches!(cut, Err(Error::Damaged { .. })), "{length} bytes of {name}: {cut:?}");
        }
    }
}

#[test]
fn no_ruin_of_a_file_makes_the_reader_panic() {
    for name in ["rgb.png", "pal.png", "photo.jpg", "anim.gif", "blended.webp", "still.webp", "tiny.bmp"] {
        let file = std::fs::read(input(name)).unwrap();
        for at in 0..file.len() {
            for value in [0, 0xFF, file[at].wrapping_add(1)] {
                let mut ruined = file.clone();
                ruined[at] = value;
                let _ = decode(&ruined, name, Turn::Upright);
            }
            let _ = decode(&file[..at], name, Turn::Upright);
        }
    }
}

#[test]
fn text_chunks_come_back_as_they_were_written() {
    let texts = [("prompt", "{\"a\": 1}"), ("workflow", "naïve"), ("漢", "left out"), ("note", "漢字")];
    let texts = texts.map(|(keyword, text)| (keyword.to_owned(), text.to_owned()));
    let file = picture("noise_rgba.png").to_png(4, &texts).unwrap();
    assert_eq!(decode(&file, "written", Turn::AsStored).unwrap()[0].rgba, picture("noise_rgba.png"));
    let written: Vec<_> = texts.into_iter().filter(|(keyword, _)| keyword != "漢").collect();
    assert_eq!(text_chunks(&file), written);
    assert!(text_chunks(b"no picture").is_empty());
}

#[test]
fn previews_are_encoded_close_to_the_picture() {
    let source = picture("load_jpeg_1.png").to_rgb();
    for (file, format) in [(source.to_jpeg(95).unwrap(), "JPEG"), (source.to_webp(90).unwrap(), "WebP")] {
        let read = decode(&file, format, Turn::AsStored).unwrap().remove(0).rgba.to_rgb();
        let distance: u64 =
            read.bytes().iter().zip(source.bytes()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(distance < 5 * source.bytes().len() as u64, "{format}: {distance}");
    }
    let transparent = picture("noise_rgba.png").to_webp(80).unwrap();
    assert_eq!(decode(&transparent, "alpha", Turn::AsStored).unwrap()[0].alpha, Alpha::Color);
}
