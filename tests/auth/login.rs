//! Form, session, guests, and the way out.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use comfyd::auth::Policy;
use reqwest::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use reqwest::{Method, Response, StatusCode};

use super::server::{Options, Server};
use super::visitor::{
    COOKIE, PASSWORD, Visitor, cookie_of, enter_as_guest, guarded, log_in, password_file, token,
    welcome_guests,
};

const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

async fn page(server: &Server, visitor: &Visitor, path: &str) -> String {
    let response = visitor.get(server, path).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    response.text().await.unwrap()
}

fn leads_to(response: &Response, place: &str) {
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()[LOCATION], place);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_opens_a_session_and_logging_out_really_ends_it() {
    let server = guarded(Policy::default()).await;
    let cookie = log_in(&server).await;
    let user = Visitor::cookie(&cookie);
    assert_eq!(user.status(&server, "/system_stats").await, 200);
    assert_eq!(user.send(&server, Method::POST, "/interrupt", "").await.status(), 200);
    leads_to(&user.get(&server, "/login").await, "/");
    let mut socket = user.socket(&server, "/ws?clientId=a").await.unwrap();
    let mut other = Visitor::cookie(&log_in(&server).await).socket(&server, "/ws?clientId=b").await.unwrap();
    assert_eq!(socket.json().await["type"], "status");
    assert_eq!(other.json().await["type"], "status");

    let response = user.get(&server, "/logout").await;
    leads_to(&response, "/login");
    let left = cookie_of(&response).unwrap();
    for copy in [&cookie, &left] {
        assert_eq!(Visitor::cookie(copy).status(&server, "/prompt").await, 401);
        assert_eq!(Visitor::cookie(copy).socket(&server, "/ws").await.err(), Some(401));
    }
    assert!(socket.is_closed().await);
    assert!(other.rest().await.is_empty(), "another session's websocket stays open");
    other.say("{}").await;
    // The browser that logged out is greeted by name, nobody else.
    assert!(page(&server, &Visitor::cookie(&left), "/login").await.contains("Welcome back, alice!"));
    assert!(!page(&server, &Visitor::default(), "/login").await.contains("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_lead_back_to_the_form() {
    let server = guarded(Policy::default()).await;
    for password in ["wrong", "", &token(&server), "CORRECT HORSE", "correct horse "] {
        let response = Visitor::default().post_form(&server, &[("password", password)]).await;
        leads_to(&response, "/login?wrong_password=1");
        assert!(!response.headers().contains_key(SET_COOKIE));
    }
    let page = page(&server, &Visitor::default(), "/login?wrong_password=1").await;
    assert!(page.contains("Wrong password") && page.contains(r#"<form action="/login" method="post">"#));
    // The user name does not matter once there is an account.
    let fields = [("username", "nobody"), ("password", PASSWORD)];
    leads_to(&Visitor::default().post_form(&server, &fields).await, "/");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_password_is_refused_in_words() {
    let server = guarded(Policy::default()).await;
    let long = "x".repeat(73);
    for (fields, words) in
        [(&[("username", "x")][..], "no field `password`"), (&[("password", &long)], "longer than 72 bytes")]
    {
        let response = Visitor::default().post_form(&server, fields).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let answer: serde_json::Value = response.json().await.unwrap();
        assert!(answer["error"].as_str().unwrap().contains(words), "{answer}");
        let response = Visitor::with(HTML.0, HTML.1).post_form(&server, fields).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let page = response.text().await.unwrap();
        assert!(page.contains("<form") && page.contains(words), "{page}");
    }
    for body in ["", "{}", "%", "a=b&&=", "password", &"x".repeat(20 << 10)] {
        let response = Visitor::default().send(&server, Method::POST, "/login", body).await;
        assert!(response.status() == 400 || response.status() == 302, "{}", response.status());
        assert!(!response.headers().contains_key(SET_COOKIE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart_forms_are_as_good() {
    let server = guarded(Policy::default()).await;
    let form = reqwest::multipart::Form::new().text("password", PASSWORD).text("guest_mode", "");
    let response = server.stranger().request(Method::POST, "/login").multipart(form).send().await.unwrap();
    leads_to(&response, "/");
    let cookie = cookie_of(&response).unwrap();
    assert_eq!(Visitor::cookie(&cookie).status(&server, "/prompt").await, 200);
    let broken = Visitor::with("content-type", "multipart/form-data");
    assert_eq!(broken.send(&server, Method::POST, "/login", "x").await.status(), 400);
    let broken = Visitor::with("content-type", "multipart/form-data; boundary=b");
    assert_eq!(broken.send(&server, Method::POST, "/login", "--b\r\n").await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_told_to_browsers_with_all_that_keeps_them_safe() {
    let server = guarded(Policy::default()).await;
    let attributes = async |visitor: Visitor| {
        let response = visitor.post_form(&server, &[("password", PASSWORD)]).await;
        let line = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        let (pair, attributes) = line.split_once(';').unwrap();
        assert!(pair.len() > COOKIE.len() + 60, "{line}");
        attributes.trim().to_owned()
    };
    let origin = server.url.clone();
    assert_eq!(attributes(Visitor::default()).await, "HttpOnly; Path=/");
    assert_eq!(attributes(Visitor::with("origin", &origin)).await, "HttpOnly; Path=/; SameSite=Lax");
    let tls = Visitor::with("origin", &origin).and("x-forwarded-proto", "https");
    assert_eq!(attributes(tls).await, "HttpOnly; Path=/; SameSite=Lax; Secure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_others_chose_or_know_is_never_the_users() {
    let server = guarded(Policy::default()).await;
    let chosen = "0".repeat(64);
    let response = Visitor::cookie(&chosen).post_form(&server, &[("password", PASSWORD)]).await;
    let own = cookie_of(&response).unwrap();
    assert_ne!(own, chosen);
    assert_eq!(Visitor::cookie(&chosen).status(&server, "/prompt").await, 401);
    // Logging in again ends the session that the browser had.
    let response = Visitor::cookie(&own).post_form(&server, &[("password", PASSWORD)]).await;
    let next = cookie_of(&response).unwrap();
    assert_eq!(Visitor::cookie(&own).status(&server, "/prompt").await, 401);
    assert_eq!(Visitor::cookie(&next).status(&server, "/prompt").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_does_not_count_for_pages_of_other_sites() {
    // Where the host is no loopback name, ComfyUI's own check lets every origin pass.
    let server = guarded(Policy::default()).await;
    let cookie = log_in(&server).await;
    let from = |origin: &str| Visitor::cookie(&cookie).and("host", "gpu.example").and("origin", origin);
    for (origin, status) in [
        ("http://gpu.example", 200),
        ("http://evil.example", 401),
        ("null", 401),
        ("http://gpu.example:81", 200),
    ] {
        let response = from(origin).send(&server, Method::POST, "/interrupt", "").await;
        assert_eq!(response.status(), status, "{origin}");
    }
    assert_eq!(from("http://evil.example").socket(&server, "/ws").await.err(), Some(401));
    // A token does: whoever knows it needs no cookie.
    let script = from("http://evil.example").and("authorization", format!("Bearer {}", token(&server)));
    assert_eq!(script.send(&server, Method::POST, "/interrupt", "").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_specific_cors_origin_keeps_no_script_out() {
    let options = Options {
        password: Some(password_file()),
        cors_origin: Some("http://friend.example".to_owned()),
        ..Options::default()
    };
    let server = Server::with(options).await;
    for visitor in [
        Visitor::with("authorization", format!("Bearer {}", token(&server))),
        Visitor::asking(format!("token={}", token(&server))),
    ] {
        assert_eq!(visitor.status(&server, "/prompt").await, 200);
        let elsewhere = visitor.and("origin", "http://other.example");
        assert_eq!(elsewhere.status(&server, "/prompt").await, 200);
    }
    let cookie = log_in(&server).await;
    for (origin, status) in [("http://friend.example", 200), ("http://other.example", 401)] {
        let visitor = Visitor::cookie(&cookie).and("origin", origin);
        assert_eq!(visitor.status(&server, "/prompt").await, status, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_look_around_and_are_shown_out_with_the_file() {
    let server = guarded(Policy::default()).await;
    let as_guest = [("password", ""), ("guest_mode", "1")];
    leads_to(&Visitor::default().post_form(&server, &as_guest).await, "/login?wrong_password=1");
    assert!(!page(&server, &Visitor::default(), "/login").await.contains("guest_mode\" value"));
    welcome_guests(&server);
    assert!(page(&server, &Visitor::default(), "/login").await.contains("guest_mode\" value"));
    let guest = Visitor::cookie(&enter_as_guest(&server).await);
    assert_eq!(guest.get(&server, "/guest_mode").await.text().await.unwrap(), r#"{"guestMode": true}"#);
    assert_eq!(guest.send(&server, Method::POST, "/prompt", "{}").await.status(), 400, "it was read");
    assert_eq!(
        guest.send(&server, Method::POST, "/queue", r#"{"clear": true}"#).await.text().await.unwrap(),
        "{}"
    );
    let mut socket = guest.socket(&server, "/ws?clientId=g").await.unwrap();
    assert_eq!(socket.json().await["type"], "status");
    // Anybody becomes many guests; they push nobody out and may become users.
    let user = guest.post_form(&server, &[("password", PASSWORD)]).await;
    leads_to(&user, "/");
    assert_eq!(guest.status(&server, "/prompt").await, 401, "the guest's session ended");
    assert!(socket.is_closed().await);
    let guest = Visitor::cookie(&enter_as_guest(&server).await);
    std::fs::remove_file(server.base().join("login/GUEST_MODE")).unwrap();
    assert_eq!(guest.status(&server, "/prompt").await, 401);
    let user = Visitor::cookie(&cookie_of(&user).unwrap());
    assert_eq!(user.get(&server, "/guest_mode").await.text().await.unwrap(), r#"{"guestMode": false}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_ends_the_sessions_of_the_former() {
    let server = guarded(Policy::default()).await;
    let user = Visitor::cookie(&log_in(&server).await);
    let script = Visitor::with("authorization", format!("Bearer {}", token(&server)));
    std::fs::write(server.base().join("login/PASSWORD"), bcrypt::hash("another", 4).unwrap()).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(user.status(&server, "/prompt").await, 401);
    assert_eq!(script.status(&server, "/prompt").await, 401);
    // This file names no user yet: the form asks, and the answer is added.
    assert!(page(&server, &Visitor::default(), "/login").await.contains(r#"name="username""#));
    let nameless = Visitor::default().post_form(&server, &[("password", "another")]).await;
    assert_eq!(nameless.status(), StatusCode::BAD_REQUEST);
    let fields = [("password", "another"), ("username", "b\u{f6}b")];
    let response = Visitor::default().post_form(&server, &fields).await;
    leads_to(&response, "/");
    let text = std::fs::read_to_string(server.base().join("login/PASSWORD")).unwrap();
    assert!(text.starts_with("$2b$04$") && text.ends_with("\nb\u{f6}b"), "{text}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let user = Visitor::cookie(&cookie_of(&response).unwrap());
    assert_eq!(user.status(&server, "/prompt").await, 200, "the same token is no other one");
    assert!(!page(&server, &Visitor::default(), "/login").await.contains(r#"name="username""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_hash_is_its_own_password() {
    let options = Options { password: Some("an opaque token\nalice".to_owned()), ..Options::default() };
    let server = Server::with(options).await;
    let response = Visitor::default().post_form(&server, &[("password", "an opaque token")]).await;
    leads_to(&response, "/");
    let wrong = Visitor::default().post_form(&server, &[("password", "an opaque toke")]).await;
    leads_to(&wrong, "/login?wrong_password=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_shown_as_text() {
    let options = Options {
        password: Some(format!("{}\n<script>&\"<!-- name -->", bcrypt::hash(PASSWORD, 4).unwrap())),
        ..Options::default()
    };
    let server = Server::with(options).await;
    let left = cookie_of(&Visitor::cookie(&log_in(&server).await).get(&server, "/logout").await).unwrap();
    let page = page(&server, &Visitor::cookie(&left), "/login").await;
    assert!(page.contains("Welcome back, &lt;script&gt;&amp;&quot;&lt;!-- name --&gt;!"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_wrong_passwords_have_to_wait() {
    let server = guarded(Policy { login_attempts: 3, ..Policy::default() }).await;
    let guess = async |from: &str| {
        let proxied = Visitor::with("x-forwarded-for", from);
        proxied.post_form(&server, &[("password", "guess")]).await
    };
    for _ in 0..3 {
        leads_to(&guess("10.0.0.1").await, "/login?wrong_password=1");
    }
    let refused = guess("10.0.0.1").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    let text = refused.text().await.unwrap();
    assert!(text.contains("Too many wrong passwords"), "{text}");
    // Not even the right one is looked at; other addresses may try, and tokens and sessions go on.
    let right =
        Visitor::with("x-forwarded-for", "10.0.0.1").post_form(&server, &[("password", PASSWORD)]).await;
    assert_eq!(right.status(), StatusCode::TOO_MANY_REQUESTS);
    leads_to(&guess("10.0.0.2").await, "/login?wrong_password=1");
    let user = Visitor::cookie(&log_in(&server).await).and("x-forwarded-for", "10.0.0.1");
    assert_eq!(user.status(&server, "/prompt").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_of_its_owner_stays_so() {
    let server = guarded(Policy::default()).await;
    let path = server.base().join("login/PASSWORD");
    std::fs::write(&path, bcrypt::hash(PASSWORD, 4).unwrap()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let fields = [("password", PASSWORD), ("username", "alice")];
    leads_to(&Visitor::default().post_form(&server, &fields).await, "/");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
}
