//! Tokens with names: what each scope opens on every route, whose jobs it may stop, and when it ends.

use std::time::Duration;

use comfyd::api;
use comfyd::auth::{Places, Policy, Scope};
use reqwest::Method;
use serde_json::{Value as Json, json};

use super::server::Server;
use super::visitor::{Visitor, guarded};

/// What tokens that may generate may do besides reading; everything else that changes something is an admin's.
const GENERATES: &[&str] = &[
    "/prompt",
    "/comfyd/validate",
    "/upload/image",
    "/upload/mask",
    "/queue",
    "/interrupt",
    "/api/jobs/cancel",
    "/api/jobs/{id}/cancel",
];

/// What only admins may read.
const INSIDE: &[&str] = &["/internal/logs", "/internal/logs/raw", "/internal/folder_paths"];

fn issue(server: &Server, name: &str, scope: Scope, life: Option<Duration>) -> Visitor {
    let token = Places::below(server.base()).issue(name, scope, life).unwrap();
    Visitor::with("authorization", format!("Bearer {token}"))
}

/// Tokens are known to the server at the latest when this is over.
async fn noticed() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_its_scope() {
    let server = guarded(Policy::default()).await;
    let visitors = [Scope::Read, Scope::Generate, Scope::Admin]
        .map(|scope| (scope, issue(&server, &scope.to_string(), scope, None)));
    noticed().await;
    let mut wrong = Vec::new();
    for (declared, method) in api::table() {
        let own = declared.strip_prefix("/api").unwrap_or(&declared);
        let is_open = ["/health", "/login"].contains(&own) || own.contains('.');
        let needed = match method.as_str() {
            _ if is_open => Scope::Read,
            "GET" if INSIDE.contains(&own) => Scope::Admin,
            "GET" => Scope::Read,
            "POST" if GENERATES.iter().any(|path| [own, &declared].contains(path)) => Scope::Generate,
            _ => Scope::Admin,
        };
        let path = declared
            .replace("{file}", "x")
            .replace("{*file}", "x")
            .replace("{dest}", "y")
            .replace("{id}", "x");
        let path =
            path.replace("{kind}", "output").replace("{folder}", "loras").replace("{class}", "LoadImage");
        let path = path.replace("{index}", "0");
        for (scope, visitor) in &visitors {
            let method: Method = method.parse().unwrap();
            let status = visitor.send(&server, method.clone(), &path, "{}").await.status();
            if (status == 403) != (*scope < needed) {
                wrong.push(format!("{method} {path} by {scope}: {status}, needs {needed}"));
            }
            assert!(status != 401 && status != 500, "{method} {path} by {scope}: {status}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused = visitors[0].1.send(&server, Method::POST, "/free", "{}").await;
    let told: Json = refused.json().await.unwrap();
    assert_eq!(told["error"], "This needs a token with the scope admin; this one has read.");
}

fn long_graph() -> Json {
    let mut graph = json!({"0": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1, "color": 1}}});
    for step in 1..300 {
        graph[step.to_string()] = json!({"class_type": "ImageScale", "inputs": {"image": [(step - 1).to_string(), 0],
            "upscale_method": "lanczos", "width": 1024 + step, "height": 1024, "crop": "disabled"}});
    }
    graph["save"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["299", 0]}});
    graph
}

async fn submit(server: &Server, visitor: &Visitor, graph: &Json) -> String {
    let answer = visitor.send(server, Method::POST, "/prompt", &json!({"prompt": graph}).to_string()).await;
    assert_eq!(answer.status(), 200);
    answer.json::<Json>().await.unwrap()["prompt_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_stops_their_own_jobs_only() {
    let server = guarded(Policy::default()).await;
    let (alice, bob) =
        (issue(&server, "alice", Scope::Generate, None), issue(&server, "bob", Scope::Generate, None));
    noticed().await;
    let graph = long_graph();
    let running = submit(&server, &alice, &graph).await;
    let waiting = submit(&server, &alice, &graph).await;
    let bobs = submit(&server, &bob, &graph).await;
    let post = async |visitor: &Visitor, path: &str, body: Json| {
        visitor.send(&server, Method::POST, path, &body.to_string()).await.status().as_u16()
    };
    for (path, body) in [
        ("/queue", json!({"clear": true})),
        ("/queue", json!({"delete": [waiting]})),
        ("/queue", json!({"delete": [bobs, waiting]})),
        ("/interrupt", json!({})),
        ("/interrupt", json!({"prompt_id": running})),
        (&*format!("/api/jobs/{waiting}/cancel"), json!({})),
        ("/api/jobs/cancel", json!({"job_ids": [running, bobs]})),
        ("/history", json!({"clear": true})),
    ] {
        assert_eq!(post(&bob, path, body.clone()).await, 403, "{path} {body}");
    }
    let queue: Json = alice.get(&server, "/queue").await.json().await.unwrap();
    assert_eq!(
        queue["queue_running"].as_array().unwrap().len() + queue["queue_pending"].as_array().unwrap().len(),
        3
    );
    assert!(!queue.to_string().contains("alice"), "owners are nobody's business");
    assert_eq!(post(&bob, "/queue", json!({"delete": [bobs, "unknown"]})).await, 200);
    assert_eq!(post(&alice, "/queue", json!({"delete": [waiting]})).await, 200);
    assert_eq!(post(&alice, "/interrupt", json!({})).await, 200);
    assert_eq!(server.client().finished(&running).await["status"]["completed"], false);
    // With nothing left to stop there is nothing to refuse.
    assert_eq!(post(&bob, "/interrupt", json!({})).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_by_the_clock_and_by_a_word_and_its_websockets_with_it() {
    let server = guarded(Policy::default()).await;
    let short = issue(&server, "short", Scope::Read, Some(Duration::from_secs(3)));
    let long = issue(&server, "long", Scope::Read, None);
    noticed().await;
    let (mut first, mut second) = (
        short.socket(&server, "/ws?clientId=a").await.unwrap(),
        long.socket(&server, "/ws?clientId=b").await.unwrap(),
    );
    let begun = std::time::Instant::now();
    assert!(first.is_closed().await && begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(short.status(&server, "/queue").await, 401);
    assert_eq!(long.status(&server, "/queue").await, 200);
    Places::below(server.base()).revoke("long").unwrap();
    let begun = std::time::Instant::now();
    assert!(second.is_closed().await && begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(long.status(&server, "/queue").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_token_comes_in_the_query_as_well_and_is_no_password() {
    let server = guarded(Policy::default()).await;
    let token = Places::below(server.base()).issue("alice", Scope::Read, None).unwrap();
    noticed().await;
    assert_eq!(Visitor::asking(format!("token={token}")).status(&server, "/queue").await, 200);
    let both = Visitor::with("authorization", "Bearer nope").and_query(format!("token={token}"));
    assert_eq!(both.status(&server, "/queue").await, 200);
    let two = Visitor::with("authorization", "Bearer comfyd_nope").and_query(format!("token={token}"));
    assert_eq!(two.status(&server, "/queue").await, 200);
    let refused = Visitor::default().post_form(&server, &[("password", &token)]).await;
    assert_eq!(refused.headers()["location"], "/login?wrong_password=1");
    let cut = Visitor::asking(format!("token={}", &token[..20]));
    assert_eq!(cut.status(&server, "/queue").await, 401);
}
