//! Many wrong guesses at once, and what everybody else notices of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comfyd::auth::{Policy, Token};
use reqwest::Method;
use tokio::task::JoinSet;

use super::server::Server;
use super::visitor::{PASSWORD, Visitor, guarded, token};

/// The median time of this many requests of one client that knows the token.
async fn median(server: &Server, requests: usize) -> Duration {
    let client = server.client();
    client.get("/prompt").await;
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let begun = Instant::now();
        assert_eq!(client.get("/prompt").await.status(), 200);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[requests / 2]
}

/// Sends wrong tokens over several connections until it is dropped or has sent so many.
struct Flood {
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    connections: JoinSet<()>,
}

impl Flood {
    fn begin(server: &Server, connections: usize, most: usize) -> Self {
        let mut flood = Self { sent: Arc::default(), stop: Arc::default(), connections: JoinSet::new() };
        for number in 0..connections {
            let client = server.stranger();
            let (sent, stop) = (flood.sent.clone(), flood.stop.clone());
            flood.connections.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let guess = sent.fetch_add(1, Ordering::Relaxed);
                    if guess >= most {
                        break;
                    }
                    let request = client.request(Method::GET, "/prompt");
                    let answer = request.bearer_auth(format!("$2b$12$guess{number}of{guess}")).send().await;
                    assert_eq!(answer.unwrap().status(), 401);
                }
            });
        }
        flood
    }

    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.connections.join_next().await {
            done.unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

/// Medians of a quiet server and of one under a flood, in turns, so that whatever else the machine does meets both.
async fn compare(server: &Server, turns: usize, connections: usize) -> (Duration, Duration, usize) {
    let (mut quiet, mut flooded, mut sent) = (Vec::new(), Vec::new(), 0);
    for _ in 0..turns {
        quiet.push(median(server, 100).await);
        let flood = Flood::begin(server, connections, usize::MAX);
        // The first hundred are answered at once.
        tokio::time::sleep(Duration::from_millis(200)).await;
        flooded.push(median(server, 100).await);
        sent += flood.end().await;
    }
    quiet.sort_unstable();
    flooded.sort_unstable();
    (quiet[turns / 2], flooded[turns / 2], sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_do_not_slow_the_right_one() {
    let server = guarded(Policy::default()).await;
    let (quiet, flooded, sent) = compare(&server, 5, 4).await;
    assert!(sent > 100, "{sent} wrong tokens are no flood");
    // Far from the 10 % that an idle machine shows, because this one may be busy with other tests.
    assert!(
        flooded < quiet * 2 + Duration::from_millis(1),
        "{quiet:?} alone, {flooded:?} beside {sent} wrong tokens"
    );
}

/// The full measure: `cargo test --release --test auth -- --ignored --nocapture ten_thousand`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for half a minute and needs an idle machine"]
async fn ten_thousand_wrong_tokens_cost_a_valid_client_less_than_a_tenth() {
    let server = guarded(Policy::default()).await;
    let (mut quiet, mut flooded, mut sent) = (Duration::ZERO, Duration::ZERO, 0);
    while sent < 10_000 {
        let (alone, beside, count) = compare(&server, 15, 8).await;
        (quiet, flooded, sent) = (quiet + alone, flooded + beside, sent + count);
        println!("{alone:?} alone, {beside:?} beside {count} wrong tokens");
    }
    println!("{sent} wrong tokens: {:.1} %", (flooded.as_secs_f64() / quiet.as_secs_f64() - 1.0) * 100.0);
    assert!(flooded.as_secs_f64() < quiet.as_secs_f64() * 1.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_logins_is_throttled_while_others_are_served() {
    // Cost 12, as in life: each check takes a good part of a second.
    let server = guarded(Policy { login_attempts: 3, ..Policy::default() }).await;
    std::fs::write(server.base().join("login/PASSWORD"), bcrypt::hash(PASSWORD, 12).unwrap() + "\nalice")
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let token = token(&server);
    let server = Arc::new(server);
    let mut flood = JoinSet::new();
    for _ in 0..24 {
        let server = server.clone();
        flood.spawn(async move {
            Visitor::default().post_form(&server, &[("password", "guess")]).await.status().as_u16()
        });
    }
    let script = Visitor::with("authorization", format!("Bearer {token}"));
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(script.status(&server, "/prompt").await, 200);
    }
    let served = begun.elapsed();
    let answers = flood.join_all().await;
    let checked = answers.iter().filter(|status| **status == 302).count();
    assert_eq!(checked, 3, "{answers:?}");
    assert!(answers.iter().all(|status| [302, 429].contains(status)), "{answers:?}");
    assert!(served < Duration::from_secs(2), "20 requests took {served:?} beside a flood of logins");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_headers_are_never_an_internal_error() {
    let server = guarded(Policy::default()).await;
    let token = token(&server);
    let odd = [
        "Authorization: Bearer\u{b}x".to_owned(),
        format!("Authorization: Bearer {token}\r\nAuthorization: Bearer nope"),
        format!("Authorization: Bearer nope\r\nAuthorization: Bearer {token}"),
        "Cookie: AIOHTTP_SESSION=\"\"; ; =; AIOHTTP_SESSION".to_owned(),
        format!("Cookie: {}", "AIOHTTP_SESSION=a; ".repeat(200)),
        "X-Forwarded-For: ,,,\r\nX-Forwarded-Proto: ,".to_owned(),
        "Origin: ://\r\nX-Forwarded-Host: ]:[".to_owned(),
        "Accept: \u{ff}\u{fe}text/html".to_owned(),
        "Content-Length: 5\r\nTransfer-Encoding: chunked".to_owned(),
        "Content-Length: 5\r\nContent-Length: 6".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Host: a\r\nHost: b".to_owned(),
        "Authorization : Bearer x".to_owned(),
        "Authorization: Bearer\r\n x".to_owned(),
    ];
    for headers in odd {
        for target in
            ["/prompt", "//prompt", "/prompt?token=%", "/login?setup_code=%FF", "http://x/prompt", "*"]
        {
            // The end of a body in chunks, where one was announced.
            let body = if headers.contains("chunked") { "0\r\n\r\n" } else { "" };
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: gpu.example\r\n{headers}\r\nConnection: close\r\n\r\n{body}"
            );
            let answer = server.stranger().raw(request).await;
            let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
            let fine = ["400", "401", "302"].contains(&status.as_str())
                || (target.contains("login") && status == "200")
                || (headers.starts_with(&format!("Authorization: Bearer {token}\r\n")) && status != "500");
            assert!(fine, "{target} {headers:?}: {status}");
        }
    }
}

#[test]
fn comparing_takes_the_same_time_wherever_the_difference_is() {
    let token = Token::new(&"a".repeat(60)).unwrap();
    let first = format!("b{}", "a".repeat(59));
    let last = format!("{}b", "a".repeat(59));
    let time = |given: &str| {
        let begun = Instant::now();
        for _ in 0..500 {
            assert!(!std::hint::black_box(&token).matches(std::hint::black_box(given.as_bytes())));
        }
        begun.elapsed()
    };
    let mut pairs: Vec<_> =
        (0..101).map(|_| time(&first).as_secs_f64() / time(&last).as_secs_f64()).collect();
    pairs.sort_unstable_by(f64::total_cmp);
    let ratio = pairs[pairs.len() / 2];
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
}
