//! Nodes that today's templates use and ComfyUI 0.3.64 did not have yet.

use comfyd::image::text_chunks;
use serde_json::{Value as Json, json};

use crate::workshop::{Workshop, node};

/// The size of a picture of 60 by 40 pixels, or of a mask of that size, after `resize`.
fn resized(workshop: &mut Workshop, source: &str, resize: Json) -> (i64, i64) {
    let mut inputs = json!({"input": [source, 0], "scale_method": "area"});
    inputs.as_object_mut().unwrap().extend(resize.as_object().unwrap().clone());
    let mut prompt = json!({
        "picture": node("EmptyImage", json!({"width": 60, "height": 40, "batch_size": 1, "color": 255})),
        "mask": node("SolidMask", json!({"value": 0.5, "width": 60, "height": 40})),
        "other": node("EmptyImage", json!({"width": 24, "height": 36, "batch_size": 1, "color": 0})),
        "resize": node("ResizeImageMaskNode", inputs),
        "picture again": node("MaskToImage", json!({"mask": ["resize", 0]})),
        "save": node("PreviewImage", json!({"images": ["resize", 0]})),
    });
    if source == "mask" {
        prompt["save"]["inputs"]["images"] = json!(["picture again", 0]);
    }
    let shown = workshop.run(prompt);
    let (width, height) = workshop.pictures(&shown)[0].rgba.size();
    (width as i64, height as i64)
}

#[test]
fn pictures_and_masks_are_resized_in_every_way() {
    let mut workshop = Workshop::new();
    let cases = [
        (
            json!({"resize_type": "scale dimensions", "resize_type.width": 30, "resize_type.height": 30, "resize_type.crop": "center"}),
            (30, 30),
        ),
        (
            json!({"resize_type": "scale dimensions", "resize_type.width": 30, "resize_type.height": 0, "resize_type.crop": "disabled"}),
            (30, 20),
        ),
        (json!({"resize_type": "scale by multiplier", "resize_type.multiplier": 1.5}), (90, 60)),
        (json!({"resize_type": "scale longer dimension", "resize_type.longer_size": 30}), (30, 20)),
        (json!({"resize_type": "scale shorter dimension", "resize_type.shorter_size": 30}), (45, 30)),
        (json!({"resize_type": "scale width", "resize_type.width": 15}), (15, 10)),
        (json!({"resize_type": "scale height", "resize_type.height": 80}), (120, 80)),
        (
            json!({"resize_type": "scale total pixels", "resize_type.megapixels": 0.01, "resize_type.multiple": 16}),
            (128, 80),
        ),
        (
            json!({"resize_type": "match size", "resize_type.match": ["other", 0], "resize_type.crop": "center"}),
            (24, 36),
        ),
        (json!({"resize_type": "scale to multiple", "resize_type.multiple": 16}), (48, 32)),
    ];
    for (resize, size) in cases {
        for source in ["picture", "mask"] {
            assert_eq!(resized(&mut workshop, source, resize.clone()), size, "{source}: {resize}");
        }
    }
}

#[test]
fn inputs_that_a_word_brings_along_are_required_with_it_and_only_with_it() {
    let workshop = Workshop::new();
    let prompt = |resize: Json| {
        let mut inputs = json!({"input": ["1", 0], "scale_method": "area"});
        inputs.as_object_mut().unwrap().extend(resize.as_object().unwrap().clone());
        json!({
            "1": node("EmptyImage", json!({"width": 60, "height": 40, "batch_size": 1, "color": 255})),
            "2": node("ResizeImageMaskNode", inputs),
            "3": node("PreviewImage", json!({"images": ["2", 0]})),
        })
    };
    assert!(workshop.accepts(prompt(json!({"resize_type": "scale width", "resize_type.width": 8}))));
    assert!(!workshop.accepts(prompt(json!({"resize_type": "scale height", "resize_type.width": 8}))));
}

#[test]
fn a_switch_computes_only_the_side_that_is_chosen() {
    let mut workshop = Workshop::new();
    let prompt = |switch: bool| {
        json!({
            "good": node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": 1, "color": 255})),
            "other": node("ImageFromBatch", json!({"image": ["good", 0], "batch_index": 0, "length": 1})),
            "switch": node("ComfySwitchNode", json!({"switch": switch, "on_true": ["good", 0], "on_false": ["other", 0]})),
            "show": node("PreviewImage", json!({"images": ["switch", 0]})),
        })
    };
    let ran = |shown: &crate::workshop::Shown| format!("{:?}", shown.events).contains("\"other\"");
    assert!(!ran(&workshop.run(prompt(true))));
    assert!(ran(&workshop.run(prompt(false))));
}

