//! No file parameter of any route leads out of its folder, in whatever form it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value as Json, json};

use super::server::{Client, Options, Server};

const SECRET: &str = "the-secret";

/// A server beside whose folders secrets lie, with links to them in the folders.
struct Scene {
    server: Server,
    /// Holds the web root, for it must not be the server's own folder.
    web: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let web = tempfile::tempdir().unwrap();
        std::fs::create_dir(web.path().join("root")).unwrap();
        std::fs::write(web.path().join("root/index.html"), "page").unwrap();
        let web_root = Some(web.path().join("root"));
        let server = Server::with(Options { web_root, ..Options::default() }).await;
        let base = server.base();
        std::fs::create_dir_all(base.join("user/default")).unwrap();
        std::fs::create_dir_all(base.join("models/loras")).unwrap();
        let header = json!({"__metadata__": {"secret": SECRET}}).to_string();
        let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        for folder in [base, &base.join("user"), web.path()] {
            std::fs::write(folder.join("secret.txt"), SECRET).unwrap();
            std::fs::write(folder.join("secret.safetensors"), &weights).unwrap();
            std::fs::write(folder.join("secret.png"), picture()).unwrap();
        }
        #[cfg(unix)]
        for folder in ["input", "output", "temp", "user/default"] {
            use std::os::unix::fs::symlink;
            symlink(base.join("secret.txt"), base.join(folder).join("link.txt")).unwrap();
            symlink(base.join("secret.png"), base.join(folder).join("link.png")).unwrap();
            symlink(base, base.join(folder).join("out")).unwrap();
        }
        Self { server, web }
    }

    /// Every file outside the folders that clients may fill.
    fn outside(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let base = self.server.base();
        let filled = ["input", "output", "temp", "user/default", "models"].map(|name| base.join(name));
        let mut found = BTreeMap::new();
        let mut folders = vec![base.to_owned(), self.web.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if filled.contains(&path) {
                } else if path.symlink_metadata().unwrap().is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    found.insert(path, bytes);
                }
            }
        }
        found
    }

    /// Ways to write a name that lies outside, as text before any encoding.
    fn names(&self, file: &str) -> Vec<String> {
        let base = self.server.base().display().to_string();
        let mut names: Vec<String> = [
            "../",
            "../../",
            "../default/../",
            "sub/../../",
            "./../",
            "....//",
            "..;/",
            "..\\",
            "..\\..\\",
            "/",
            "\\",
            "//",
            "C:\\",
            "C:/",
            "c:",
            "\\\\host\\share\\",
            "\\\\?\\C:\\",
            "file:///",
            "~/",
            "out/",
            "out/../",
            "out/user/",
            "%2e%2e%2f",
            "%2e%2e/",
            "..%5c",
            "..%c0%af",
            "%252e%252e%252f",
            "\u{ff0e}\u{ff0e}/",
            "\0../",
            "..\0/",
        ]
        .iter()
        .map(|lead| format!("{lead}{file}"))
        .collect();
        names.push(format!("{base}/{file}"));
        names.push(format!("{base}/input/../{file}"));
        let suffix = file.rsplit('.').next().unwrap();
        names.extend(
            [
                &format!("link.{suffix}"),
                "..",
                ".",
                "",
                "CON",
                "NUL",
                "aux.txt",
                "COM1",
                "secret.txt.",
                "secret.txt ",
                "secret.txt::$DATA",
                "../secret.txt\0.png",
                "nul\0",
                "\r\nX-Made-Up: 1",
            ]
            .map(str::to_owned),
        );
        names
    }
}

fn picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(3, 5).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A name as it may stand in a request: encoded once, twice, and as it is where a request can hold it.
fn spellings(name: &str) -> Vec<String> {
    let once = encoded(name);
    let mut spellings = vec![once.clone(), encoded(&once)];
    if name.bytes().all(|byte| byte.is_ascii_graphic() && !b"#?".contains(&byte)) {
        spellings.push(name.to_owned());
    }
    spellings
}

