//! Files that arrive, and files that are there already.

use std::sync::atomic::{AtomicU64, Ordering};

use comfyd::fetch::Step;

use crate::hub::{Hub, bytes, digest};
use crate::site::{Site, write};

const MODEL: &str = "owner/name/split_files/vae/model.safetensors";

#[test]
fn a_set_arrives_with_several_connections_and_nothing_else_is_left() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", ""), ("a/b/lora.safetensors", "loras", "")]));
    let (model, lora) = (bytes(1, 5_000_001), bytes(2, 77));
    hub.put(MODEL, model.clone());
    hub.put("a/b/lora.safetensors", lora.clone());
    let received = AtomicU64::new(0);
    let tell = |step| {
        if let Step::Received { bytes, .. } = step {
            received.fetch_add(bytes, Ordering::Relaxed);
        }
    };
    site.fetch_telling(&hub, &tell).unwrap();
    assert_eq!(site.files(), ["loras/lora.safetensors", "vae/model.safetensors"]);
    assert_eq!((site.read("vae/model.safetensors"), site.read("loras/lora.safetensors")), (model, lora));
    assert_eq!(hub.sent(), 5_000_078, "no byte is sent twice");
    assert_eq!(received.into_inner(), 5_000_078);
    let ranges = hub.asked().into_iter().filter(|asked| asked.is_for_bytes && asked.line.contains("model"));
    assert_eq!(ranges.filter(|asked| asked.range.is_some()).count(), 5, "one request for each segment");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (hub, site) = (Hub::start(), Site::new(&[("old/name/x.safetensors", "vae", "")]));
    hub.put("new/name/x.safetensors", bytes(1, 1000));
    site.fetch(&hub).unwrap();
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| asked.is_for_bytes) && asked.iter().any(|asked| !asked.is_for_bytes));
    for asked in asked {
        let expected = (!asked.is_for_bytes).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(asked.token, expected, "{}", asked.line);
    }
}

#[test]
fn files_as_the_set_describes_them_are_used_where_they_are_and_the_hub_is_not_asked() {
    let hub = Hub::start();
    let site =
        Site::new(&[(MODEL, "vae", "size = 500"), ("a/b/c.safetensors", "diffusion_models", "size = 300")]);
    write(&site.base.path().join("elsewhere/model.safetensors"), &bytes(1, 500));
    write(&site.models().join("unet/c.safetensors"), &bytes(2, 300));
    write(&site.base.path().join("extra_model_paths.yaml"), b"comfyui:\n  vae: elsewhere\n");
    let done = site.run(&hub, &["--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let place = |number: usize| told["files"][number]["place"].as_str().unwrap().to_owned();
    assert!(place(0).ends_with("elsewhere/model.safetensors") && place(1).ends_with("unet/c.safetensors"));
    assert_eq!(told["needed"], 0);
    assert!(hub.asked().is_empty());
}

#[test]
fn files_of_unknown_size_are_compared_with_the_hubs() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 500));
    write(&site.models().join("vae/model.safetensors"), &bytes(1, 500));
    site.fetch(&hub).unwrap();
    assert_eq!(hub.sent(), 0);
}

#[test]
fn a_file_of_another_size_is_the_users_and_stays() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 500));
    write(&site.models().join("vae/model.safetensors"), &bytes(9, 400));
    let error = site.fetch(&hub).unwrap_err();
    assert!(error.to_string().contains("has 400 bytes, but the hub's file has 500"), "{error}");
    assert_eq!(site.read("vae/model.safetensors"), bytes(9, 400));
}

#[test]
fn damage_inside_a_file_is_found_where_asked_for() {
    let hub = Hub::start();
    let site = Site::new(&[(MODEL, "vae", &format!("size = 500\nsha256 = '{}'", digest(&bytes(1, 500))))]);
    hub.put(MODEL, bytes(1, 500));
    let path = site.models().join("vae/model.safetensors");
    write(&path, &bytes(1, 500));
    assert!(site.run(&hub, &["--verify"]).status.success());
    write(&path, &bytes(2, 500));
    assert!(site.run(&hub, &[]).status.success());
    let done = site.run(&hub, &["--verify"]);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && told.contains("is damaged") && told.contains("hint: move"), "{told}");
}

#[test]
fn the_list_of_the_folder_tells_what_the_file_itself_does_not() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 3_000_000));
    hub.mood(|mood| mood.says_nothing = true);
    hub.mood(|mood| mood.spoilt = Some(2_000_000));
    let error = site.fetch(&hub).unwrap_err().to_string();
    assert!(error.contains(&digest(&bytes(1, 3_000_000))), "{error}");
    hub.mood(|mood| mood.spoilt = None);
    site.fetch(&hub).unwrap();
    assert_eq!(site.read("vae/model.safetensors"), bytes(1, 3_000_000));
}