#[test]
fn a_switch_to_nothing_says_so() {
    let mut workshop = Workshop::new();
    let failure = workshop.fail(json!({
        "1": node("ComfySwitchNode", json!({"switch": true})),
        "2": node("PreviewAny", json!({"source": ["1", 0]})),
    }));
    assert_eq!(failure.message.trim_end(), "`switch` is true, and nothing is linked to `on_true`");
}

#[test]
fn a_switch_passes_plain_values_on() {
    let mut workshop = Workshop::new();
    let shown = workshop.run(json!({
        "1": node("PrimitiveInt", json!({"value": 4})),
        "2": node("ComfySwitchNode", json!({"switch": false, "on_false": ["1", 0], "on_true": 7})),
        "3": node("PreviewAny", json!({"source": ["2", 0]})),
    }));
    assert_eq!(shown.texts(), &json!(["4"]));
}

/// The shape of a latent of three frames of 4 by 8 cells, cut along `dim` into slices of `size`.
fn cut(dim: &str, size: usize) -> Vec<usize> {
    let mut workshop = Workshop::new();
    workshop.run(json!({
        "1": node("EmptyQwenImageLayeredLatentImage", json!({"width": 64, "height": 32, "layers": 2, "batch_size": 1})),
        "2": node("LatentCutToBatch", json!({"samples": ["1", 0], "dim": dim, "slice_size": size})),
        "3": node("SaveLatent", json!({"samples": ["2", 0], "filename_prefix": "cut"})),
    }));
    let file = std::fs::read(workshop.path("output/cut_00001_.latent")).unwrap();
    let saved = safetensors::SafeTensors::deserialize(&file).unwrap();
    saved.tensor("latent_tensor").unwrap().shape().to_vec()
}

#[test]
fn layered_latents_become_a_batch_and_what_is_left_over_is_dropped() {
    assert_eq!(cut("t", 1), [3, 16, 1, 4, 8]);
    assert_eq!(cut("t", 2), [1, 16, 2, 4, 8]);
    assert_eq!(cut("x", 4), [2, 16, 3, 4, 4]);
    assert_eq!(cut("y", 9), [1, 16, 3, 4, 8]);
}

#[test]
fn saving_with_a_format_writes_png_of_both_depths_and_refuses_what_cannot_be_written() {
    let mut workshop = Workshop::new();
    let prompt = |format: &str, depth: &str| {
        json!({
            "1": node("EmptyImage", json!({"width": 8, "height": 6, "batch_size": 1, "color": 255})),
            "2": node("SaveImageAdvanced", json!({
                "images": ["1", 0], "filename_prefix": "a", "format": format,
                "format.bit_depth": depth, "format.input_color_space": "sRGB",
            })),
        })
    };
    let shown = workshop.run(prompt("png", "8-bit"));
    assert_eq!(workshop.files(&shown), [workshop.path("output/a_00001_.png")]);
    workshop.run(prompt("png", "16-bit"));
    let deep =
        image::load_from_memory(&std::fs::read(workshop.path("output/a_00002_.png")).unwrap()).unwrap();
    assert_eq!(deep.color(), image::ColorType::Rgb16);
    assert_eq!(deep.to_rgb16().get_pixel(0, 0).0, [0, 0, 65535]);
    assert!(!text_chunks(&std::fs::read(workshop.path("output/a_00002_.png")).unwrap()).is_empty());
    assert!(workshop.fail(prompt("exr", "8-bit")).message.contains("only PNG"));
}

#[test]
fn nodes_of_absent_networks_are_valid_and_refuse_to_run() {
    let mut workshop = Workshop::new();
    let folder = workshop.services.folders.models.join("clip_vision");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("sigclip.safetensors"), b"").unwrap();
    let failure = workshop.fail(json!({
        "1": node("CLIPVisionLoader", json!({"clip_name": "sigclip.safetensors"})),
        "2": node("PreviewAny", json!({"source": ["1", 0]})),
    }));
    let message = failure.message;
    assert!(message.contains("a CLIP vision encoder cannot be run by this server yet"), "{message}");
}

