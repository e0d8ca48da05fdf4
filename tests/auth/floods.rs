//! Many wrong guesses at once, and what everybody else notices of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comfyd::auth::{Policy, Token};
use tokio::task::JoinSet;

use super::setup::Program;
use super::visitor::{PASSWORD, Visitor, guarded, password_file, token};

/// A client that knows the token, on one connection and a thread of its own.
struct Valid {
    stream: TcpStream,
    request: String,
}

impl Valid {
    fn connect(url: &str, token: &str) -> Self {
        let host = url.trim_start_matches("http://");
        let stream = TcpStream::connect(host).unwrap();
        stream.set_nodelay(true).unwrap();
        let request =
            format!("GET /prompt HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
        Self { stream, request }
    }

    fn ask(&mut self) -> Duration {
        let begun = Instant::now();
        self.stream.write_all(self.request.as_bytes()).unwrap();
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"}}") {
            let count = self.stream.read(&mut part).unwrap();
            assert_ne!(count, 0, "the server hung up");
            answer.extend_from_slice(&part[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        begun.elapsed()
    }

    fn median(&mut self, requests: usize) -> Duration {
        middle((0..requests).map(|_| self.ask()).collect())
    }
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Sends wrong tokens over several connections until it is told to end.
struct Flood {
    runtime: tokio::runtime::Runtime,
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    connections: JoinSet<()>,
}

impl Flood {
    fn begin(url: &str, connections: usize) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (sent, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut flood = Self { runtime, sent, stop, connections: JoinSet::new() };
        for number in 0..connections {
            let (client, url) = (reqwest::Client::new(), format!("{url}/prompt"));
            let (sent, stop) = (flood.sent.clone(), flood.stop.clone());
            let guess = async move {
                while !stop.load(Ordering::Relaxed) {
                    let guess = sent.fetch_add(1, Ordering::Relaxed);
                    let request = client.get(&url).bearer_auth(format!("$2b$12$guess{number}of{guess}"));
                    assert_eq!(request.send().await.unwrap().status(), 401);
                }
            };
            flood.connections.spawn_on(guess, flood.runtime.handle());
        }
        flood
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.block_on(async {
            while let Some(done) = self.connections.join_next().await {
                done.unwrap();
            }
        });
        self.sent.load(Ordering::Relaxed)
    }
}

/// Medians of a quiet server and of one under a flood, in turns, so that whatever else the machine does meets both;
/// and how many wrong tokens were sent.
fn compare(turns: usize, connections: usize, enough: usize) -> (Duration, Duration, usize) {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("login")).unwrap();
    std::fs::write(base.path().join("login/PASSWORD"), password_file()).unwrap();
    let mut program = Program::start(base.path(), &[], &[]);
    let url = program.url();
    let text = std::fs::read_to_string(base.path().join("login/PASSWORD")).unwrap();
    let mut valid = Valid::connect(&url, text.lines().next().unwrap());
    valid.median(100);
    let (mut quiet, mut flooded, mut sent) = (Vec::new(), Vec::new(), 0);
    while quiet.len() < turns || sent < enough {
        quiet.push(valid.median(200));
        let flood = Flood::begin(&url, connections);
        // The first hundred are answered at once.
        std::thread::sleep(Duration::from_millis(200));
        flooded.push(valid.median(200));
        sent += flood.end();
    }
    (middle(quiet), middle(flooded), sent)
}

#[test]
fn wrong_tokens_do_not_slow_the_right_one() {
    let (quiet, flooded, sent) = compare(5, 4, 500);
    // Far from the 10 % that an idle machine shows, because this one may be busy with other tests.
    assert!(
        flooded < quiet * 2 + Duration::from_millis(1),
        "{quiet:?} alone, {flooded:?} beside {sent} wrong tokens"
    );
}

/// The full measure: `cargo test --release --test auth -- --ignored --nocapture ten_thousand`.
#[test]
#[ignore = "measures for half a minute and needs an idle machine"]
fn ten_thousand_wrong_tokens_cost_a_valid_client_less_than_a_tenth() {
    let (quiet, flooded, sent) = compare(25, 8, 10_000);
    let more = flooded.as_secs_f64() / quiet.as_secs_f64() - 1.0;
    println!("{quiet:?} alone, {flooded:?} beside {sent} wrong tokens: {:+.1} %", more * 100.0);
    assert!(more < 0.1);
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
