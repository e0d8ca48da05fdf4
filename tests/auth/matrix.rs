//! Every route, tried by everybody in every way. The routes come from the server's own table, so that a new one
//! without a row here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use comfyd::api;
use comfyd::auth::Policy;
use reqwest::Method;

use super::server::Server;
use super::visitor::{PASSWORD, Visitor, enter_as_guest, guarded, log_in, token, welcome_guests};

/// A path as declared, one that leads there, and what GET and POST (of `{}`) get who may do all.
struct Row(&'static str, &'static str, u16, u16);

/// Twins below `/api` follow from the first of the two.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row("/", "/", 200, 405),
    Row("/api/jobs", "/api/jobs", 200, 405),
    Row("/api/jobs/cancel", "/api/jobs/cancel", 404, 400),
    Row("/api/jobs/{id}", "/api/jobs/x", 404, 405),
    Row("/api/jobs/{id}/cancel", "/api/jobs/x/cancel", 404, 200),
    Row("/comfyd", "/comfyd", 200, 405),
    Row("/comfyd/icon.svg", "/comfyd/icon.svg", 200, 405),
    Row("/comfyd/page.css", "/comfyd/page.css", 200, 405),
    Row("/comfyd/page.js", "/comfyd/page.js", 200, 405),
    Row("/comfyd/validate", "/comfyd/validate", 404, 400),
    Row("/embeddings", "/embeddings", 200, 405),
    Row("/experiment/models", "/experiment/models", 200, 405),
    Row("/experiment/models/preview/{folder}/{index}/{*file}", "/experiment/models/preview/loras/0/x", 404, 405),
    Row("/experiment/models/{folder}", "/experiment/models/loras", 200, 405),
    Row("/extensions", "/extensions", 200, 405),
    Row("/extensions/comfyd/about.js", "/extensions/comfyd/about.js", 200, 405),
    Row("/features", "/features", 200, 405),
    Row("/free", "/free", 404, 200),
    Row("/global_subgraphs", "/global_subgraphs", 200, 405),
    Row("/guest_mode", "/guest_mode", 200, 405),
    Row("/health", "/health", 200, 405),
    Row("/history", "/history", 200, 200),
    Row("/history/{id}", "/history/x", 200, 405),
    Row("/i18n", "/i18n", 200, 405),
    Row("/internal/files/{kind}", "/internal/files/output", 200, 405),
    Row("/internal/folder_paths", "/internal/folder_paths", 200, 405),
    Row("/internal/logs", "/internal/logs", 200, 405),
    Row("/internal/logs/raw", "/internal/logs/raw", 200, 405),
    Row("/internal/logs/subscribe", "/internal/logs/subscribe", 404, 405),
    Row("/interrupt", "/interrupt", 404, 200),
    Row("/login", "/login", 200, 400),
    Row("/logout", "/logout", 302, 405),
    Row("/metrics", "/metrics", 200, 405),
    Row("/models", "/models", 200, 405),
    Row("/models/{folder}", "/models/loras", 200, 405),
    Row("/node_replacements", "/node_replacements", 200, 405),
    Row("/object_info", "/object_info", 200, 405),
    Row("/object_info/{class}", "/object_info/LoadImage", 200, 405),
    Row("/old_css/style.css", "/old_css/style.css", 200, 405),
    Row("/prompt", "/prompt", 200, 400),
    Row("/queue", "/queue", 200, 200),
    Row("/ready", "/ready", 200, 405),
    Row("/settings", "/settings", 200, 200),
    Row("/settings/{id}", "/settings/x.js", 200, 200),
    Row("/system_stats", "/system_stats", 200, 405),
    Row("/upload/image", "/upload/image", 404, 400),
    Row("/upload/mask", "/upload/mask", 404, 400),
    Row("/userdata", "/userdata", 400, 405),
    Row("/userdata/{file}", "/userdata/x.js", 200, 200),
    Row("/userdata/{file}/move/{dest}", "/userdata/none.json/move/y.js", 404, 404),
    Row("/users", "/users", 200, 400),
    Row("/v2/userdata", "/v2/userdata", 200, 405),
    Row("/view", "/view", 404, 405),
    Row("/view_metadata/{folder}", "/view_metadata/loras", 404, 405),
    Row("/workflow_templates", "/workflow_templates", 200, 405),
    Row("/ws", "/ws", 400, 405),
    // No routes: files of the web root, of which this server has none.
    Row("", "/no/such/path", 404, 405),
    Row("", "/assets/index.js", 404, 405),
    Row("", "/favicon.ico", 404, 405),
    Row("", "/api/settings.js", 404, 405),
];