async fn ask(client: &Client, target: &str) -> String {
    let answer = client.raw(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 "), "{target}: {answer}");
    assert!(!answer.starts_with("HTTP/1.1 5"), "{target}: {answer}");
    assert!(!answer.contains("\r\nX-Made-Up"), "{target}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_the_folders_can_be_read() {
    let scene = Scene::new().await;
    let client = scene.server.client();
    let mut targets = Vec::new();
    for name in scene.names("secret.txt").iter().flat_map(|name| spellings(name)) {
        for kind in ["input", "output", "temp"] {
            targets.push(format!("/view?type={kind}&filename={name}"));
        }
        targets.push(format!("/view?filename={name}%20%5Binput%5D&preview=webp"));
        targets.push(format!("/view?filename=x.png&type={name}"));
        targets.push(format!("/userdata/{name}"));
        targets.push(format!("/internal/files/{name}"));
        targets.push(format!("/settings/{name}"));
        targets.push(format!("/history/{name}"));
        targets.push(format!("/object_info/{name}"));
        targets.push(format!("/{name}"));
        targets.push(format!("/extensions/{name}"));
    }
    for folder in scene.names("").iter().flat_map(|name| spellings(name)) {
        targets.push(format!("/view?type=input&filename=secret.txt&subfolder={folder}"));
        targets.push(format!("/userdata?recurse=true&full_info=true&dir={folder}"));
        targets.push(format!("/v2/userdata?path={folder}"));
        targets.push(format!("/models/{folder}"));
        targets.push(format!("/experiment/models/{folder}"));
        targets.push(format!("/view_metadata/{folder}?filename=secret.safetensors"));
        targets.push(format!("/experiment/models/preview/{folder}/0/secret.safetensors"));
    }
    for name in scene.names("secret.safetensors").iter().flat_map(|name| spellings(name)) {
        targets.push(format!("/view_metadata/loras?filename={name}"));
        targets.push(format!("/experiment/models/preview/loras/0/{name}"));
        targets.push(format!("/experiment/models/preview/loras/{name}/secret.safetensors"));
    }
    for target in &targets {
        for twin in ["", "/api"] {
            let target = format!("{twin}{target}");
            let answer = ask(&client, &target).await;
            assert!(!answer.contains(SECRET), "{target}: {answer}");
            let listed = target.contains("userdata") && answer.contains("secret.txt\"");
            assert!(!listed, "{target}: {answer}");
            assert!(!answer.contains("image/webp"), "{target}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_the_folders_can_be_written_moved_or_deleted() {
    let scene = Scene::new().await;
    let client = scene.server.client();
    let before = scene.outside();
    for name in scene.names("new.txt").into_iter().chain(scene.names("secret.txt")) {
        for fields in [
            &[][..],
            &[("subfolder", "sub"), ("overwrite", "true")],
            &[("type", "output"), ("overwrite", "true")],
        ] {
            let response = client.upload(&name, b"written", fields).await;
            assert!(response.status().as_u16() < 500, "{name}");
        }
        for fields in [[("subfolder", name.as_str())], [("type", name.as_str())]] {
            let response = client.upload("new.txt", b"written", &fields).await;
            assert!(response.status().as_u16() < 500, "{name}");
        }
        client.post("/userdata/own.txt", "own").await;
        for name in spellings(&name) {
            for request in [
                format!("POST /userdata/{name}?overwrite=true"),
                format!("POST /userdata/own.txt/move/{name}"),
                format!("POST /userdata/{name}/move/taken.txt"),
                format!("POST /settings/{name}"),
                format!("DELETE /userdata/{name}"),
            ] {
                let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
                let answer = client.raw(format!("{head}Content-Length: 3\r\n\r\n\"x\"")).await;
                assert!(!answer.starts_with("HTTP/1.1 5"), "{request}: {answer}");
                assert!(!answer.contains(SECRET), "{request}: {answer}");
            }
        }
        assert_eq!(scene.outside(), before, "{name}");
    }
    let taken = std::fs::read(scene.server.base().join("user/default/taken.txt"));
    assert!(taken.is_ok_and(|taken| taken != SECRET.as_bytes()), "no secret was moved inside");
    let roots = [Path::new("/new.txt"), Path::new("/secret.txt")];
    assert!(roots.iter().all(|path| !path.exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_picture_outside_the_folders_reaches_a_mask_or_a_graph() {
    let scene = Scene::new().await;
    let client = scene.server.client();
    let before = scene.outside();
    let mut references = Vec::new();
    for name in scene.names("secret.png") {
        for kind in ["input", "output"] {
            references.push(json!({"filename": name, "type": kind}));
        }
        references.push(json!({"filename": format!("{name} [input]")}));
    }
    for folder in scene.names("") {
        references.push(json!({"filename": "secret.png", "subfolder": folder, "type": "input"}));
    }
    references.extend([json!({"filename": 5}), json!([]), json!(null), json!({"filename": "x", "type": []})]);
    for reference in references {
        let fields = [("original_ref", reference.to_string())];
        let fields = fields.each_ref().map(|(key, value)| (*key, value.as_str()));
        let status = client.upload_to("/upload/mask", "masked.png", &picture(), &fields).await.status();
        assert!(status.is_client_error(), "{status} {reference}");
    }
    for name in
        scene.names("secret.png").iter().filter(|name| *name != "link.png" && !name.starts_with("out/"))
    {
        // Links are the owner's own doing, and graphs may follow them.
        let graph = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        });
        let (status, answer) = client.submit(&json!({"prompt": graph})).await;
        assert_eq!(status, 400, "{name}: {answer}");
    }
    let made: Json = client.json("/internal/files/temp").await;
    assert_eq!(made, json!([]));
    assert_eq!(scene.outside(), before);
}
