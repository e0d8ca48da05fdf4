//! `comfyui_auth_tokens.conf`: a JSON document, in every shape that its writers gave it.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::{Holds, Malformed, Spot, variables};
use crate::auth::Token;

const HASH: &str = "bcrypt_hash";
const PASSWORD: &str = "raw_token";

/// Another file that the document says the token lies in.
#[derive(Debug, PartialEq, Eq)]
pub struct Location {
    pub path: PathBuf,
    /// Whether it holds the password instead.
    pub password: bool,
}

/// The parts that may hold a hash: the document itself and its services, with their names.
fn parts(document: &Json) -> impl Iterator<Item = (String, &Json)> {
    let services = document["services"].as_object();
    let services = services.into_iter().flatten();
    std::iter::once((String::new(), document))
        .chain(services.map(|(name, part)| (format!("services.{name}."), part)))
}

pub(super) fn spots(document: &Json) -> Result<Vec<Spot>, Malformed> {
    let mut spots = Vec::new();
    for (name, part) in parts(document) {
        let text = |key: &str| part[key].as_str().filter(|text| !text.trim().is_empty());
        if let Some(value) = text(HASH) {
            spots.push(spot(format!("`{name}{HASH}`"), value, Holds::Hash));
        }
    }
    if spots.is_empty() {
        return Err(Malformed::NoHash);
    }
    for (name, part) in parts(document) {
        if let Some(value) = part[PASSWORD].as_str() {
            spots.push(spot(format!("`{name}{PASSWORD}`"), value, Holds::Password));
        }
        for (place, location) in part["locations"].as_array().into_iter().flatten().enumerate() {
            if let Some(content) = location["content"].as_str() {
                let at = format!("`{name}locations[{place}].content`");
                spots.extend(copies(&at, content, location));
            }
        }
    }
    Ok(spots)
}

fn spot(at: String, value: &str, holds: Holds) -> Spot {
    Spot { at, value: value.to_owned(), holds, slips: Vec::new() }
}

fn is_password(location: &Json) -> bool {
    location["type"] == "raw"
}

/// The values in the `content` of a location: a copy of the token, or of the lines of an `.env` file. It may as well be
/// a word that tells what is there.
fn copies(at: &str, content: &str, location: &Json) -> Vec<Spot> {
    let is_word = content.bytes().all(|byte| byte.is_ascii_lowercase() || b"_- ".contains(&byte));
    let password = is_password(location);
    if content.starts_with("$2") || (!is_word && (password || location["type"] == "bcrypt")) {
        let holds = if password { Holds::Password } else { Holds::Token };
        return vec![spot(at.to_owned(), content, holds)];
    }
    let lines = variables::spots(content).into_iter();
    // Nobody runs these lines, so how they are quoted is no matter.
    lines.map(|line| Spot { at: format!("{at} {}", line.at), slips: Vec::new(), ..line }).collect()
}

/// The files that the document names.
pub(in crate::auth) fn locations(document: &Json) -> Vec<Location> {
    let listed = parts(document).flat_map(|(_, part)| part["locations"].as_array().into_iter().flatten());
    let location = |listed: &Json| {
        let path = listed.as_str().or(listed["path"].as_str())?.replace('\\', "/");
        // Of another machine: a drive of Windows, unless it is seen from WSL.
        let drive = path.as_bytes().get(1) == Some(&b':');
        (!path.is_empty() && !drive).then(|| Location { path: path.into(), password: is_password(listed) })
    };
    listed.filter_map(location).collect()
}

pub(super) fn rewritten(mut document: Json, token: &Token, password: Option<&str>) -> String {
    if !document.is_object() {
        return new(token, password);
    }
    if spots(&document).is_err() {
        document[HASH] = json!(token.reveal());
    }
    rewrite_part(&mut document, token, password);
    for part in document.get_mut("services").and_then(Json::as_object_mut).into_iter().flatten() {
        rewrite_part(part.1, token, password);
    }
    document["updated_at"] = json!(now());
    format!("{document:#}\n")
}

