//! comfyd's own page, in a real browser where there is one.

use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use super::browser::Browser;
use super::server::{Options, Server};
use super::toys::{TOYS, pictures, show, slow};

/// Text that would do something if it were taken for markup.
const MARKUP: &str = "<img src=x onerror=\"document.title = 'taken over'\">";

async fn toys() -> Server {
    Server::with(Options { nodes: TOYS, ..Options::default() }).await
}

fn picture(colour: u32, name: &str) -> Json {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 96, "height": 64, "batch_size": 1, "color": colour}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": name}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_load_nothing_but_its_own_files() {
    let server = toys().await;
    for path in ["/", "/comfyd", "/api/", "/api/comfyd"] {
        let page = server.client().get(path).await;
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let text = page.text().await.unwrap();
        assert!(!text.contains("://") && !text.contains("style=") && !text.contains("<script>"), "{path}");
    }
    for (path, kind) in
        [("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")]
    {
        let file = server.client().get(&format!("/comfyd/{path}")).await;
        assert_eq!(file.status(), StatusCode::OK);
        assert!(file.headers()["content-type"].to_str().unwrap().starts_with(kind), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_files_are_open_but_the_page_is_not() {
    let server =
        Server::with(Options { password: Some("a-token-of-some-length".to_owned()), ..Options::default() })
            .await;
    for path in ["/comfyd", "/api/comfyd", "/comfyd/", "/comfyd/page.css/x"] {
        assert_eq!(server.stranger().get(path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(server.stranger().get("/comfyd/page.js").await.status(), StatusCode::OK);
    let Some(mut browser) = Browser::open().await else { return };
    browser.go(&format!("{}/?token=a-token-of-some-length", server.url)).await;
    browser.until("document.querySelector('#server dd')").await;
    browser.until("document.querySelector('#connection').textContent === 'connected'").await;
    assert_eq!(browser.complaints, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_runs_what_waits_and_what_was_made() {
    let server = toys().await;
    let client = server.client();
    for (number, colour) in [0x002e_6fd8, 0x00d8_722e, 0x0038_a169].into_iter().enumerate() {
        let id = client.queue(&picture(colour, &format!("sample {number}"))).await;
        client.finished(&id).await;
    }
    let Some(mut browser) = Browser::open().await else { return };
    browser.look(1280, 900, false).await;
    browser.go(&server.url).await;
    browser.until("document.querySelectorAll('#history img').length === 3").await;
    browser
        .until("[...document.querySelectorAll('#history img')].every((image) => image.naturalWidth === 96)")
        .await;
    browser.until("document.querySelector('#hint').checkVisibility()").await;
    browser.until("document.querySelector('#server').textContent.includes('comfyd')").await;
    browser.shot("idle-desktop").await;

    let mut graph = pictures("x", 100_000);
    graph["2"]["_meta"] = json!({"title": MARKUP});
    client.queue_for(&graph, json!({"client_id": "somebody"})).await;
    client.queue(&show("waits")).await;
    client.queue(&show("waits longer")).await;
    browser.until("document.querySelectorAll('#queue li').length === 2").await;
    browser.until("document.querySelector('#now-node').textContent.includes('<img')").await;
    browser.until("/^[0-9]+ [/] 100000$/.test(document.querySelector('#now-step-text').textContent)").await;
    browser.until("document.querySelector('#now-all').value > 0.3").await;
    browser.until("document.querySelector('#preview').src.startsWith('blob:')").await;
    browser.shot("running-desktop").await;
    browser.click("#queue button").await;
    browser.until("document.querySelectorAll('#queue li').length === 1").await;
    browser.click("#clear-queue").await;
    browser.until("document.querySelector('#queue-empty').checkVisibility()").await;
    browser.click("#interrupt").await;
    browser.until("document.querySelector('#idle').checkVisibility()").await;
    browser.until("document.querySelector('#history li').textContent.includes('Interrupted')").await;
    assert_eq!(browser.complaints, [""; 0]);
    let foreign = browser
        .requests
        .iter()
        .find(|address| !address.starts_with(&server.url) && !address.starts_with("blob:"));
    assert_eq!(foreign, None, "nothing is asked of others");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_from_outside_stays_text_and_the_history_can_be_thinned() {
    let server = toys().await;
    let client = server.client();
    for graph in
        [show(MARKUP), json!({"1": {"class_type": "ToyFail", "inputs": {"text": MARKUP}}}), picture(1, "one")]
    {
        let id = client.queue(&graph).await;
        client.finished(&id).await;
    }
    let Some(mut browser) = Browser::open().await else { return };
    browser.go(&server.url).await;
    browser.until("document.querySelectorAll('#history > li').length === 3").await;
    browser.until("document.querySelectorAll('#history pre').length === 2").await;
    let said = browser.value("[...document.querySelectorAll('#history pre')].every((said) => said.textContent.includes('onerror='))").await;
    assert_eq!(said, true);
    assert_eq!(browser.value("document.querySelectorAll('img[src=\"x\"]').length").await, 0);
    assert_eq!(browser.value("document.title").await, "comfyd");
    browser.click("#history button").await;
    browser.until("document.querySelectorAll('#history > li').length === 2").await;
    browser.click("#clear-history").await;
    browser.until("document.querySelector('#history-empty').checkVisibility()").await;
    assert_eq!(client.json("/history").await, json!({}));
    assert_eq!(browser.complaints, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_a_small_phone() {
    let server = toys().await;
    let client = server.client();
    let name = "a-name-without-any-place-to-break-the-line-in-spite-of-its-length";
    for graph in [picture(0x0088_44cc, name), show(name)] {
        let id = client.queue(&graph).await;
        client.finished(&id).await;
    }
    let mut graph = slow("x", 100_000);
    graph["2"]["_meta"] = json!({"title": name});
    client.queue(&graph).await;
    client.queue_for(&show("y"), json!({"prompt_id": name})).await;
    let Some(mut browser) = Browser::open().await else { return };
    for (width, dark) in [(320, true), (390, false), (768, true), (1280, true)] {
        browser.look(width, 800, dark).await;
        browser.go(&server.url).await;
        browser.until("document.querySelectorAll('#history > li').length === 2").await;
        browser.until("document.querySelector('#now-step-text').textContent").await;
        browser.until("document.querySelectorAll('#server dd').length > 1").await;
        let root = "document.documentElement";
        let beyond = browser.value(&format!("{root}.scrollWidth - {root}.clientWidth")).await;
        assert_eq!(beyond, 0, "nothing sticks out at {width} pixels");
        let small = "[...document.querySelectorAll('button, nav a')].filter((one) => one.checkVisibility() \
                     && one.getBoundingClientRect().height < 44).map((one) => one.textContent).join()";
        assert_eq!(browser.value(small).await, "", "fingers can hit everything");
        let nameless = "[...document.querySelectorAll('button, a, img, input, meter, progress')].filter((one) => \
                        one.checkVisibility() && !(one.getAttribute('aria-label') || one.alt || one.textContent \
                        || one.labels?.length || one.querySelector('img')?.alt)).length";
        assert_eq!(browser.value(nameless).await, 0, "everything has a name to be read out");
        browser.shot(&format!("phone-{width}-{}", if dark { "dark" } else { "light" })).await;
    }
    client.post("/interrupt", "").await;
    assert_eq!(browser.complaints, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_logs_in_stays_logged_in_until_logging_out() {
    let hash = bcrypt::hash("correct horse", 4).unwrap();
    let server =
        Server::with(Options { password: Some(format!("{hash}\nalice")), ..Options::default() }).await;
    let Some(mut browser) = Browser::open().await else { return };
    let log_in = async |browser: &mut Browser, send: &str| {
        browser.until("document.querySelector('input[name=password]')?.checkVisibility()").await;
        browser.value("document.querySelector('input[name=password]').value = 'correct horse'").await;
        browser.click(send).await;
        browser.until("location.pathname === '/' && document.querySelector('#server dd')").await;
    };
    browser.look(390, 800, true).await;
    browser.go(&server.url).await;
    browser.until("location.pathname === '/login'").await;
    browser.shot("login").await;
    log_in(&mut browser, "input[type=submit]").await;
    browser.until("document.querySelector('#connection').textContent === 'connected'").await;
    assert_eq!(browser.complaints, [""; 0]);
    // The session ends elsewhere: the page asks to sign in.
    browser.value("fetch('logout').then(() => true)").await;
    browser.until("document.querySelector('#sign-in').checkVisibility()").await;
    browser.shot("sign-in").await;
    log_in(&mut browser, "#sign-in button").await;
    browser.click("#sign-out").await;
    browser.until("location.pathname === '/login'").await;
    // Tools that drive a browser ask from there.
    assert_eq!(browser.value("fetch('/queue').then((answer) => answer.status)").await, 401);
}
