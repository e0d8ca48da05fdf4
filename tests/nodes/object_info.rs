//! What every node declares, against ComfyUI 0.3.64: names, types, defaults, ranges, lists and their order.
//! The prose (`description`, tooltips) is ours and not compared.

use serde_json::Value as Json;

use crate::decoding::golden;
use crate::server::Server;

/// Keys that hold prose.
const PROSE: [&str; 3] = ["tooltip", "description", "output_tooltips"];

/// Nodes of later versions, which this one has no word on.
const NEWER: [&str; 26] = [
    "BatchImagesNode",
    "CFGOverride",
    "CameraAngle",
    "ComfyMathExpression",
    "ComfyNumberConvert",
    "ComfySwitchNode",
    "ConditioningLoader",
    "CreateList",
    "CustomCombo",
    "EmptyQwenImageLayeredLatentImage",
    "GetItemFromList",
    "ImageCompare",
    "JsonExtractString",
    "LatentCutToBatch",
    "ManualSigmas",
    "MarigoldV2PostProcess",
    "ModelAttentionBackend",
    "QwenImage21Cache",
    "ResizeImageMaskNode",
    "ResolutionSelector",
    "SaveConditioning",
    "SaveImageAdvanced",
    "SaveText",
    "SeedNode",
    "TextEncodeQwenImage21",
    "TextGenerate",
];

/// Two inputs that ComfyUI writes as `"COMBO"` although their nodes are of the older style, where it writes the list
/// itself. Clients read both.
const WRITTEN_OTHERWISE: [&str; 2] =
    ["LoadImageOutput.input.required.image", "SamplerER_SDE.input.required.solver_type"];

/// Words of input names whose lists depend on the files there are.
fn lists_files(class: &str, input: &str) -> bool {
    matches!(
        (class, input),
        ("LoadImage" | "LoadImageMask" | "LoadImageOutput", "image")
            | ("LoadLatent", "latent")
            | ("LoadImageSetFromFolderNode", "folder")
    ) || input.ends_with("_name") && !matches!(input, "sampler_name")
        || (class, input) == ("ModelPatchLoader", "name")
}

fn without_prose(value: &mut Json) {
    match value {
        Json::Object(entries) => {
            entries.retain(|key, _| !PROSE.contains(&key.as_str()));
            entries.values_mut().for_each(without_prose);
        }
        Json::Array(items) => items.iter_mut().for_each(without_prose),
        _ => {}
    }
}

/// Empties lists of files, and drops option maps that are empty without their prose.
fn normalise(class: &str, node: &mut Json) {
    without_prose(node);
    for section in ["required", "optional"] {
        let Some(inputs) = node["input"].get_mut(section).and_then(Json::as_object_mut) else { continue };
        for (name, input) in inputs {
            let Some(pair) = input.as_array_mut() else { continue };
            if lists_files(class, name) {
                if pair[0].is_array() {
                    pair[0] = Json::Array(Vec::new());
                }
                if let Some(options) = pair.get_mut(1).and_then(Json::as_object_mut) {
                    options.remove("options");
                }
            }
            if pair.get(1).and_then(Json::as_object).is_some_and(serde_json::Map::is_empty) {
                pair.truncate(1);
            }
        }
    }
}

/// Where two values differ, numbers compared by value.
fn differences(path: &str, found: &Json, expected: &Json, out: &mut Vec<String>) {
    match (found, expected) {
        (Json::Object(found), Json::Object(expected)) => {
            let keys = found.keys().chain(expected.keys().filter(|key| !found.contains_key(*key)));
            for key in keys {
                let (a, b) =
                    (found.get(key).unwrap_or(&Json::Null), expected.get(key).unwrap_or(&Json::Null));
                differences(&format!("{path}.{key}"), a, b, out);
            }
        }
        (Json::Array(found), Json::Array(expected)) if found.len() == expected.len() => {
            for (index, (a, b)) in found.iter().zip(expected).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, out);
            }
        }
        (Json::Number(a), Json::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path}: {a}, in ComfyUI {b}")),
    }
}

/// A group of inputs that grows is told as clients of today read it: by a prefix, or by a name each.
#[tokio::test(flavor = "multi_thread")]
async fn groups_that_grow_say_what_their_inputs_are_called() {
    let server = Server::start().await;
    let found = server.client().json("/object_info").await;
    server.end().await;
    let template = |class: &str, group: &str| {
        let input = &found[class]["input"]["required"][group];
        assert_eq!(input[0], "COMFY_AUTOGROW_V3");
        input[1]["template"].clone()
    };
    let numbered = template("BatchImagesNode", "images");
    assert_eq!(
        (&numbered["prefix"], &numbered["min"], &numbered["max"]),
        (&"image".into(), &1.into(), &50.into())
    );
    let named = template("ComfyMathExpression", "values");
    assert_eq!(named["names"].as_array().unwrap().len(), 26);
    assert_eq!(
        (&named["names"][0], &named["names"][25], &named["min"]),
        (&"a".into(), &"z".into(), &1.into())
    );
    assert_eq!(named["input"]["required"]["value"][0], "FLOAT,INT,BOOLEAN");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_declares_what_it_declares_in_comfyui() {
    let server = Server::start().await;
    let found = server.client().json("/object_info").await;
    let recorded = std::fs::read(golden("../object_info.json")).unwrap();
    let recorded: serde_json::Map<String, Json> = serde_json::from_slice(&recorded).unwrap();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (class, mut node) in found.as_object().unwrap().clone() {
        let Some(mut expected) = recorded.get(&class).cloned() else {
            if !NEWER.contains(&class.as_str()) {
                wrong.push(format!("{class} was not recorded: is it a node of ComfyUI 0.3.64?"));
            }
            continue;
        };
        normalise(&class, &mut node);
        normalise(&class, &mut expected);
        differences(&class, &node, &expected, &mut wrong);
        compared += 1;
    }
    server.end().await;
    wrong.retain(|line| !WRITTEN_OTHERWISE.iter().any(|path| line.starts_with(path)));
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(compared, recorded.len(), "nodes that were recorded are missing");
}