#[test]
fn any_number_of_pictures_becomes_a_batch_in_the_size_of_the_first() {
    let mut workshop = Workshop::new();
    let picture = |side: u32, color: u32| {
        node("EmptyImage", json!({"width": side, "height": 8, "batch_size": 1, "color": color}))
    };
    let prompt = |images: Json| {
        json!({
            "a": picture(12, 1), "b": picture(20, 2), "c": picture(8, 3),
            "batch": node("BatchImagesNode", images),
            "show": node("PreviewImage", json!({"images": ["batch", 0]})),
        })
    };
    // A gap is no end.
    let three = json!({"images.image0": ["a", 0], "images.image1": ["b", 0], "images.image5": ["c", 0]});
    let shown = workshop.run(prompt(three));
    let sizes: Vec<_> = workshop.pictures(&shown).iter().map(|frame| frame.rgba.size()).collect();
    assert_eq!(sizes, [(12, 8); 3]);
    assert_eq!(workshop.run(prompt(json!({"images.image0": ["a", 0]}))).outputs.len(), 1);
    assert!(!workshop.accepts(prompt(json!({"images.image1": ["a", 0]}))));
}

/// Words that came after the list of 0.3.64: no list has them, and whoever knows what they mean says more than that.
#[test]
fn types_of_later_versions_are_left_to_the_loader() {
    let workshop = Workshop::new();
    let folder = workshop.services.folders.models.join("text_encoders");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("encoder.safetensors"), b"").unwrap();
    let accepts = |word: &str| {
        workshop.accepts(json!({
            "1": node("CLIPLoader", json!({"clip_name": "encoder.safetensors", "type": word})),
            "2": node("PreviewAny", json!({"source": ["1", 0]})),
        }))
    };
    assert!(accepts("qwen_image") && accepts("krea2"));
    assert!(!accepts("krea9"));
}

#[test]
fn noise_levels_may_be_written_down() {
    let mut workshop = Workshop::new();
    let mut levels = |text: &str| {
        let shown = workshop.run(json!({
            "1": node("ManualSigmas", json!({"sigmas": text})),
            "2": node("PreviewAny", json!({"source": ["1", 0]})),
        }));
        serde_json::from_str::<Vec<f64>>(shown.texts()[0].as_str().unwrap()).unwrap()
    };
    assert_eq!(levels("1., 0.75 .5;0"), [1.0, 0.75, 0.5, 0.0]);
    assert!(levels("none").is_empty());
}

#[test]
fn sizes_follow_from_a_shape_and_a_number_of_pixels() {
    let mut workshop = Workshop::new();
    let shown = workshop.run(json!({
        "1": node("ResolutionSelector", json!({"aspect_ratio": "16:9 (Widescreen)", "megapixels": 1.0, "multiple": 8})),
        "2": node("PreviewAny", json!({"source": ["1", 0]})),
    }));
    assert_eq!(shown.texts(), &json!(["1368"]));
}

#[test]
fn two_pictures_are_shown_side_by_side() {
    let mut workshop = Workshop::new();
    let shown = workshop.run(json!({
        "1": node("EmptyImage", json!({"width": 8, "height": 6, "batch_size": 2, "color": 255})),
        "2": node("ImageCompare", json!({"image_a": ["1", 0]})),
    }));
    let told = shown.outputs.values().next().unwrap();
    assert_eq!(
        (told["a_images"].as_array().unwrap().len(), told["b_images"].as_array().unwrap().len()),
        (2, 0)
    );
}

/// Of what ComfyUI's node says, `values/cameras.json` has some.
#[test]
fn cameras_stand_where_comfyui_has_them_and_are_described_alike() {
    let cases = std::fs::read(crate::decoding::golden("../values/cameras.json")).unwrap();
    let cases: Vec<Json> = serde_json::from_slice(&cases).unwrap();
    let mut workshop = Workshop::new();
    for case in cases {
        let mut told = |output: u8| {
            let shown = workshop.run(json!({
                "1": node("CameraAngle", case["inputs"].clone()),
                "2": node("PreviewAny", json!({"source": ["1", output]})),
            }));
            shown.texts()[0].as_str().unwrap().to_owned()
        };
        let camera: Json = serde_json::from_str(&told(0)).unwrap();
        assert_eq!(told(1), case["prompt"], "{case}");
        let expected = &case["camera"];
        for path in ["/position/x", "/position/y", "/position/z", "/target/y", "/zoom", "/fov"] {
            let number = |json: &Json| json.pointer(path).unwrap().as_f64().unwrap();
            assert!((number(&camera) - number(expected)).abs() < 1e-12, "{path} of {camera}, not {expected}");
        }
        assert_eq!(camera["cameraType"], "perspective");
    }
}

