//! The built-in editor does what it is told: a shipped photo, an instruction, and a rule for the result.

use std::path::Path;
use std::process::Command;

use comfyd::image::{Picture, Turn, decode};

/// Runs the quick edit graph on the shipped photo as a user would, on so many threads -> (before, after).
fn edited(instruction: &str, threads: usize) -> (Picture, Picture) {
    let workflows = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows");
    let output = tempfile::tempdir().unwrap();
    let before = output.path().join("before.json");
    let text = std::fs::read_to_string(workflows.join("edit_photo_quick.json")).unwrap();
    let mut graph: serde_json::Value = serde_json::from_str(&text).unwrap();
    // As small as it may be in a test, and with the photo as the sampler got it saved too.
    graph["93"]["inputs"]["megapixels"] = 0.05.into();
    graph["61"] = serde_json::json!({
        "class_type": "SaveImage", "inputs": {"images": ["93", 0], "filename_prefix": "before"}
    });
    graph["111"]["inputs"]["prompt"] = instruction.into();
    std::fs::write(&before, graph.to_string()).unwrap();

    let ended = Command::new(env!("CARGO_BIN_EXE_comfyd"))
        .arg("run")
        .arg(&before)
        .args(["--input-directory".as_ref(), workflows.join("input").as_os_str()])
        .args(["--output".as_ref(), output.path().as_os_str()])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let [before, after] = ["before_00001_.png", "edit_00001_.png"].map(|name| {
        let file = std::fs::read(output.path().join(name)).unwrap();
        decode(&file, name, Turn::AsStored).unwrap().remove(0).rgba.to_rgb()
    });
    (cut_to(&before, after.size()), after)
}

/// The middle of a picture: the autoencoder cuts sides to multiples of 8.
fn cut_to(picture: &Picture, (width, height): (usize, usize)) -> Picture {
    let (left, top) = ((picture.width() - width) / 2, (picture.height() - height) / 2);
    let rows = picture.bytes().chunks_exact(picture.width() * 3).skip(top).take(height);
    let bytes = rows.flat_map(|row| row[left * 3..(left + width) * 3].iter().copied()).collect();
    Picture::new((width, height), 3, bytes)
}

fn pixels(picture: &Picture) -> impl Iterator<Item = [f64; 3]> {
    picture.bytes().chunks_exact(3).map(|pixel| [0, 1, 2].map(|channel| f64::from(pixel[channel]) / 255.0))
}

/// How near `found` is to what `edit` makes of `before`, in decibels.
fn nearness(found: &Picture, before: &Picture, edit: impl Fn([f64; 3]) -> [f64; 3]) -> f64 {
    let squares = pixels(found).zip(pixels(before)).map(|(found, before)| {
        let wanted = edit(before);
        (0..3).map(|channel| (found[channel] - wanted[channel]).powi(2)).sum::<f64>() / 3.0
    });
    let count: f64 = pixels(found).map(|_| 1.0).sum();
    -10.0 * (squares.sum::<f64>() / count).log10()
}

fn most_and_least([red, green, blue]: [f64; 3]) -> (f64, f64) {
    (red.max(green).max(blue), red.min(green).min(blue))
}

fn mean(picture: &Picture, of: impl Fn([f64; 3]) -> f64) -> f64 {
    let (sum, count) =
        pixels(picture).map(of).fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

#[test]
fn black_and_white_has_no_colour_and_the_same_picture() {
    let (before, after) = edited("Make the image black and white, please.", 2);
    let saturation = mean(&after, |pixel| {
        let (most, least) = most_and_least(pixel);
        (most - least) / most.max(1e-6)
    });
    let grey = |[red, green, blue]: [f64; 3]| [0.299 * red + 0.587 * green + 0.114 * blue; 3];
    let near = nearness(&after, &before, grey);
    assert!(saturation < 0.08, "saturation {saturation}");
    assert!(near > 20.0, "{near} dB");
}

#[test]
fn a_tint_has_the_named_hue() {
    let (_, after) = edited("Give the photo a blue tint", 2);
    let [red, green, blue] = [0, 1, 2].map(|channel| mean(&after, |pixel| pixel[channel]));
    assert!(blue > red.max(green), "{red} {green} {blue}");
    let hue = 240.0 + 60.0 * (red - green) / (blue - red.min(green));
    assert!((hue - 240.0).abs() < 20.0, "hue {hue}");
}

#[test]
fn a_negative_is_the_opposite_and_the_same_for_the_same_seed_on_any_number_of_threads() {
    let instruction = "turn this picture into a negative";
    let (before, after) = edited(instruction, 2);
    let near = nearness(&after, &before, |pixel| pixel.map(|value| 1.0 - value));
    let untouched = nearness(&before, &before, |pixel| pixel.map(|value| 1.0 - value));
    assert!(near > untouched + 3.0 && near > 17.0, "{near} dB, untouched {untouched} dB");
    assert!(edited(instruction, 2).1 == after, "the same seed gives the same picture");
    assert!(edited(instruction, 1).1 == after, "so does one thread");
}