/// What strangers may do.
const OPEN: &[(&str, &str)] = &[
    ("GET", "/health"),
    ("GET", "/api/health"),
    ("GET", "/ready"),
    ("GET", "/api/ready"),
    ("GET", "/comfyd/icon.svg"),
    ("GET", "/extensions/comfyd/about.js"),
    ("GET", "/comfyd/page.css"),
    ("GET", "/comfyd/page.js"),
    ("GET", "/api/comfyd/icon.svg"),
    ("GET", "/api/comfyd/page.css"),
    ("GET", "/api/comfyd/page.js"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/old_css/style.css"),
    ("GET", "/assets/index.js"),
    ("GET", "/favicon.ico"),
    ("GET", "/api/settings.js"),
];

#[derive(Clone, Copy, PartialEq)]
enum Rank {
    Stranger,
    Guest,
    /// By the token.
    Script,
    /// By a session.
    User,
}

use Rank::{Guest, Script, Stranger, User};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Get,
    Post,
    Socket,
}

/// Everybody, with fresh sessions. `short` is a server where sessions are over as soon as they begin.
async fn everybody<'a>(
    server: &'a Server,
    short: &'a Server,
) -> Vec<(&'static str, Rank, Visitor, &'a Server)> {
    let token = token(server);
    let bearer = |text: &str| Visitor::with("authorization", text);
    let gone = log_in(server).await;
    Visitor::cookie(&gone).get(server, "/logout").await;
    let expired = Visitor::cookie(&log_in(short).await);
    let everybody = vec![
        ("no token", Stranger, Visitor::default()),
        ("wrong", Stranger, bearer("Bearer nope")),
        ("wrong in the query", Stranger, Visitor::asking("token=nope".to_owned())),
        ("empty", Stranger, bearer("Bearer ")),
        ("empty in the query", Stranger, Visitor::asking("token=".to_owned())),
        ("raw password", Stranger, bearer(&format!("Bearer {}", PASSWORD.replace(' ', "")))),
        ("Bearer None", Stranger, bearer("Bearer None")),
        ("three words", Stranger, bearer(&format!("Bearer {token} {token}"))),
        ("one word", Stranger, bearer(&token)),
        ("another scheme", Stranger, bearer(&format!("Basic {token}"))),
        ("after logout", Stranger, Visitor::cookie(&gone)),
        ("a made-up cookie", Stranger, Visitor::cookie("made-up")),
        ("a cookie from another site", Stranger, {
            Visitor::cookie(&log_in(server).await).and("sec-fetch-site", "cross-site")
        }),
        ("guest", Guest, Visitor::cookie(&enter_as_guest(server).await)),
        ("bearer", Script, bearer(&format!("Bearer {token}"))),
        ("?token=", Script, Visitor::asking(format!("token={token}"))),
        ("wrong bearer, right ?token=", Script, {
            bearer("Bearer nope").and_query(format!("token={}", token.replace('$', "%24")))
        }),
        ("a guest with the token", Script, {
            Visitor::cookie(&enter_as_guest(server).await).and("authorization", format!("Bearer {token}"))
        }),
        ("cookie", User, Visitor::cookie(&log_in(server).await)),
    ];
    let here = everybody.into_iter().map(|(name, rank, visitor)| (name, rank, visitor, server));
    here.chain([("expired", Stranger, expired, short)]).collect()
}

