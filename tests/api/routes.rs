//! Paths, methods, twins, and the plain questions about the server.

use reqwest::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::server::{Options, Server};

#[tokio::test(flavor = "multi_thread")]
async fn every_route_has_a_twin_below_api() {
    let server = Server::start().await;
    let client = server.client();
    for path in [
        "/prompt",
        "/queue",
        "/history",
        "/features",
        "/embeddings",
        "/models",
        "/users",
        "/i18n",
        "/extensions",
        "/global_subgraphs",
        "/node_replacements",
    ] {
        let plain = client.get(path).await;
        let twin = client.get(&format!("/api{path}")).await;
        assert_eq!(plain.status(), StatusCode::OK, "{path}");
        assert_eq!(plain.headers()[CONTENT_TYPE], "application/json; charset=utf-8");
        assert_eq!(plain.text().await.unwrap(), twin.text().await.unwrap(), "{path}");
    }
    for path in ["/api", "/prompt/", "/api/internal/logs", "/no/such/path", "/api/no/such/path"] {
        assert_eq!(client.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(client.get("/api/").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_are_told_the_right_ones() {
    let server = Server::start().await;
    let client = server.client();
    for (method, path, allow) in [
        (Method::POST, "/history/abc", "GET,HEAD"),
        (Method::DELETE, "/prompt", "GET,HEAD,POST"),
        (Method::PUT, "/interrupt", "GET,HEAD,POST"),
        (Method::PATCH, "/api/userdata/x", "DELETE,GET,HEAD,POST"),
        (Method::POST, "/nowhere", "GET,HEAD"),
    ] {
        let response = client.request(method, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()[ALLOW], allow, "{path}");
    }
    for path in ["/interrupt", "/upload/image", "/free"] {
        assert_eq!(client.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let head = client.request(Method::HEAD, "/prompt").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[CONTENT_TYPE], "application/json; charset=utf-8");
    assert_eq!(head.text().await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_answer_with_nothing_at_all() {
    let server = Server::start().await;
    for (path, body) in [
        ("/queue", r#"{"clear": true}"#),
        ("/queue", r#"{"delete": ["x"]}"#),
        ("/history", r#"{"clear": true}"#),
        ("/interrupt", ""),
        ("/interrupt", "{broken"),
        ("/free", "{}"),
        ("/settings", "{}"),
    ] {
        let response = server.client().post(path, body).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(!response.headers().contains_key(CONTENT_TYPE), "{path}");
        assert_eq!(response.text().await.unwrap(), "", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_tells_its_memory_in_whole_bytes() {
    let server = Server::start().await;
    let stats = server.client().json("/system_stats").await;
    assert!(stats["system"]["ram_total"].as_u64().unwrap() > 0);
    assert_eq!(stats["system"]["comfyui_version"], "0.3.64");
    assert!(stats.get("comfyd").is_none(), "the default is ComfyUI's");
    let device = &stats["devices"][0];
    assert!(device["index"].is_u64());
    for key in ["vram_total", "vram_free", "torch_vram_total", "torch_vram_free"] {
        assert!(device[key].is_u64(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn object_info_keeps_the_order_of_inputs_and_follows_the_files() {
    let server = Server::start().await;
    let client = server.client();
    let text = client.get("/object_info/ImageScale").await.text().await.unwrap();
    let places: Vec<_> = ["\"image\"", "\"upscale_method\"", "\"width\"", "\"height\"", "\"crop\""]
        .map(|name| text.find(name).unwrap())
        .into();
    assert!(places.is_sorted(), "{text}");
    let pictures = |info: &Json| info["LoadImage"]["input"]["required"]["image"][0].as_array().unwrap().len();
    assert_eq!(pictures(&client.json("/object_info/LoadImage").await), 0);
    client.upload("new.png", b"bytes", &[]).await;
    assert_eq!(pictures(&client.json("/api/object_info").await), 1);
    assert_eq!(client.json("/object_info/No%20Such%5BNode%5D").await, json!({}));
    for count in 2..6 {
        std::fs::write(server.base().join(format!("input/{count}.png")), "bytes").unwrap();
        assert_eq!(pictures(&client.json("/object_info").await), count, "a new file shows at once");
    }
    std::fs::remove_file(server.base().join("input/2.png")).unwrap();
    assert_eq!(pictures(&client.json("/object_info").await), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_by_folder() {
    let server = Server::start().await;
    let client = server.client();
    let loras = server.base().join("models/loras");
    std::fs::create_dir_all(loras.join("styles")).unwrap();
    for name in ["b.safetensors", "a.safetensors", "notes.txt", "styles/c.safetensors"] {
        std::fs::write(loras.join(name), "").unwrap();
    }
    std::fs::create_dir_all(server.base().join("models/embeddings")).unwrap();
    std::fs::write(server.base().join("models/embeddings/bad-hands.pt"), "").unwrap();
    let names = json!(["a.safetensors", "b.safetensors", "styles/c.safetensors"]);
    assert_eq!(client.json("/models/loras").await, names);
    assert_eq!(client.json("/embeddings").await, json!(["bad-hands"]));
    assert_eq!(client.json("/experiment/models/loras").await[2]["name"], "styles/c.safetensors");
    for path in ["/models/nope", "/models/unet", "/models/clip", "/experiment/models/nope"] {
        let response = client.get(path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.text().await.unwrap(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_checkpoint_can_be_read() {
    let server = Server::start().await;
    let client = server.client();
    let loras = server.base().join("models/loras");
    let write = |name: &str, header: &str| {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        std::fs::write(loras.join(name), bytes).unwrap();
    };
    write("noted.safetensors", r#"{"__metadata__": {"ss_tag": "cat"}}"#);
    write("plain.safetensors", "{}");
    std::fs::write(loras.join("short.safetensors"), "x").unwrap();
    assert_eq!(
        client.json("/view_metadata/loras?filename=noted.safetensors").await,
        json!({"ss_tag": "cat"})
    );
    let former = server.base().join("models/text_encoders");
    std::fs::rename(loras.join("noted.safetensors"), former.join("noted.safetensors")).unwrap();
    let notes = client.json("/view_metadata/clip?filename=noted.safetensors").await;
    assert_eq!(notes, json!({"ss_tag": "cat"}), "folders answer to their former names as well");
    for query in [
        "",
        "?filename=plain.safetensors",
        "?filename=short.safetensors",
        "?filename=../x.safetensors",
        "?filename=a.txt",
    ] {
        assert_eq!(
            client.get(&format!("/view_metadata/loras{query}")).await.status(),
            StatusCode::NOT_FOUND,
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_root_is_served_with_its_cache_rules_and_nothing_beyond_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("web");
    std::fs::create_dir_all(root.join("extensions/core")).unwrap();
    std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    std::fs::write(root.join("index.html"), "<html>ours</html>").unwrap();
    std::fs::write(root.join("app.js"), "1").unwrap();
    std::fs::write(root.join("extensions/core/a.js"), "2").unwrap();
    let server = Server::with(Options { web_root: Some(root), ..Options::default() }).await;
    let client = server.client();
    let page = client.get("/").await;
    assert_eq!(page.headers()[CONTENT_TYPE], "text/html");
    assert_eq!(page.headers()["pragma"], "no-cache");
    assert_eq!(page.text().await.unwrap(), "<html>ours</html>");
    let script = client.get("/app.js").await;
    assert_eq!(script.headers()[CACHE_CONTROL], "no-cache");
    assert_eq!(script.text().await.unwrap(), "1");
    assert_eq!(
        client.json("/extensions").await,
        json!(["/extensions/comfyd/about.js", "/extensions/core/a.js"])
    );
    assert_eq!(client.get("/extensions/core").await.status(), StatusCode::FORBIDDEN);
    for path in
        ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/extensions/..%2f..%2fsecret.txt"]
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = client.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_beside_a_model_is_its_preview() {
    let server = Server::start().await;
    let client = server.client();
    let loras = server.base().join("models/loras");
    std::fs::create_dir_all(loras.join("styles")).unwrap();
    let png = |colour: u8| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_pixel(4, 3, image::Rgb([colour; 3]));
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    std::fs::write(loras.join("styles/a.safetensors"), "x").unwrap();
    std::fs::write(loras.join("styles/a.preview.png"), png(200)).unwrap();
    std::fs::write(loras.join("b.png"), "no picture").unwrap();
    let cover = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, png(50));
    let notes = json!({"__metadata__": {"ssmd_cover_images": json!([cover]).to_string()}}).to_string();
    let file = [&(notes.len() as u64).to_le_bytes(), notes.as_bytes()].concat();
    std::fs::write(loras.join("c.safetensors"), file).unwrap();
    for (name, colour) in
        [("styles/a.safetensors", 200), ("styles%2Fa.safetensors", 200), ("c.safetensors", 50)]
    {
        let response = client.get(&format!("/api/experiment/models/preview/loras/0/{name}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        assert_eq!(response.headers()[CONTENT_TYPE], "image/webp");
        let picture = image::load_from_memory(&response.bytes().await.unwrap()).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (4, 3));
        assert!(picture.get_pixel(1, 1).0[0].abs_diff(colour) < 5, "{name}");
    }
    for path in
        ["loras/0/b.safetensors", "loras/7/c.safetensors", "loras/x/c.safetensors", "nope/0/c.safetensors"]
    {
        let response = client.get(&format!("/experiment/models/preview/{path}")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_where_server_and_client_want_it() {
    for compress in [true, false] {
        let server = Server::with(Options { compress, ..Options::default() }).await;
        let client = server.client();
        client.upload("notes.json", b"[1, 2, 3]", &[]).await;
        let ask = async |path: &str, encodings: &str| {
            let request = client.request(Method::GET, path).header("Accept-Encoding", encodings);
            request.send().await.unwrap()
        };
        let small = ask("/object_info", "gzip, deflate").await;
        assert_eq!(small.headers().get("content-encoding").is_some(), compress);
        let small = small.bytes().await.unwrap();
        let plain = ask("/object_info", "identity").await;
        assert!(plain.headers().get("content-encoding").is_none());
        assert_eq!(small.len() * 3 < plain.bytes().await.unwrap().len(), compress);
        let file = ask("/view?filename=notes.json&type=input", "gzip").await;
        assert!(file.headers().get("content-encoding").is_none(), "files stay as they are");
    }
}
