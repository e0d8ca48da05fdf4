//! Model files that are not what their name says. Each job fails with the cause in its message, and the
//! next one runs.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::server::{Client, Server};
use super::{photo, tiny_qwen, workflow};

const DIFFUSION: &str = "diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors";
const VAE: &str = "vae/qwen_image_vae.safetensors";

/// A server with `spoil` done to its model folder, which starts out whole.
async fn studio(spoil: impl FnOnce(&Path)) -> Server {
    let server = Server::start().await;
    let models = server.base().join("models");
    for file in [DIFFUSION, VAE, "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors"] {
        std::fs::create_dir_all(models.join(file).parent().unwrap()).unwrap();
        std::fs::copy(tiny_qwen::models().join(file), models.join(file)).unwrap();
    }
    spoil(&models);
    server
}

/// A small text-to-image graph.
fn graph() -> Json {
    workflow("t2i_cfg1")
}

/// The message of the error a graph must end in, and the node it is blamed on.
async fn failure(client: &Client, graph: &Json) -> (String, String) {
    let id = client.queue(graph).await;
    let entry = client.finished(&id).await;
    assert_eq!(entry["status"]["status_str"], "error", "{entry}");
    let messages = entry["status"]["messages"].as_array().unwrap();
    let error = messages.iter().find(|message| message[0] == "execution_error").unwrap();
    let word = |key: &str| error[1][key].as_str().unwrap().to_owned();
    (word("exception_message"), word("node_type"))
}

/// Runs the spoilt graph, checks that the message names the cause, and that the server lives on.
async fn blames(server: &Server, class: &str, causes: &[&str]) {
    let client = server.client();
    let (message, node) = failure(&client, &graph()).await;
    assert_eq!(node, class, "{message}");
    for cause in causes {
        assert!(message.contains(cause), "`{cause}` is not in: {message}");
    }
    let alive = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let id = client.queue(&alive).await;
    assert_eq!(client.finished(&id).await["status"]["status_str"], "success");
}

/// Keeps only the first `share` of a file.
fn cut(path: &Path, share: f64) {
    let length = std::fs::metadata(path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((length as f64 * share) as u64).unwrap();
}

/// Changes the header of a file, which keeps its data.
fn edit_header(path: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Json>)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut header: Json = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(header.as_object_mut().unwrap());
    let header = serde_json::to_vec(&header).unwrap();
    let mut changed = (header.len() as u64).to_le_bytes().to_vec();
    changed.extend(header);
    changed.extend(&bytes[8 + length..]);
    std::fs::write(path, changed).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_named() {
    let server = studio(|models| cut(&models.join(DIFFUSION), 0.5)).await;
    blames(&server, "UNETLoader", &["qwen_image_edit_2509_fp8_e4m3fn.safetensors", "truncated"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_broken_header_is_named() {
    let spoil = |models: &Path| {
        std::fs::write(models.join(DIFFUSION), b"\x10\0\0\0\0\0\0\0{this is not json").unwrap();
    };
    let server = studio(spoil).await;
    blames(&server, "UNETLoader", &["qwen_image_edit_2509_fp8_e4m3fn.safetensors"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_tensor_is_named() {
    let missing = ["transformer_blocks.0.attn.to_q.weight", "transformer_blocks.1.img_mlp.net.2.bias"];
    let server = studio(|models| {
        edit_header(&models.join(DIFFUSION), |header| {
            for (index, name) in missing.iter().enumerate() {
                let entry = header.remove(*name).unwrap();
                header.insert(format!("unrelated.{index}"), entry);
            }
        });
    })
    .await;
    blames(&server, "UNETLoader", &missing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let server = studio(|models| {
        edit_header(&models.join(VAE), |header| {
            let shape = &mut header["decoder.head.2.weight"]["shape"];
            let sides: Vec<u64> = serde_json::from_value(shape.clone()).unwrap();
            *shape = json!([sides[1], sides[0], sides[2], sides[3], sides[4]]);
        });
    })
    .await;
    blames(
        &server,
        "VAELoader",
        &["decoder.head.2.weight", "expected [3, 8, 3, 3, 3]", "found [8, 3, 3, 3, 3]"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vae_in_place_of_the_diffusion_model_is_recognised() {
    let server = studio(|models| {
        std::fs::copy(models.join(VAE), models.join(DIFFUSION)).unwrap();
    })
    .await;
    blames(&server, "UNETLoader", &["not a diffusion model", "VAE"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diffusers_folder_in_place_of_a_file_says_which_file_is_wanted() {
    let server = studio(|models| {
        let file = models.join(DIFFUSION);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        for shard in 1..=2 {
            let name = format!("diffusion_pytorch_model-0000{shard}-of-00002.safetensors");
            std::fs::copy(models.join(VAE), file.join(name)).unwrap();
        }
        std::fs::write(file.join("diffusion_pytorch_model.safetensors.index.json"), "{}").unwrap();
    })
    .await;
    let client = server.client();
    // The folder is no entry of the list; its shards are, and each is refused as what it is.
    let (status, answer) = client.submit(&json!({"prompt": graph()})).await;
    assert_eq!(status, reqwest::StatusCode::BAD_REQUEST);
    assert_eq!(answer["node_errors"]["37"]["errors"][0]["type"], "value_not_in_list", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_are_none_are_named() {
    let server = Server::start().await;
    let client = server.client();
    let graph = |name: &str| {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        })
    };
    for (name, bytes) in [
        ("text.png", &b"a text, not a picture"[..]),
        ("empty.png", b""),
        ("half.png", &photo("photo_a.png")[..500]),
    ] {
        assert_eq!(client.upload(name, bytes, &[]).await.status(), reqwest::StatusCode::OK);
        let (message, class) = failure(&client, &graph(name)).await;
        assert!(class == "LoadImage" && message.contains(name), "{message}");
    }
    let (status, answer) = client.submit(&json!({"prompt": graph("absent.png")})).await;
    assert_eq!(status, reqwest::StatusCode::BAD_REQUEST);
    let error = &answer["node_errors"]["1"]["errors"][0];
    assert_eq!(
        (&error["type"], &error["details"]),
        (&json!("custom_validation_failed"), &json!("image - Invalid image file: absent.png"))
    );
    client.upload("good.png", &photo("photo_a.png"), &[]).await;
    let id = client.queue(&graph("good.png")).await;
    assert_eq!(client.finished(&id).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_seeds_and_scales_out_of_range_are_blamed_on_their_input() {
    let server = studio(|_| {}).await;
    let client = server.client();
    let latent = graph()
        .as_object()
        .unwrap()
        .iter()
        .find(|(_, node)| node["class_type"] == "EmptySD3LatentImage")
        .unwrap()
        .0
        .clone();
    for (node, input, value, kind) in [
        (latent.as_str(), "width", "0", "value_smaller_than_min"),
        ("3", "seed", "18446744073709551616", "value_bigger_than_max"),
        ("3", "cfg", "NaN", "invalid_input_type"),
        ("3", "cfg", "\"nan\"", "invalid_input_type"),
    ] {
        let mut broken = graph();
        broken[node]["inputs"][input] = json!("PUT HERE");
        let body = json!({"prompt": broken}).to_string().replace("\"PUT HERE\"", value);
        let answer: Json = client.post("/prompt", body).await.json().await.unwrap();
        let error = &answer["node_errors"][node]["errors"][0];
        assert_eq!(
            (&error["type"], &error["extra_info"]["input_name"]),
            (&json!(kind), &json!(input)),
            "{answer}"
        );
    }
    let id = client.queue(&graph()).await;
    assert_eq!(client.finished(&id).await["status"]["status_str"], "success");
}
