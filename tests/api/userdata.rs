//! Files and settings that clients keep on the server.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_moved_and_deleted() {
    let server = Server::start().await;
    let client = server.client();
    let written = client.post("/userdata/workflows%2Fa.json", r#"{"x":1}"#).await;
    assert_eq!(written.text().await.unwrap(), r#""workflows/a.json""#);
    let again = client.post("/api/userdata/workflows%2Fa.json?overwrite=false", "other").await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    assert_eq!(client.get("/userdata/workflows%2Fa.json").await.text().await.unwrap(), r#"{"x":1}"#);
    let listed = client.json("/userdata?dir=workflows&recurse=true&split=true&full_info=undefined").await;
    assert_eq!(listed, json!([["a.json", "a.json"]]));
    let moved = client.post("/userdata/workflows%2Fa.json/move/b%2Fc.json", "").await;
    assert_eq!(moved.text().await.unwrap(), r#""b/c.json""#);
    let all = client.json("/v2/userdata").await;
    let names: Vec<_> = all.as_array().unwrap().iter().map(|entry| &entry["path"]).collect();
    assert_eq!(names, ["b", "workflows", "b/c.json"]);
    let deleted = client.request(Method::DELETE, "/userdata/b%2Fc.json").send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(client.get("/userdata/b%2Fc.json").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_out_of_the_users_folder() {
    let server = Server::start().await;
    let client = server.client();
    std::fs::write(server.base().join("user/other.json"), "secret").unwrap();
    for name in
        ["..%2Fother.json", "%2Fetc%2Fpasswd", "%252e%252e%252Fother.json", "a%2F..%2F..%2Fother.json"]
    {
        let path = format!("/userdata/{name}");
        assert_eq!(client.get(&path).await.status(), StatusCode::FORBIDDEN, "{name}");
        assert_eq!(client.post(&path, "x").await.status(), StatusCode::FORBIDDEN, "{name}");
        let delete = client.request(Method::DELETE, &path).send().await.unwrap();
        assert_eq!(delete.status(), StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(client.get("/userdata?dir=..").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(client.get("/v2/userdata?path=..").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(client.get("/userdata?dir=nope").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(client.get("/userdata").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(std::fs::read_to_string(server.base().join("user/other.json")).unwrap(), "secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_files_are_refused() {
    let server = Server::start().await;
    let client = server.client();
    client.post("/userdata/folder%2Fa.json", "x").await;
    for name in ["folder", "a%00b", &"x".repeat(300), "folder%2Fa.json%2Fb"] {
        let status = client.post(&format!("/userdata/{name}"), "x").await.status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}");
    }
    let left: Vec<_> = client.json("/v2/userdata").await.as_array().unwrap().clone();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_merged_and_survive_a_broken_file() {
    let server = Server::start().await;
    let client = server.client();
    client.post("/settings", r#"{"a": 1, "b": [1, 2]}"#).await;
    client.post("/settings/a", "\"text\"").await;
    assert_eq!(client.json("/settings").await, json!({"a": "text", "b": [1, 2]}));
    assert_eq!(client.json("/api/settings/b").await, json!([1, 2]));
    assert_eq!(client.json("/settings/none").await, json!(null));
    assert_eq!(client.post("/settings", "[]").await.status(), StatusCode::BAD_REQUEST);
    std::fs::write(server.base().join("user/default/comfy.settings.json"), "{broken").unwrap();
    assert_eq!(client.json("/settings").await, json!({}));
    assert_eq!(client.json("/users").await, json!({"storage": "server", "migrated": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_written_at_once_are_all_kept() {
    let server = Server::start().await;
    let writes = (0..20).map(|number| {
        let client = server.client();
        tokio::spawn(async move {
            client.post(&format!("/settings/key{number}"), number.to_string()).await.status()
        })
    });
    for write in writes.collect::<Vec<_>>() {
        assert_eq!(write.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(server.client().json("/settings").await.as_object().unwrap().len(), 20);
}
