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
    assert_eq!(client.json("/extensions").await, json!(["/extensions/core/a.js"]));
    assert_eq!(client.get("/extensions/core").await.status(), StatusCode::FORBIDDEN);
    for path in
        ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/extensions/..%2f..%2fsecret.txt"]
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = client.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}
