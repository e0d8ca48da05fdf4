//! Uploading and viewing.

use std::path::Path;

use reqwest::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RANGE};
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::server::{Client, Server};

async fn name(client: &Client, name: &str, bytes: &[u8], fields: &[(&str, &str)]) -> Json {
    let response = client.upload(name, bytes, fields).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json::<Json>().await.unwrap()["name"].take()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A PNG of 2x1 pixels with these alphas, and a text chunk.
fn png(alphas: [u8; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
    encoder.set_color(png::ColorType::Rgba);
    encoder.add_text_chunk("prompt".to_owned(), "{}".to_owned()).unwrap();
    let pixels = [10, 20, 30, alphas[0], 40, 50, 60, alphas[1]];
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_reused_for_the_same_bytes_and_counted_up_for_others() {
    let server = Server::start().await;
    let client = server.client();
    assert_eq!(name(&client, "a.png", b"one", &[]).await, "a.png");
    assert_eq!(name(&client, "a.png", b"one", &[]).await, "a.png");
    assert_eq!(name(&client, "a.png", b"two", &[]).await, "a (1).png");
    assert_eq!(name(&client, "a.png", b"six", &[]).await, "a (2).png");
    assert_eq!(name(&client, "a.png", b"two", &[("overwrite", "True")]).await, "a (1).png");
    assert_eq!(name(&client, "a.png", b"new", &[("overwrite", "1")]).await, "a.png");
    assert_eq!(names(&server.base().join("input")), ["a (1).png", "a (2).png", "a.png"]);
    assert_eq!(std::fs::read(server.base().join("input/a.png")).unwrap(), b"new");
    assert_eq!(names(&server.base().join("temp")), [""; 0], "no partial file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_where_the_form_says_whatever_the_order_of_its_fields() {
    let server = Server::start().await;
    let client = server.client();
    let form = reqwest::multipart::Form::new()
        .text("subfolder", "deep/er")
        .text("type", "temp")
        .part("image", reqwest::multipart::Part::bytes(b"x".to_vec()).file_name("ünï 漢.png"))
        .text("stray", "ignored");
    let response = client.request(Method::POST, "/api/upload/image").multipart(form).send().await.unwrap();
    let told: Json = response.json().await.unwrap();
    assert_eq!(told, json!({"name": "ünï 漢.png", "subfolder": "deep/er", "type": "temp"}));
    assert!(server.base().join("temp/deep/er/ünï 漢.png").is_file());
    let empty: Json =
        client.upload("e.bin", b"", &[("type", ""), ("subfolder", "")]).await.json().await.unwrap();
    assert_eq!(empty, json!({"name": "e.bin", "subfolder": "", "type": "input"}));
    assert_eq!(std::fs::metadata(server.base().join("input/e.bin")).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upload_leaves_its_folder() {
    let server = Server::start().await;
    let client = server.client();
    let long = "x".repeat(300);
    for (name, fields) in [
        ("../escape.png", &[][..]),
        ("/etc/escape.png", &[]),
        ("x.png", &[("subfolder", "../../elsewhere")]),
        ("x.png", &[("subfolder", "/outside")]),
        ("x.png", &[("type", "elsewhere")]),
        ("..", &[]),
        (".", &[]),
        ("", &[]),
        (&long, &[]),
        ("nul\0.png", &[]),
    ] {
        let response = client.upload(name, b"x", fields).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{name} {fields:?}");
    }
    assert_eq!(names(&server.base().join("input")), [""; 0]);
    assert_eq!(names(&server.base().join("temp")), [""; 0]);
    assert!(!server.base().join("escape.png").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_without_a_file_are_refused_and_mislabelled_ones_are_read() {
    let server = Server::start().await;
    let client = server.client();
    let nothing = client.post("/upload/image", "type=input").await;
    assert_eq!(nothing.status(), StatusCode::BAD_REQUEST);
    let text = reqwest::multipart::Form::new().text("image", "no file");
    let text = client.request(Method::POST, "/upload/image").multipart(text).send().await.unwrap();
    assert_eq!(text.status(), StatusCode::BAD_REQUEST);
    let body = "----b\r\nContent-Type: image/png\r\nContent-Disposition: form-data; name=\"image\"; \
                filename=\"m.png\"\r\n\r\nbytes\r\n----b--\r\n";
    let request =
        client.request(Method::POST, "/upload/image").header(CONTENT_TYPE, "application/json").body(body);
    let told: Json = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(told["name"], "m.png");
    assert_eq!(std::fs::read(server.base().join("input/m.png")).unwrap(), b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Server::start().await;
    let head = "POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n\
                Content-Length: 1000\r\nConnection: close\r\n\r\n";
    let part =
        "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"cut.png\"\r\n\r\nsome bytes";
    let address = server.url.trim_start_matches("http://").to_owned();
    let send = move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, format!("{head}{part}").as_bytes()).unwrap();
    };
    tokio::task::spawn_blocking(send).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(names(&server.base().join("input")), [""; 0]);
    assert_eq!(names(&server.base().join("temp")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_uploads_of_one_name_at_once_both_survive() {
    let server = Server::start().await;
    let uploads = (0..12_u8).map(|number| {
        let client = server.client();
        tokio::spawn(async move { client.upload("same.png", &[number], &[]).await.status() })
    });
    for upload in uploads.collect::<Vec<_>>() {
        assert_eq!(upload.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(names(&server.base().join("input")).len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_gives_its_alpha_to_the_picture_it_names() {
    let server = Server::start().await;
    let client = server.client();
    client.upload("base.png", &png([255, 255]), &[]).await;
    let reference = [("original_ref", r#"{"filename": "base.png", "type": "input", "subfolder": ""}"#)];
    let told = client.upload_to("/upload/mask", "masked.png", &png([0, 128]), &reference).await;
    assert_eq!(told.status(), StatusCode::OK);
    let stored = std::fs::File::open(server.base().join("input/masked.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(stored)).read_info().unwrap();
    let mut pixels = vec![0; 8];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [10, 20, 30, 0, 40, 50, 60, 128]);
    assert_eq!(reader.info().uncompressed_latin1_text[0].keyword, "prompt");
    client.upload("deep.png", &png([255, 255]), &[("subfolder", "clipspace")]).await;
    let annotated = [("original_ref", r#"{"filename": "clipspace/deep.png [input]"}"#)];
    let told = client.upload_to("/upload/mask", "masked.png", &png([0, 128]), &annotated).await;
    assert_eq!(told.status(), StatusCode::OK, "a reference may name folders");
    for fields in [
        &[][..],
        &[("original_ref", "{broken")],
        &[("original_ref", "{}")],
        &[("original_ref", r#"{"filename": "../../x.png"}"#)],
    ] {
        let response = client.upload_to("/upload/mask", "bad.png", &png([0, 0]), fields).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{fields:?}");
    }
    let absent = [("original_ref", r#"{"filename": "absent.png"}"#)];
    let response = client.upload_to("/upload/mask", "bad.png", &png([0, 0]), &absent).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(names(&server.base().join("input")), ["base.png", "clipspace", "masked.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn view_finds_files_by_type_subfolder_and_annotation() {
    let server = Server::start().await;
    let client = server.client();
    client.upload("v.png", b"input", &[("subfolder", "sub")]).await;
    client.upload("v.png", b"output", &[("type", "output")]).await;
    for (query, expected) in [
        ("filename=v.png", "output"),
        ("filename=v.png&subfolder=&type=output&rand=0.5", "output"),
        ("filename=v.png&type=input&subfolder=sub", "input"),
        ("filename=v.png%20[input]&subfolder=sub&type=output", "input"),
        ("subfolder=sub&type=input&filename=other/v.png", "input"),
    ] {
        let response = client.get(&format!("/view?{query}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        assert_eq!(response.headers()[CONTENT_TYPE], "image/png");
        assert_eq!(response.headers()[CONTENT_DISPOSITION], "filename=\"v.png\"");
        assert_eq!(response.text().await.unwrap(), expected, "{query}");
    }
    for (query, status) in [
        ("", 404),
        ("filename=", 400),
        ("filename=%20[input]", 400),
        ("filename=absent.png", 404),
        ("filename=/etc/passwd", 400),
        ("filename=../v.png", 400),
        ("filename=a..b.png", 400),
        ("filename=v.png&type=secret", 400),
        ("filename=v.png&subfolder=../..", 403),
        ("filename=passwd&subfolder=/etc", 403),
        ("filename=v.png%00", 404),
    ] {
        assert_eq!(client.get(&format!("/view?{query}")).await.status(), status, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn view_sends_parts_and_spares_what_the_client_has() {
    let server = Server::start().await;
    let client = server.client();
    client.upload("r.bin", b"0123456789", &[]).await;
    let request = || client.request(Method::GET, "/view?filename=r.bin&type=input");
    let whole = request().send().await.unwrap();
    let tag = whole.headers()[ETAG].clone();
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    let part = request().header(RANGE, "bytes=2-4").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.text().await.unwrap(), "234");
    let known = request().header(IF_NONE_MATCH, tag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let beyond = request().header(RANGE, "bytes=10-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], "bytes */10");
    let head = client.request(Method::HEAD, "/view?filename=r.bin&type=input").send().await.unwrap();
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &"10".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_come_whole_and_in_parts() {
    let server = Server::start().await;
    let client = server.client();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    client.upload("large.bin", &bytes, &[]).await;
    let request = || client.request(Method::GET, "/view?filename=large.bin&type=input");
    let whole = request().send().await.unwrap();
    assert_eq!(whole.headers()["content-length"], "12000000");
    assert!(whole.bytes().await.unwrap() == bytes);
    let part = request().header(RANGE, "bytes=1000003-9000001").send().await.unwrap();
    assert_eq!(part.headers()["content-range"], "bytes 1000003-9000001/12000000");
    assert!(part.bytes().await.unwrap() == bytes[1_000_003..=9_000_001]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_scripts_are_downloads_and_pictures_can_be_re_encoded() {
    let server = Server::start().await;
    let client = server.client();
    client.upload("page.html", b"<script>", &[]).await;
    client.upload("p.png", &png([0, 128]), &[]).await;
    client.upload("broken.png", b"no picture", &[]).await;
    let page = client.get("/view?filename=page.html&type=input").await;
    assert_eq!(page.headers()[CONTENT_TYPE], "application/octet-stream");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    client.upload("drawing.svg", b"<svg onload=\"x()\"/>", &[]).await;
    let drawing = async |destination: &str| {
        let request = client.request(Method::GET, "/view?filename=drawing.svg&type=input");
        let shown = request.header("Sec-Fetch-Dest", destination).send().await.unwrap();
        assert_eq!(shown.headers()["vary"], "Sec-Fetch-Dest");
        assert_eq!(shown.headers()[CACHE_CONTROL], "no-store");
        let text = |name| shown.headers()[name].to_str().unwrap().to_owned();
        (text(CONTENT_TYPE), text(CONTENT_DISPOSITION))
    };
    let (kind, disposition) = drawing("document").await;
    assert_eq!(kind, "application/octet-stream");
    assert_eq!(disposition, "attachment; filename=\"drawing.svg\"");
    assert_eq!(drawing("image").await.0, "image/svg+xml");
    for (query, kind) in [
        ("channel=rgb", "image/png"),
        ("channel=a", "image/png"),
        ("channel=rgba", "image/png"),
        ("preview=webp;90", "image/webp"),
        ("preview=jpeg;50", "image/jpeg"),
        ("preview=jpeg&channel=rgba", "image/webp"),
        ("preview=nonsense", "image/webp"),
    ] {
        let response = client.get(&format!("/view?filename=p.png&type=input&{query}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        assert_eq!(response.headers()[CONTENT_TYPE], kind, "{query}");
        let picture = image::load_from_memory(&response.bytes().await.unwrap()).unwrap();
        assert_eq!((picture.width(), picture.height()), (2, 1));
    }
    let broken = client.get("/view?filename=broken.png&type=input&preview=webp").await;
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
}
