//! Context windows, and other ways to guide a model that are set on the model itself.

use candle_core::Tensor;
use serde_json::{Value, json};

use crate::{Made, Studio, apart, as_in_comfyui};

/// Recorded from ComfyUI 0.3.64, with the batch as long as the list of sigmas, without which it refuses to cut batches.
#[test]
fn windows_and_the_old_perp_neg_end_where_they_end_in_comfyui() {
    as_in_comfyui(&mut Studio::open(), "windows", 19, "windows, PerpNeg");
}

/// The graph of a recorded run, with changed inputs of its nodes.
fn changed(name: &str, changes: &[(&str, Value)]) -> Made {
    let mut made = Made::all("windows").into_iter().find(|made| made.name == name).unwrap();
    for (node, inputs) in changes {
        let into = made.prompt[node]["inputs"].as_object_mut().unwrap();
        into.extend(inputs.as_object().unwrap().clone());
    }
    made
}

fn latent(studio: &mut Studio, name: &str, changes: &[(&str, Value)]) -> Tensor {
    changed(name, changes).latent(studio)
}

#[test]
fn items_of_a_batch_do_not_see_each_other_whatever_the_windows() {
    let mut studio = Studio::open();
    let steps = ("out", json!({"steps": 2}));
    let long = ("win", json!({"context_length": 5}));
    let cut = latent(&mut studio, "windows_batch_uniform", std::slice::from_ref(&steps));
    let whole = latent(&mut studio, "windows_batch_uniform", &[steps, long]);
    assert!(apart(&cut, &whole) < 1e-5, "{}", apart(&cut, &whole));
}

/// A run whose positive conditioning is that of the negative side and another one.
fn beside(conditioning: Value) -> Made {
    let mut made = changed("windows_columns", &[("out", json!({"steps": 2, "positive": ["both", 0]}))]);
    made.prompt["part"] = conditioning;
    made.prompt["both"] = json!({"class_type": "ConditioningCombine", "inputs": {
        "conditioning_1": ["part", 0], "conditioning_2": ["neg", 0],
    }});
    made
}

/// In ComfyUI masks do not go with windows over rows or columns.
#[test]
fn masks_and_areas_are_cut_with_the_picture() {
    let mut studio = Studio::open();
    let mut run = |width: f64| {
        let area = json!({"class_type": "ConditioningSetAreaPercentage", "inputs": {
            "conditioning": ["pos", 0], "width": width, "height": 1.0, "x": 0.0, "y": 0.0, "strength": 1.0,
        }});
        beside(area).latent(&mut studio)
    };
    let (narrow, wide) = (run(0.2), run(1.0));
    // The last two columns are in a window without the narrow area.
    let last = |x: &Tensor| x.narrow(4, 8, 2).unwrap();
    assert!(apart(&narrow, &wide) > 1e-2);
    assert!(apart(&last(&narrow), &last(&wide)) > 1e-2);
}

/// As in ComfyUI 0.3.64, where what begins further right is a negative length.
#[test]
fn an_area_that_begins_where_the_picture_ends_counts_for_nothing() {
    const WIDTH: u32 = 80;
    let mut studio = Studio::open();
    let from = |x: u32| {
        beside(json!({"class_type": "ConditioningSetArea", "inputs": {
            "conditioning": ["pos", 0], "width": 64, "height": 64, "x": x, "y": 0, "strength": 1.0,
        }}))
    };
    let alone =
        latent(&mut studio, "windows_columns", &[("out", json!({"steps": 2, "positive": ["neg", 0]}))]);
    assert!(apart(&from(WIDTH - 8).latent(&mut studio), &alone) > 1e-3);
    assert!(apart(&from(WIDTH).latent(&mut studio), &alone) < 1e-6);
    let mut outside = from(WIDTH + 8).prompt;
    outside["save"] =
        json!({"class_type": "SaveLatent", "inputs": {"samples": ["out", 0], "filename_prefix": "x"}});
    let message = studio.failure(outside);
    assert!(message.contains("begins at column 11 and row 0 of a latent of 10 columns"), "{message}");
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let mut studio = Studio::open();
    let mut refused = |inputs: Value| {
        let mut made = changed("windows_columns", &[("win", inputs)]);
        made.prompt["save"] =
            json!({"class_type": "SaveLatent", "inputs": {"samples": ["out", 0], "filename_prefix": "x"}});
        studio.failure(made.prompt)
    };
    let message = refused(json!({"context_overlap": 4}));
    assert!(message.contains("`context_overlap` 4 has to be smaller than `context_length` 4"), "{message}");
    let message = refused(json!({"dim": 1}));
    assert!(message.contains("`dim` 1 cannot be cut"), "{message}");
}

/// As the page of CFGOverride says: a fixed strength in a part of the run, and of several the one nearest the sampler.
#[test]
fn the_strength_of_guidance_is_set_for_a_part_of_the_run() {
    let mut studio = Studio::open();
    let mut run = |cfg: f64, overrides: &[(f64, f64, f64)]| {
        let mut made = changed("windows_columns", &[("out", json!({"cfg": cfg, "model": ["m0", 0]}))]);
        made.prompt["m0"] = made.prompt["unet"].clone();
        for (index, (cfg, start, end)) in overrides.iter().enumerate() {
            let name = format!("m{}", index + 1);
            made.prompt[&name] = json!({"class_type": "CFGOverride", "inputs": {
                "model": [format!("m{index}"), 0], "cfg": cfg, "start_percent": start, "end_percent": end,
            }});
            made.prompt["out"]["inputs"]["model"] = json!([name, 0]);
        }
        made.latent(&mut studio)
    };
    let (one, three) = (run(1.0, &[]), run(3.0, &[]));
    assert!(apart(&run(3.0, &[(1.0, 0.0, 1.0)]), &one) < 1e-6);
    assert!(apart(&run(1.0, &[(3.0, 0.0, 1.0)]), &three) < 1e-6);
    assert!(apart(&run(5.0, &[(1.0, 0.0, 1.0), (3.0, 0.0, 1.0)]), &three) < 1e-6);
    let half = run(3.0, &[(1.0, 0.5, 1.0)]);
    assert!(apart(&half, &one) > 1e-2 && apart(&half, &three) > 1e-2);
    let halves = run(5.0, &[(3.0, 0.0, 0.5), (1.0, 0.5, 1.0)]);
    assert!(apart(&halves, &half) < 1e-6);
}