fn expected(row: &Row, path: &str, rank: Rank, way: Way) -> u16 {
    let Row(_, _, get, post) = *row;
    let method = if way == Way::Post { "POST" } else { "GET" };
    let allowed = match way {
        Way::Socket if path.trim_start_matches("/api") == "/ws" => 101,
        Way::Post => post,
        // Who has a session already is sent on.
        _ if path == "/login" && rank == User => 302,
        Way::Get | Way::Socket => get,
    };
    match rank {
        _ if OPEN.contains(&(method, path)) => allowed,
        Stranger => 401,
        Guest if method == "POST" && !["/prompt", "/upload/image"].contains(&path) => 200,
        Guest if path.starts_with("/internal/") => 200,
        _ => allowed,
    }
}

/// The rows with their twins, by declared path; an empty one for files.
fn rows() -> Vec<(String, String, &'static Row)> {
    let declared: BTreeSet<String> = api::table().into_iter().map(|(path, _)| path).collect();
    let by_path: BTreeMap<&str, &Row> = ROWS.iter().map(|row| (row.0, row)).collect();
    let missing: Vec<_> = declared
        .iter()
        .filter(|path| !by_path.contains_key(path.as_str()))
        .filter(|path| path.strip_prefix("/api").is_none_or(|twin| !by_path.contains_key(twin)))
        .collect();
    assert!(missing.is_empty(), "routes without a row in this table: {missing:?}");
    let stale: Vec<_> =
        by_path.keys().filter(|path| !path.is_empty() && !declared.contains(**path)).collect();
    assert!(stale.is_empty(), "rows without a route: {stale:?}");
    let twin = |row: &'static Row| {
        let declared = format!("/api{}", row.0);
        (declared, format!("/api{}", row.1), row)
    };
    let own = ROWS.iter().map(|row| (row.0.to_owned(), row.1.to_owned(), row));
    own.chain(ROWS.iter().map(twin).filter(|(path, ..)| declared.contains(path))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_whom_it_should() {
    let server = guarded(Policy::default()).await;
    welcome_guests(&server);
    Visitor::cookie(&log_in(&server).await).send(&server, Method::POST, "/userdata/x.js", "{}").await;
    let short = guarded(Policy { session_life: Duration::from_nanos(1), ..Policy::default() }).await;
    let mut wrong = Vec::new();
    let mut tried = 0;
    let mut visitors = everybody(&server, &short).await;
    for (declared, path, row) in rows() {
        for way in [Way::Get, Way::Post, Way::Socket] {
            if declared.ends_with("/logout") {
                visitors = everybody(&server, &short).await;
            }
            for (name, rank, visitor, server) in &visitors {
                let found = match way {
                    Way::Get => visitor.get(server, &path).await.status().as_u16(),
                    Way::Post => visitor.send(server, Method::POST, &path, "{}").await.status().as_u16(),
                    Way::Socket => visitor.socket(server, &path).await.err().unwrap_or(101),
                };
                tried += 1;
                let expected = expected(row, &path, *rank, way);
                if found != expected {
                    wrong.push(format!("{way:?} {path} by {name}: {found}, expected {expected}"));
                }
            }
            if declared.ends_with("/logout") {
                visitors = everybody(&server, &short).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_closed_on_every_route() {
    let server = guarded(Policy::default()).await;
    welcome_guests(&server);
    let guest = Visitor::cookie(&enter_as_guest(&server).await);
    for (_, path, _) in rows() {
        for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::TRACE] {
            let stranger = Visitor::default().send(&server, method.clone(), &path, "").await;
            assert_eq!(stranger.status(), 401, "{method} {path}");
            let swallowed = guest.send(&server, method.clone(), &path, "").await;
            assert_eq!(swallowed.status(), 200, "{method} {path}");
            assert_eq!(swallowed.text().await.unwrap(), "{}", "{method} {path}");
        }
        let open = OPEN.contains(&("GET", path.as_str()));
        let head = Visitor::default().send(&server, Method::HEAD, &path, "").await.status();
        assert_eq!(head == 401, !open, "HEAD {path}: {head}");
        let options = Visitor::default().send(&server, Method::OPTIONS, &path, "").await;
        assert_eq!(options.status(), 200, "OPTIONS {path}");
    }
}