/// The tensors of a file, and its plain values.
type Content = (Vec<(String, Vec<u8>)>, Json);

/// Loads `embeddings/{name}` and saves it again as `again`; gives the tensors and the metadata of both files.
fn copied(workshop: &mut Workshop, name: &str) -> [Content; 2] {
    workshop.run(json!({
        "load": node("ConditioningLoader", json!({"conditioning_name": name})),
        "save": node("SaveConditioning", json!({"conditioning": ["load", 0], "filename_prefix": "again"})),
    }));
    let again = workshop.path("output/again_00001_.safetensors");
    [workshop.services.folders.models.join("embeddings").join(name), again].map(|path| {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let options = header.metadata().as_ref().unwrap()["conditioning_options"].clone();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> =
            tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
        tensors.sort();
        (tensors, serde_json::from_str(&options).unwrap())
    })
}

/// Writes a file as ComfyUI's SaveConditioning does, of tensors with one number each place.
fn write_conditioning(workshop: &Workshop, name: &str, tensors: &[(&str, &[usize], f32)], options: &Json) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape, value)| value.to_le_bytes().repeat(shape.iter().product())).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let metadata = [("conditioning_options".to_owned(), options.to_string())];
    let file = safetensors::serialize(views, Some(metadata.into())).unwrap();
    let folder = workshop.services.folders.models.join("embeddings");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), file).unwrap();
}

#[test]
fn conditionings_come_back_from_files_as_they_were_saved() {
    let mut workshop = Workshop::new();
    let tensors: [(&str, &[usize], f32); 5] = [
        ("conditioning", &[1, 5, 8], 0.25),
        ("mask", &[1, 4, 4], 0.5),
        ("pooled_output", &[1, 8], 2.0),
        ("reference_latents.0", &[1, 16, 1, 2, 3], 0.125),
        ("reference_latents.1", &[1, 16, 1, 4, 3], 0.75),
    ];
    let options = json!({
        "strength": 0.5, "start_percent": 0.25, "end_percent": 0.75, "mask_strength": 0.5,
        "set_area_to_bounds": true, "reference_latents_method": "index_timestep_zero",
    });
    write_conditioning(&workshop, "all.safetensors", &tensors, &options);
    let [written, again] = copied(&mut workshop, "all.safetensors");
    assert_eq!(written, again);
}

#[test]
fn a_conditioning_that_cannot_be_saved_or_read_says_why() {
    let mut workshop = Workshop::new();
    let text: [(&str, &[usize], f32); 2] =
        [("conditioning", &[1, 3, 8], 1.0), ("attention_mask", &[1, 3], 1.0)];
    write_conditioning(&workshop, "text.safetensors", &text, &json!({}));
    write_conditioning(&workshop, "empty.safetensors", &[("other", &[1], 1.0)], &json!({}));
    let load = |name: &str| node("ConditioningLoader", json!({"conditioning_name": name}));
    let save = |source: &str| {
        node("SaveConditioning", json!({"conditioning": [source, 0], "filename_prefix": "no"}))
    };
    let mut refused = |prompt: Json| workshop.fail(prompt).message;
    let message = refused(json!({"1": load("empty.safetensors"), "2": save("1")}));
    assert!(message.contains("empty.safetensors holds no conditioning"), "{message}");
    let both = node("ConditioningCombine", json!({"conditioning_1": ["1", 0], "conditioning_2": ["1", 0]}));
    let message = refused(json!({"1": load("text.safetensors"), "2": both, "3": save("2")}));
    assert!(message.contains("a conditioning of 2 entries cannot be saved"), "{message}");
    let area = json!({"conditioning": ["1", 0], "width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0});
    let area = node("ConditioningSetArea", area);
    let message = refused(json!({"1": load("text.safetensors"), "2": area, "3": save("2")}));
    assert!(message.contains("with an area cannot be saved"), "{message}");
}
