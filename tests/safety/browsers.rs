//! A page of another site cannot use a server on this machine through the browser of its owner.

use reqwest::{Method, StatusCode};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::server::{Options, Server};
use super::toys::{TOYS, show};

/// The status of a websocket handshake from a page of this origin.
async fn handshake(server: &Server, origin: &str) -> u16 {
    let mut request =
        format!("ws{}/ws", server.url.trim_start_matches("http")).into_client_request().unwrap();
    request.headers_mut().insert("origin", origin.parse().unwrap());
    match connect_async(request).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(SocketError::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("no handshake: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_are_turned_away() {
    let server = Server::with(Options { nodes: TOYS, ..Options::default() }).await;
    let client = server.client();
    let body = serde_json::json!({"prompt": show("x")}).to_string();
    for origin in
        ["http://evil.example", "https://evil.example:8188", "http://127.0.0.1:1", "http://localhost:1"]
    {
        for (method, path) in [
            (Method::POST, "/prompt"),
            (Method::POST, "/api/interrupt"),
            (Method::POST, "/upload/image"),
            (Method::GET, "/history"),
            (Method::DELETE, "/userdata/x"),
            (Method::OPTIONS, "/prompt"),
            (Method::GET, "/nowhere"),
        ] {
            // What a form or a plain script can send without asking first.
            let request = client.request(method.clone(), path).header("Content-Type", "text/plain");
            let answer = request.header("Origin", origin).body(body.clone()).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {path} {origin}");
            assert!(!answer.headers().contains_key("access-control-allow-origin"));
        }
        assert_eq!(handshake(&server, origin).await, 403, "{origin}");
    }
    assert_eq!(handshake(&server, &server.url).await, 101);
    assert_eq!(client.json("/history").await, serde_json::json!({}), "nothing ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_clients_never_run_script_as_this_site() {
    let server = Server::start().await;
    let client = server.client();
    let script = b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'><script>x()</script></svg>";
    for name in
        ["a.svg", "a.SVG", "a.xml", "a.html", "a.htm", "a.xhtml", "a.js", "a.mjs", "a.css", "a.svgz", "a"]
    {
        client.upload(name, script, &[]).await;
        client.post(&format!("/userdata/{name}"), script.as_slice()).await;
        for destination in ["document", "iframe", "embed", "object", "script", "empty"] {
            let view = client.request(Method::GET, &format!("/view?type=input&filename={name}"));
            let shown = view.header("Sec-Fetch-Dest", destination).send().await.unwrap();
            let header = |key: &str| shown.headers()[key].to_str().unwrap().to_owned();
            assert_eq!(header("content-type"), "application/octet-stream", "{name}");
            assert_eq!(header("content-disposition").starts_with("attachment; "), name != "a", "{name}");
        }
        for path in [format!("/view?type=input&filename={name}"), format!("/userdata/{name}")] {
            let shown = client.get(&path).await;
            assert_eq!(shown.headers()["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(shown.headers()["content-security-policy"], "sandbox", "{path}");
        }
    }
}