fn rewrite_part(part: &mut Json, token: &Token, password: Option<&str>) {
    let Some(part) = part.as_object_mut() else { return };
    if let Some(hash) = part.get_mut(HASH) {
        *hash = json!(token.reveal());
    }
    if let Some((kept, password)) = part.get_mut(PASSWORD).zip(password) {
        *kept = json!(password);
    }
    for location in part.get_mut("locations").and_then(Json::as_array_mut).into_iter().flatten() {
        let Some(content) = location["content"].as_str() else { continue };
        let Some(copy) = copies("", content, location).into_iter().next() else { continue };
        location["content"] = json!(match copy.holds {
            _ if !copy.at.trim().is_empty() => variables::rewritten(content, token, password),
            Holds::Password => password.unwrap_or(content).to_owned(),
            Holds::Token | Holds::Hash => token.reveal().to_owned(),
        });
    }
}

/// A document as the users' tools write it.
pub(super) fn new(token: &Token, password: Option<&str>) -> String {
    let mut document = json!({"version": "1.0", "created_at": now()});
    if let Some(password) = password {
        document[PASSWORD] = json!(password);
    }
    document[HASH] = json!(token.reveal());
    document["description"] = json!("The token of comfyd, and where copies of it lie");
    document["locations"] = json!(["login/PASSWORD", ".secrets/qwen-api-user.token"]);
    format!("{document:#}\n")
}

fn now() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";
    const NEW: &str = "$2b$12$zyxdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

    fn at(document: &Json) -> Vec<String> {
        spots(document).expect("spots").into_iter().map(|spot| spot.at).collect()
    }

    #[test]
    fn every_copy_of_the_token_is_found_and_replaced_and_the_rest_stays() {
        let document = json!({
            "version": "1.0", "raw_token": "raw", "bcrypt_hash": OLD, "unknown": {"x": [1, 2.5]},
            "locations": [
                {"name": "a", "path": ".secrets/a.token", "type": "bcrypt", "content": OLD},
                {"name": "b", "path": ".env", "type": "env", "content": format!("COMFYUI_API_TOKEN={OLD}\nCOMFYUI_RAW_TOKEN=raw")},
                {"name": "c", "path": "c.txt", "type": "raw", "content": "raw_token"},
            ],
            "services": {"comfyui-qwen": {"bcrypt_hash": OLD, "locations": [{"type": "file", "path": "D:\\x"}]}},
        });
        assert_eq!(
            at(&document),
            [
                "`bcrypt_hash`",
                "`services.comfyui-qwen.bcrypt_hash`",
                "`raw_token`",
                "`locations[0].content`",
                "`locations[1].content` COMFYUI_API_TOKEN",
                "`locations[1].content` COMFYUI_RAW_TOKEN",
            ]
        );
        let token = Token::new(NEW).expect("a token");
        let text = rewritten(document.clone(), &token, Some("fresh"));
        assert!(!text.contains(OLD) && text.matches(NEW).count() == 4, "{text}");
        let changed: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(changed["raw_token"], "fresh");
        assert_eq!(changed["locations"][2]["content"], "raw_token");
        let keys =
            |document: &Json| document.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&changed)[..6], keys(&document)[..6]);
        assert_eq!(changed["unknown"], document["unknown"]);
        let kept: Json = serde_json::from_str(&rewritten(document, &token, None)).expect("JSON");
        assert_eq!(kept["raw_token"], "raw");
    }

    #[test]
    fn a_document_without_a_hash_gets_one() {
        let token = Token::new(NEW).expect("a token");
        for document in
            [json!({"raw_token": "raw"}), json!({"bcrypt_hash": ""}), json!([1]), json!({"bcrypt_hash": 7})]
        {
            let text = rewritten(document, &token, None);
            let changed: Json = serde_json::from_str(&text).expect("JSON");
            assert_eq!(changed["bcrypt_hash"], NEW);
            assert!(changed.get("services").is_none());
        }
    }

    #[test]
    fn locations_come_in_three_shapes() {
        let document = json!({
            "locations": ["a/PASSWORD", {"path": "b\\c.token", "type": "raw"}, {"path": "C:\\x\\.env"}, 7],
            "services": {"s": {"locations": [{"type": "env", "path": ".env"}]}},
        });
        let paths: Vec<_> =
            locations(&document).into_iter().map(|found| (found.path, found.password)).collect();
        assert_eq!(paths, [("a/PASSWORD".into(), false), ("b/c.token".into(), true), (".env".into(), false)]);
    }
}
