//! Two photos, one instruction, over real sockets and with a token.

use comfyd::image::{Turn, decode, text_chunks};
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use super::server::{Client, Heard, Options, Server};
use super::{golden, photo, tiny_qwen, workflow};

const TOKEN: &str = "$2b$12$abcdefghijklmnopqrstuuRUdhwFYVL2R9bFyZcJjEkB1Yb8cWd0W";

async fn studio() -> Server {
    let password = Some(format!("{TOKEN}\nalice"));
    Server::with(Options { password, models: Some(tiny_qwen::models().to_owned()), ..Options::default() })
        .await
}

/// A studio with the photos of the edit uploaded.
async fn with_photos() -> (Server, Client) {
    let server = studio().await;
    let client = server.client();
    for name in ["photo_a.png", "photo_b.png"] {
        let answer = client.upload(name, &photo(name), &[]).await;
        assert_eq!(
            answer.json::<Json>().await.unwrap(),
            json!({"name": name, "subfolder": "", "type": "input"})
        );
    }
    (server, client)
}

/// An edit of many steps, so that there is time to do something while it samples.
fn long_edit(seed: u64) -> Json {
    let mut graph = workflow("edit2509_2img");
    graph["3"]["inputs"]["steps"] = json!(500);
    graph["3"]["inputs"]["seed"] = json!(seed);
    graph
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_turned_away_everywhere() {
    let server = studio().await;
    let stranger = server.stranger();
    for path in
        ["/prompt", "/queue", "/history", "/object_info", "/system_stats", "/view?filename=a.png", "/none"]
    {
        let answer = stranger.get(path).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.text().await.unwrap(), r#"{"error": "Authentication required."}"#, "{path}");
    }
    assert_eq!(stranger.submit(&json!({"prompt": {}})).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(stranger.try_socket("/ws").await.err(), Some(401));
    assert_eq!(stranger.get("/health").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_followed_downloaded_and_answered_from_the_cache() {
    let (_server, client) = with_photos().await;
    let mut socket = client.socket("me").await;
    let graph = workflow("edit2509_2img");

    let job = client.queue_for(&graph, json!({"client_id": "me"})).await;
    let heard = socket.until("executing null").await;
    assert_eq!(
        words(&heard, &["executing", "executed", "progress", "execution_success"]),
        expected_of_the_first_run()
    );
    let progress: Vec<_> =
        told(&heard, "progress").map(|data| (data["value"].clone(), data["max"].clone())).collect();
    assert_eq!(progress, [(json!(1), json!(2)), (json!(2), json!(2))]);
    let entry = client.finished(&job).await;
    assert_eq!(entry["status"]["status_str"], "success");
    let picture = entry["outputs"]["60"]["images"][0].clone();
    compare(&download(&client, &picture).await, "edit2509_2img_00001_.png");

    let again = client.queue_for(&graph, json!({"client_id": "me"})).await;
    let heard = socket.until("executing null").await;
    let cached = told(&heard, "execution_cached").next().unwrap();
    assert_eq!(cached["nodes"].as_array().unwrap().len(), graph.as_object().unwrap().len());
    assert_eq!(told(&heard, "executing").filter(|data| data["node"].is_string()).count(), 0);
    assert_eq!(
        client.finished(&again).await["outputs"]["60"]["images"][0],
        picture,
        "no second file is written"
    );
}

/// `executing` for each node in ComfyUI's order, with what the sampler and the output node add.
fn expected_of_the_first_run() -> Vec<String> {
    let nodes = golden_order();
    let mut words: Vec<String> = Vec::new();
    for node in nodes {
        words.push(format!("executing {node}"));
        match node {
            "3" => words.extend(["progress 3".to_owned(), "progress 3".to_owned()]),
            "60" => words.push("executed 60".to_owned()),
            _ => {}
        }
    }
    words.extend(["execution_success ".to_owned(), "executing ".to_owned()]);
    words
}

/// The order in which ComfyUI runs the nodes of `edit2509_2img`: the last link of a node is entered first.
fn golden_order() -> Vec<&'static str> {
    vec!["39", "78", "93", "88", "106", "38", "110", "111", "37", "66", "75", "3", "8", "60"]
}

fn words(heard: &[Heard], kinds: &[&str]) -> Vec<String> {
    let messages = heard.iter().filter_map(|heard| match heard {
        Heard::Json(message) => Some(message),
        Heard::Binary(_) => None,
    });
    messages
        .filter(|message| kinds.contains(&message["type"].as_str().unwrap()))
        .map(|message| {
            let (kind, data) = (message["type"].as_str().unwrap(), &message["data"]);
            format!("{kind} {}", data["node"].as_str().unwrap_or_default())
        })
        .collect()
}

fn told<'a>(heard: &'a [Heard], kind: &'a str) -> impl Iterator<Item = &'a Json> {
    heard.iter().filter_map(move |heard| match heard {
        Heard::Json(message) if message["type"] == kind => Some(&message["data"]),
        _ => None,
    })
}

async fn download(client: &Client, picture: &Json) -> Vec<u8> {
    let query = |key: &str| picture[key].as_str().unwrap().to_owned();
    let path = format!(
        "/view?filename={}&subfolder={}&type={}",
        query("filename"),
        query("subfolder"),
        query("type")
    );
    let answer = client.get(&path).await;
    assert_eq!(answer.headers()["content-type"], "image/png");
    answer.bytes().await.unwrap().to_vec()
}

fn compare(found: &[u8], recorded: &str) {
    let wanted = std::fs::read(golden::path(&format!("png/{recorded}"))).unwrap();
    assert_eq!(text_chunks(found), text_chunks(&wanted));
    let [found, wanted] =
        [found, &wanted].map(|file| decode(file, recorded, Turn::AsStored).unwrap().remove(0).rgba);
    assert_eq!(found.size(), wanted.size());
    let furthest = found.bytes().iter().zip(wanted.bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(furthest <= 2, "pictures are {furthest} of 255 apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_let_go_when_asked_and_what_they_made_stays() {
    let (_server, client) = with_photos().await;
    let mut socket = client.socket("me").await;
    let mut graph = workflow("edit2509_2img");
    let mut run = async |graph: &Json| {
        client.queue_for(graph, json!({"client_id": "me"})).await;
        let heard = socket.until("executing null").await;
        let cached = told(&heard, "execution_cached").next().unwrap()["nodes"].as_array().unwrap().len();
        (cached, words(&heard, &["executing"]).len() - 1)
    };
    let nodes = graph.as_object().unwrap().len();
    assert_eq!(run(&graph).await, (0, nodes));
    client.post("/free", r#"{"unload_models": true}"#).await;
    // Three files, and the two nodes that give the diffusion model another setting.
    assert_eq!(run(&graph).await, (nodes - 5, 0), "nothing has to run again");
    graph["60"]["inputs"]["filename_prefix"] = json!("again");
    assert_eq!(run(&graph).await.1, 1, "the picture is saved from what was kept");
    graph["3"]["inputs"]["seed"] = json!(7);
    assert_eq!(run(&graph).await.1, 7, "models are loaded again where they are needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_may_ask_for_previews() {
    let (_server, client) = with_photos().await;
    let mut socket = client.socket("me").await;
    let mut graph = workflow("edit2509_2img");
    for (seed, method, pictures) in [(1, "latent2rgb", 2), (2, "none", 0), (3, "default", 0)] {
        graph["3"]["inputs"]["seed"] = json!(seed);
        let more = json!({"client_id": "me", "extra_data": {"preview_method": method}});
        client.queue_for(&graph, more).await;
        let heard = socket.until("executing null").await;
        let shown = heard.iter().filter(|frame| matches!(frame, Heard::Binary(_))).count();
        assert_eq!(shown, pictures, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_stops_between_two_steps_and_the_queue_goes_on() {
    let (_server, client) = with_photos().await;
    let mut socket = client.socket("me").await;
    let long = client.queue_for(&long_edit(1), json!({"client_id": "me"})).await;
    let dropped = client.queue(&long_edit(2)).await;
    let next = client.queue(&workflow("edit2509_2img")).await;
    socket.until("progress").await;

    let queue = client.json("/queue").await;
    assert_eq!(queue["queue_running"][0][1], long.as_str());
    let waiting: Vec<_> =
        queue["queue_pending"].as_array().unwrap().iter().map(|job| job[1].clone()).collect();
    assert_eq!(waiting, [dropped.as_str(), next.as_str()]);
    client.post("/queue", json!({"delete": [dropped]}).to_string()).await;

    client.post("/interrupt", "").await;
    let heard = socket.until("execution_interrupted").await;
    assert!(told(&heard, "progress").count() <= 1, "it stops within a step");
    assert_eq!(told(&heard, "execution_interrupted").next().unwrap()["node_id"], "3");
    let entry = client.finished(&long).await;
    assert_eq!(
        (&entry["status"]["status_str"], &entry["status"]["completed"]),
        (&json!("error"), &json!(false))
    );

    assert_eq!(client.finished(&next).await["status"]["status_str"], "success");
    assert_eq!(client.json(&format!("/history/{dropped}")).await, json!({}), "a deleted job never runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_the_edit_describes_itself() {
    let server = studio().await;
    let client = server.client();
    let info = client.json("/object_info").await;
    for node in workflow("edit2509_2img").as_object().unwrap().values() {
        let class = node["class_type"].as_str().unwrap();
        assert_eq!(client.json(&format!("/object_info/{class}")).await[class], info[class]);
        let declared = &info[class]["input"];
        for input in node["inputs"].as_object().unwrap().keys() {
            let known =
                ["required", "optional"].iter().any(|section| declared[*section].get(input).is_some());
            assert!(known, "{class} does not declare {input}");
        }
    }
    let files = &info["UNETLoader"]["input"]["required"]["unet_name"][0];
    assert!(files.as_array().unwrap().contains(&json!("qwen_image_edit_2509_fp8_e4m3fn.safetensors")));
}
