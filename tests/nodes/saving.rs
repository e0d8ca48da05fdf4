//! Names, counters and contents of the files that nodes write, and which files they read.

use std::sync::Arc;

use comfyd::graph::{End, Event, PreviewFormat, Request};
use comfyd::image::{Alpha, Turn, decode, text_chunks};
use serde_json::{Value as Json, json};

use crate::workshop::{Workshop, node};

fn saved(prefix: &str, color: u32) -> Json {
    json!({
        "1": node("EmptyImage", json!({"width": 8, "height": 6, "batch_size": 2, "color": color})),
        "2": node("SaveImage", json!({"images": ["1", 0], "filename_prefix": prefix})),
    })
}

fn names(workshop: &mut Workshop, prompt: Json) -> Vec<String> {
    let shown = workshop.run(prompt);
    let output = workshop.path("output");
    let files = workshop.files(&shown);
    files.iter().map(|file| file.strip_prefix(&output).unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn counters_go_on_for_exactly_one_prefix() {
    let mut workshop = Workshop::new();
    assert_eq!(names(&mut workshop, saved("a", 1)), ["a_00001_.png", "a_00002_.png"]);
    assert_eq!(names(&mut workshop, saved("ab", 2)), ["ab_00001_.png", "ab_00002_.png"]);
    assert_eq!(names(&mut workshop, saved("a", 3)), ["a_00003_.png", "a_00004_.png"]);
    assert_eq!(names(&mut workshop, saved("x/y/../z", 4)), ["x/z_00001_.png", "x/z_00002_.png"]);
    assert_eq!(names(&mut workshop, saved("%width%x%height%/", 5)), ["8x6_00001_.png", "8x6_00002_.png"]);
}

#[test]
fn numbers_of_the_batch_stand_in_the_name_and_nothing_is_written_over() {
    let mut workshop = Workshop::new();
    let first = names(&mut workshop, saved("n%batch_num%", 1));
    assert_eq!(first, ["n0_00001_.png", "n1_00002_.png"]);
    let second = names(&mut workshop, saved("n%batch_num%", 2));
    assert_eq!(second, ["n0_00003_.png", "n1_00004_.png"]);
}

/// Those of these nodes are one file for the batch, and ComfyUI replaces nothing in their names.
#[test]
fn other_files_keep_the_word_for_numbers_of_the_batch_and_count_on() {
    let mut workshop = Workshop::new();
    let prefix = "n%batch_num%";
    let prompt = |color: u32| {
        json!({
            "1": node("EmptyImage", json!({"width": 8, "height": 6, "batch_size": 2, "color": color})),
            "2": node("SaveAnimatedPNG", json!({
                "images": ["1", 0], "filename_prefix": prefix, "fps": 6.0, "compress_level": 4,
            })),
        })
    };
    assert_eq!(names(&mut workshop, prompt(1)), ["n%batch_num%_00001_.png"]);
    let latent = json!({
        "1": node("EmptyLatentImage", json!({"width": 16, "height": 16, "batch_size": 2})),
        "2": node("SaveLatent", json!({"samples": ["1", 0], "filename_prefix": prefix})),
    });
    let shown = workshop.run(latent);
    assert_eq!(shown.outputs["2"]["latents"][0]["filename"], "n%batch_num%_00002_.latent");
    assert_eq!(names(&mut workshop, prompt(2)), ["n%batch_num%_00003_.png"]);
    assert_eq!(names(&mut workshop, saved(prefix, 3)), ["n0_00004_.png", "n1_00005_.png"]);
}

#[test]
fn pictures_outside_the_output_folder_are_refused() {
    let mut workshop = Workshop::new();
    for prefix in ["../escaped", "/tmp/escaped", "a/../../escaped"] {
        let failure = workshop.fail(saved(prefix, 1));
        assert!(failure.message.contains("outside the output folder"), "{}", failure.message);
    }
    assert!(!workshop.path("escaped_00001_.png").exists());
}

#[test]
fn the_workflow_travels_inside_the_picture() {
    let mut workshop = Workshop::new();
    let extra = json!({"workflow": {"version": 0.4, "title": "naïve 漢"}, "seed": 1.0});
    let request = Request { extra_pnginfo: Some(Arc::new(extra)), ..Request::default() };
    let (end, shown) = workshop.run_request(saved("w", 7), &request);
    assert_eq!(end, End::Succeeded);
    let file = std::fs::read(&workshop.files(&shown)[0]).unwrap();
    let prompt = r#"{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 6, "batch_size": 2, "color": 7}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "w"}}}"#;
    let expected = [
        ("prompt", prompt),
        ("workflow", r#"{"version": 0.4, "title": "na\u00efve \u6f22"}"#),
        ("seed", "1.0"),
    ];
    assert_eq!(text_chunks(&file), expected.map(|(key, text)| (key.to_owned(), text.to_owned())));
}

#[test]
fn no_unfinished_file_stays_behind() {
    let mut workshop = Workshop::new();
    workshop.run(saved("whole", 1));
    let left: Vec<_> = std::fs::read_dir(workshop.path("output"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("_.png") || name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn previews_keep_their_letters_from_run_to_run() {
    let mut workshop = Workshop::new();
    let preview = |color: u32| {
        json!({
            "1": node("EmptyImage", json!({"width": 8, "height": 6, "batch_size": 1, "color": color})),
            "2": node("PreviewImage", json!({"images": ["1", 0]})),
        })
    };
    let file_of = |workshop: &mut Workshop, color| {
        let shown = workshop.run(preview(color));
        workshop.files(&shown).remove(0)
    };
    let (first, second) = (file_of(&mut workshop, 1), file_of(&mut workshop, 2));
    let name = |file: &std::path::Path| file.file_name().unwrap().to_string_lossy().into_owned();
    let letters = name(&first).strip_prefix("ComfyUI_temp_").unwrap()[..5].to_owned();
    assert!(letters.bytes().all(|letter| letter.is_ascii_lowercase()), "{letters}");
    assert_eq!(name(&first), format!("ComfyUI_temp_{letters}_00001_.png"));
    assert_eq!(name(&second), format!("ComfyUI_temp_{letters}_00002_.png"));
    assert_eq!(first.parent(), Some(workshop.path("temp").as_path()));
}

#[test]
fn four_channels_are_saved_with_their_alpha() {
    let mut workshop = Workshop::new();
    let shown = workshop.run(json!({
        "1": node("LoadImage", json!({"image": "rgba.png"})),
        "2": node("JoinImageWithAlpha", json!({"image": ["1", 0], "alpha": ["1", 1]})),
        "3": node("SaveImage", json!({"images": ["2", 0], "filename_prefix": "alpha"})),
    }));
    let found = workshop.pictures(&shown).remove(0);
    let source = comfyd::image::open(&workshop.path("input/rgba.png"), Turn::AsStored).unwrap().remove(0);
    assert_eq!((found.alpha, found.rgba.to_rgb()), (Alpha::Color, source.rgba.to_rgb()));
    // 1 - (1 - alpha) may lose a last bit, which cutting off makes a whole step.
    let alphas = found.rgba.alpha().into_iter().zip(source.rgba.alpha());
    assert!(alphas.into_iter().all(|(found, expected)| found.abs_diff(expected) <= 1));
}

#[test]
fn the_websocket_is_sent_every_picture_as_png() {
    let mut workshop = Workshop::new();
    let shown = workshop.run(json!({
        "1": node("EmptyImage", json!({"width": 8, "height": 6, "batch_size": 2, "color": 0x40_80_C0})),
        "2": node("SaveImageWebsocket", json!({"images": ["1", 0]})),
    }));
    let sent: Vec<_> = shown
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Progress { preview, .. } => preview.as_ref(),
            _ => None,
        })
        .collect();
    assert_eq!(sent.len(), 2);
    for image in sent {
        assert_eq!(image.format, PreviewFormat::Png);
        let picture = decode(&image.bytes, "sent", Turn::AsStored).unwrap().remove(0).rgba.to_rgb();
        assert_eq!(picture.size(), (8, 6));
        assert!(picture.bytes().chunks(3).all(|pixel| pixel == [0x40, 0x80, 0xC0]));
        assert!(text_chunks(&image.bytes).is_empty());
    }
    assert!(shown.outputs.is_empty());
}

#[test]
fn only_files_inside_the_folders_can_be_loaded() {
    let workshop = Workshop::new();
    let loaded = |name: Json| {
        json!({
            "1": node("LoadImage", json!({"image": name})),
            "2": node("PreviewImage", json!({"images": ["1", 0]})),
        })
    };
    std::fs::create_dir(workshop.path("input/sub")).unwrap();
    std::fs::copy(workshop.path("input/rgb.png"), workshop.path("input/sub/deep.png")).unwrap();
    std::fs::copy(workshop.path("input/rgb.png"), workshop.path("output/made.png")).unwrap();
    for name in ["rgb.png", "sub/deep.png", "made.png [output]", "rgb.png [input]"] {
        assert!(workshop.accepts(loaded(name.into())), "{name}");
    }
    for name in ["absent.png", "made.png", "../output/made.png", "/etc/hostname", "", "rgb.png [temp]"] {
        assert!(!workshop.accepts(loaded(name.into())), "{name}");
    }
    assert!(!workshop.accepts(loaded(json!(5))));
}

#[test]
fn a_file_that_is_no_picture_fails_with_its_name() {
    let mut workshop = Workshop::new();
    let failure = workshop.fail(json!({
        "1": node("LoadImage", json!({"image": "notimage.png"})),
        "2": node("PreviewImage", json!({"images": ["1", 0]})),
    }));
    assert!(failure.message.contains("notimage.png is not a picture"), "{}", failure.message);
}

#[test]
fn a_file_that_changes_is_loaded_again() {
    let mut workshop = Workshop::new();
    let prompt = json!({
        "1": node("LoadImage", json!({"image": "rgb.png"})),
        "2": node("PreviewImage", json!({"images": ["1", 0]})),
    });
    let first = workshop.run(prompt.clone());
    let again = workshop.run(prompt.clone());
    assert_eq!(workshop.files(&first), workshop.files(&again));
    std::fs::copy(workshop.path("input/gray.png"), workshop.path("input/rgb.png")).unwrap();
    let changed = workshop.run(prompt);
    assert_ne!(workshop.files(&first), workshop.files(&changed));
    assert_eq!(workshop.pictures(&changed)[0].rgba.size(), (20, 16));
}

#[test]
fn the_list_of_inputs_holds_pictures_only() {
    use comfyd::graph::Library as _;
    let workshop = Workshop::new();
    std::fs::write(workshop.path("input/notes.txt"), "no picture").unwrap();
    std::fs::create_dir(workshop.path("input/folder.png")).unwrap();
    let names = workshop.services.names("input");
    assert!(names.is_sorted() && names.contains(&"photo.jpg".to_owned()));
    assert!(names.iter().all(|name| name != "notes.txt" && name != "folder.png"));
}
