//! A hub that fails, lies, or is slow.

use std::time::{Duration, Instant};

use comfyd::fetch::{Error, Step};

use crate::hub::{Hub, bytes};
use crate::site::Site;

const MODEL: &str = "owner/name/split_files/vae/model.safetensors";
const SIZE: usize = 3_000_000;

fn hub_and_site() -> (Hub, Site) {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, SIZE));
    (hub, site)
}

fn assert_complete(site: &Site) {
    assert_eq!(site.files(), ["vae/model.safetensors"]);
    assert!(site.read("vae/model.safetensors") == bytes(1, SIZE), "the bytes are those of the hub");
}

#[test]
fn a_line_that_is_cut_again_and_again_costs_no_byte_twice() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| mood.cut_after = Some(100_000));
    site.fetch(&hub).unwrap();
    assert_complete(&site);
    assert_eq!(hub.sent(), SIZE as u64);
}

#[test]
fn a_line_that_brings_nothing_any_more_is_given_up_and_what_came_is_kept() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| mood.cut_after = Some(0));
    let error = site.fetch(&hub).unwrap_err();
    assert!(matches!(error, Error::Cut { .. }), "{error}");
    hub.mood(|mood| mood.cut_after = Some(1_000_000));
    hub.mood(|mood| mood.troubles = std::iter::repeat_n((404, String::new()), 100).skip(50).collect());
    assert!(site.fetch(&hub).is_err());
    let before = hub.sent();
    hub.mood(|mood| {
        mood.cut_after = None;
        mood.troubles.clear();
    });
    site.fetch(&hub).unwrap();
    assert_complete(&site);
    assert_eq!(hub.sent(), SIZE as u64, "{before} bytes had come before");
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| {
        mood.refusals = [(429, "retry-after: 1\r\n".to_owned())].into();
        mood.troubles = [(503, String::new()), (429, "retry-after: 1\r\n".to_owned())].into();
    });
    let begin = Instant::now();
    let pauses = std::sync::Mutex::new(Vec::new());
    let tell = |step| {
        if let Step::Waiting { pause, .. } = step {
            pauses.lock().unwrap().push(pause);
        }
    };
    site.fetch_telling(&hub, &tell).unwrap();
    assert_complete(&site);
    assert!(begin.elapsed() >= Duration::from_secs(2));
    assert!(pauses.into_inner().unwrap().contains(&Duration::from_secs(1)));
}

#[test]
fn a_server_that_asks_for_an_hour_is_not_waited_for() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| mood.refusals = [(429, "retry-after: 3600\r\n".to_owned())].into());
    let error = site.fetch(&hub).unwrap_err();
    assert!(error.mend().contains("in 3600 s"), "{}", error.mend());
}

#[test]
fn bytes_that_are_not_the_promised_ones_get_no_name() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| mood.spoilt = Some(SIZE - 1));
    let error = site.fetch(&hub).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    assert!(site.files().is_empty(), "{:?}", site.files());
    hub.mood(|mood| mood.spoilt = None);
    site.fetch(&hub).unwrap();
    assert_complete(&site);
}

#[test]
fn a_file_of_another_size_than_promised_gets_no_name() {
    for size in [SIZE as u64 - 100, SIZE as u64 + 100, 2 * SIZE as u64] {
        let (hub, site) = hub_and_site();
        hub.mood(|mood| mood.size = Some(size));
        let error = site.fetch(&hub).unwrap_err();
        assert!(!site.models().join("vae/model.safetensors").exists(), "{size}: {error}");
    }
}

#[test]
fn servers_that_know_no_ranges_send_the_file_in_one_piece() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| mood.ignores_ranges = true);
    site.fetch(&hub).unwrap();
    assert_complete(&site);
}

#[test]
fn addresses_that_expire_on_the_way_are_asked_for_again() {
    let (hub, site) = hub_and_site();
    hub.mood(|mood| {
        mood.uses = Some(2);
        mood.cut_after = Some(200_000);
    });
    site.fetch(&hub).unwrap();
    assert_complete(&site);
    assert_eq!(hub.sent(), SIZE as u64);
}

#[test]
fn a_file_that_was_replaced_at_the_hub_meanwhile_begins_anew() {
    let (hub, site) = hub_and_site();
    hub.put(MODEL, bytes(7, SIZE));
    hub.mood(|mood| mood.cut_after = Some(300_000));
    hub.mood(|mood| mood.troubles = std::iter::repeat_n((416, String::new()), 1).collect());
    assert!(site.fetch(&hub).is_err());
    hub.put(MODEL, bytes(1, SIZE));
    hub.mood(|mood| mood.cut_after = None);
    site.fetch(&hub).unwrap();
    assert_complete(&site);
}

#[test]
fn absent_and_closed_repositories_are_told_apart() {
    let error_for = |status: u16, code: &str| {
        let (hub, site) = hub_and_site();
        let headers = format!("x-error-code: {code}\r\nx-error-message: told by the hub\r\n");
        hub.mood(|mood| mood.refusals = [(status, headers)].into());
        let error = site.fetch(&hub).unwrap_err();
        assert!(error.to_string().contains("told by the hub"), "{error}");
        error
    };
    assert!(matches!(error_for(404, "EntryNotFound"), Error::Missing { .. }));
    assert!(matches!(error_for(401, "RepoNotFound"), Error::Missing { .. }));
    for (status, code) in [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")] {
        let error = error_for(status, code);
        assert!(matches!(&error, Error::Gated { has_token: true, .. }), "{error}");
        assert!(error.mend().contains("/owner/name") && error.mend().contains("terms"), "{}", error.mend());
    }
}
