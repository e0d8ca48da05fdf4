//! The token: bearer header, query, and the many ways to get it wrong.

use reqwest::header::{ACCEPT, ALLOW, AUTHORIZATION, LOCATION, ORIGIN};
use reqwest::{Method, StatusCode};

use super::server::{Client, Options, Server};

const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";
const REFUSAL: &str = r#"{"error": "Authentication required."}"#;

async fn guarded() -> Server {
    Server::with(Options { password: Some(format!("{HASH}\nalice")), ..Options::default() }).await
}

async fn refused(client: &Client, method: Method, path: &str, headers: &[(&str, &str)]) {
    let mut request = client.request(method.clone(), path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path} {headers:?}");
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    if method != Method::HEAD {
        assert_eq!(response.text().await.unwrap(), REFUSAL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_the_token_before_anything_else() {
    let server = guarded().await;
    let stranger = server.stranger();
    for path in [
        "/",
        "/prompt",
        "/api/prompt",
        "/queue",
        "/history",
        "/history/x",
        "/view",
        "/view?filename=x.png",
        "/object_info",
        "/api/object_info",
        "/system_stats",
        "/features",
        "/embeddings",
        "/models",
        "/ws",
        "/api/ws",
        "/settings",
        "/users",
        "/userdata/a.js",
        "/userdata?dir=x",
        "/internal/logs",
        "/internal/files/output",
        "/no/such/path",
        "/x.CSS",
        "/x.js.txt",
        "/x.js/",
        "/api/login",
        "/login/",
        "/logout",
        "/guest_mode",
        "/extensions",
        "/health/",
        "//health",
        "/%68ealth",
    ] {
        refused(&stranger, Method::GET, path, &[]).await;
        refused(&stranger, Method::HEAD, path, &[]).await;
        refused(&stranger, Method::POST, path, &[]).await;
        refused(&stranger, Method::DELETE, path, &[]).await;
    }
    for path in ["/health", "/old_css/style.css", "/x.js", "/favicon.ico"] {
        refused(&stranger, Method::POST, path, &[]).await;
        refused(&stranger, Method::DELETE, path, &[]).await;
    }
    refused(&stranger, Method::DELETE, "/login", &[]).await;
    // Neither a broken body nor an enormous one is looked at first.
    let response = stranger.post("/prompt", "{broken").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = stranger.post("/upload/image", vec![0; 3 << 20]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_exact_token_in_the_exact_form_is_accepted() {
    let server = guarded().await;
    let stranger = server.stranger();
    let bearer = format!("Bearer {HASH}");
    let blanks = format!("Bearer  {HASH}");
    for good in [&bearer, &blanks] {
        let response =
            stranger.request(Method::GET, "/prompt").header(AUTHORIZATION, good).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{good}");
        assert!(!response.headers().contains_key("set-cookie"));
    }
    let wrong = [
        "Bearer None",
        "Bearer",
        "Bearer ",
        "",
        " ",
        HASH,
        "Bearer nope",
        "Token x y z",
        &format!("bearer {HASH}"),
        &format!("BEARER {HASH}"),
        &format!("Basic {HASH}"),
        &format!("Bearer {HASH} {HASH}"),
        &format!("Bearer {HASH}x"),
        &format!("Bearer {}", &HASH[..59]),
        "Bearer alice",
        "Bearer \u{e9}\u{6f22}",
    ];
    for header in wrong {
        refused(&stranger, Method::GET, "/prompt", &[("authorization", header)]).await;
    }
    for query in ["token=", "token", "token=nope", "Token=x", "token=%00", "token=%FF"] {
        refused(&stranger, Method::GET, &format!("/prompt?{query}"), &[]).await;
    }
    for path in
        [format!("/prompt?token={HASH}"), format!("/api/queue?a=b&token={}", HASH.replace('$', "%24"))]
    {
        assert_eq!(stranger.get(&path).await.status(), StatusCode::OK, "{path}");
        let wrong_header = stranger.request(Method::GET, &path).header(AUTHORIZATION, "Bearer nope");
        assert_eq!(wrong_header.send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bytes_that_are_no_text_are_a_401_as_well() {
    let server = guarded().await;
    for header in ["Bearer \u{1}\u{2}", "\t", "Bearer\t"] {
        let request = format!(
            "GET /prompt HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\nConnection: close\r\n\r\n"
        );
        let answer = server.stranger().raw(request).await;
        let status = answer.lines().next().unwrap().to_owned();
        // Control characters make the request itself invalid, which the HTTP library answers.
        assert!(status.contains("401") || status.contains("400"), "{header:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_ask_for_the_token_too() {
    let server = guarded().await;
    assert_eq!(server.stranger().try_socket("/ws?clientId=a").await.err(), Some(401));
    assert_eq!(server.stranger().try_socket("/ws?clientId=a&token=nope").await.err(), Some(401));
    assert_eq!(server.stranger().try_socket("/ws?clientId=a&token=").await.err(), Some(401));
    server.client().socket("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_sent_to_the_page_that_asks_for_the_token() {
    let server = guarded().await;
    let stranger = server.stranger();
    let page = |method| stranger.request(method, "/").header(ACCEPT, "text/html,*/*;q=0.8").send();
    let response = page(Method::GET).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()[LOCATION], "/login");
    // A script that sends a wrong token with a POST must not be led to a page that looks like success.
    assert_eq!(page(Method::POST).await.unwrap().status(), StatusCode::FOUND);
    let tried = stranger.request(Method::POST, "/prompt").header(ACCEPT, "text/html");
    let tried = tried.header(AUTHORIZATION, "Bearer nope").send().await.unwrap();
    assert_eq!(tried.status(), StatusCode::UNAUTHORIZED);
    let login = stranger.get("/login").await;
    assert_eq!(login.status(), StatusCode::OK);
    let login = login.text().await.unwrap();
    assert!(login.contains("<form") && !login.contains("alice") && !login.contains(HASH));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_open_and_tells_nothing() {
    let server = guarded().await;
    for path in ["/health", "/api/health"] {
        let health = server.stranger().json(path).await;
        assert_eq!(health["status"], "ok");
        assert_eq!(health.as_object().unwrap().len(), 2, "{health}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_file_counts_without_a_restart() {
    let server = guarded().await;
    let next = "another-token-of-some-length";
    std::fs::write(server.base().join("login/PASSWORD"), next).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(server.client().get("/prompt").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(server.stranger().get(&format!("/prompt?token={next}")).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_appears_in_no_answer() {
    let server = guarded().await;
    let client = server.client();
    for path in ["/system_stats", "/internal/logs", "/internal/logs/raw", "/queue", "/login", "/health"] {
        let text = client.get(&format!("{path}?token={HASH}")).await.text().await.unwrap();
        assert!(!text.contains(&HASH[10..40]), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_origins_are_refused_before_the_token_is_asked_for() {
    let server = guarded().await;
    for client in [server.client(), server.stranger()] {
        let response = client
            .request(Method::GET, "/prompt")
            .header(ORIGIN, "http://evil.example")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.text().await.unwrap(), "");
    }
    let options = server.stranger().request(Method::OPTIONS, "/prompt").send().await.unwrap();
    assert_eq!(options.status(), StatusCode::OK);
    assert_eq!(options.text().await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn cors_headers_stand_on_refusals_but_not_on_wrong_methods() {
    let options =
        Options { password: Some(HASH.to_owned()), cors_origin: Some("*".to_owned()), ..Options::default() };
    let server = Server::with(options).await;
    let origin = "access-control-allow-origin";
    let response = server.stranger().request(Method::GET, "/prompt").header(ORIGIN, "http://other.example");
    let response = response.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[origin], "*");
    assert_eq!(server.client().get("/models/nope").await.headers()[origin], "*");
    let wrong = server.client().request(Method::DELETE, "/prompt").send().await.unwrap();
    assert_eq!(wrong.headers()[ALLOW], "GET,HEAD,POST");
    assert!(!wrong.headers().contains_key(origin));
}
