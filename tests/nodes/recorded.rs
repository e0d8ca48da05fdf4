//! Runs that ComfyUI 0.3.64 made of the same prompts: every pixel and every text.

use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::decoding::{golden, picture};
use crate::workshop::{Workshop, node};

#[derive(Deserialize)]
struct Pixels {
    name: String,
    pictures: usize,
    /// How far a value may be away: interpolation and JPEG leave room, nothing else does.
    tolerance: u8,
    prompt: Json,
}

#[derive(Deserialize)]
struct Texts {
    name: String,
    text: Json,
    prompt: Json,
}

#[test]
fn pictures_are_those_of_comfyui() {
    check_pictures("recorded.json");
}

/// The other nodes, against the same sums written in PyTorch.
#[test]
fn pictures_are_those_of_pytorch() {
    check_pictures("computed.json");
}

fn check_pictures(cases: &str) {
    let text = std::fs::read_to_string(golden(cases)).unwrap();
    let cases: Vec<Pixels> = serde_json::from_str(&text).unwrap();
    let mut workshop = Workshop::new();
    for case in cases {
        let shown = workshop.run(case.prompt);
        let found = workshop.pictures(&shown);
        assert_eq!(found.len(), case.pictures, "{}", case.name);
        for (index, found) in found.iter().enumerate() {
            let expected = picture(&format!("{}_{}.png", case.name, index + 1));
            assert_eq!(found.rgba.size(), expected.size(), "{}", case.name);
            let pairs = found.rgba.bytes().iter().zip(expected.bytes());
            let worst = pairs.map(|(found, expected)| found.abs_diff(*expected)).max().unwrap();
            assert!(worst <= case.tolerance, "{} {index}: a value is {worst} away", case.name);
        }
    }
}

#[test]
fn texts_are_those_of_comfyui() {
    let file = golden("../values/recorded.json");
    let cases: Vec<Texts> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut workshop = Workshop::new();
    for case in cases {
        assert_eq!(*workshop.run(case.prompt).texts(), case.text, "{}", case.name);
    }
}

#[test]
fn a_folder_of_pictures_of_several_sizes_or_none_says_so() {
    let mut workshop = Workshop::new();
    std::fs::create_dir(workshop.path("input/empty")).unwrap();
    let load = |folder: &str| {
        json!({
            "1": node("LoadImageSetFromFolderNode", json!({"folder": folder})),
            "2": node("PreviewImage", json!({"images": ["1", 0]})),
        })
    };
    let message = workshop.fail(load("set")).message;
    assert!(
        message.contains("b.png has 70x50 pixels, and the first picture of the folder 32x24"),
        "{message}"
    );
    let message = workshop.fail(load("set/deep")).message;
    assert!(message.contains("the folder set/deep has no pictures"), "{message}");
    for outside in ["..", "set/../set", "", "nothing"] {
        assert!(!workshop.accepts(load(outside)), "{outside}");
    }
}
