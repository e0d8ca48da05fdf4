//! The hub's routes: where a file is, how large, with what digest, and its bytes.
//!
//! A file's address answers with the facts about it and leads to another host that has the bytes; what leads
//! there is signed and expires. The token goes to the hub itself, never to where it leads.

use std::io::Read;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Response};
use url::Url;

use super::{Error, ModelFile, Patience, Result};
use crate::http_client::{self, shown};

/// The most steps from one address to the next.
const MOST_STEPS: u32 = 10;

/// The longest silence within an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// The longest list of files, and the most pages of one, that are read.
const MOST_LISTED: u64 = 16 << 20;

/// A hub.
pub struct Hub {
    agent: ureq::Agent,
    endpoint: Url,
    token: Option<String>,
}

/// What the hub says about a file.
#[derive(Clone, Debug)]
pub struct Offer {
    /// In bytes.
    pub size: u64,
    /// In hexadecimal; none where the hub keeps none.
    pub sha256: Option<String>,
    /// Where its bytes are for now.
    pub(super) location: Url,
}

/// What a request for some bytes of a file gives.
pub(super) enum Answer {
    /// Those bytes.
    Part(Box<dyn Read>),
    /// All of them.
    Whole(Box<dyn Read>),
}

/// A part of what the hub says about a file.
#[derive(Default)]
struct Facts {
    size: Option<u64>,
    sha256: Option<String>,
}

/// An entry of the hub's list of a folder.
#[derive(Deserialize)]
struct Listed {
    path: String,
    size: u64,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

impl Hub {
    /// A hub by its address. The token is sent to that address only.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let endpoint = http_client::server(endpoint).ok_or_else(|| Error::Endpoint(endpoint.to_owned()))?;
        // We go from address to address ourselves, to know where the token may go.
        let agent = http_client::configure()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_per_read(Some(SILENCE))
            .build()
            .into();
        Ok(Self { agent, endpoint, token: token.filter(|token| !token.trim().is_empty()) })
    }

    /// Where the hub is, without credentials.
    pub fn address(&self) -> String {
        shown(&self.endpoint)
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What the hub says about a file, which must be the one that the set means.
    pub fn ask(&self, file: &ModelFile, patience: Patience) -> Result<Offer> {
        let offer = patience.with(|| self.ask_once(file))?;
        match (&file.sha256, &offer.sha256) {
            (Some(expected), Some(found)) if expected != found => {
                let digest = |text: &str| format!("SHA-256 {text}");
                Err(Error::Changed {
                    name: file.name().to_owned(),
                    expected: digest(expected),
                    found: digest(found),
                })
            }
            (Some(expected), None) => Ok(Offer { sha256: Some(expected.clone()), ..offer }),
            _ => Ok(offer),
        }
    }

    fn ask_once(&self, file: &ModelFile) -> Result<Offer> {
        let address = self.join(file.repository.split('/'), &["resolve", &file.revision], &file.path);
        let mut location = address.clone();
        let mut facts = Facts::default();
        for _ in 0..MOST_STEPS {
            if location.origin() != self.endpoint.origin() && facts.size.is_some() {
                break;
            }
            let response = self.send(&Method::HEAD, &location, None)?;
            let status = response.status().as_u16();
            facts.learn(response.headers(), status == 200);
            match next(&location, &response) {
                Some(there) => location = there,
                None if status == 200 => break,
                None => return Err(self.refusal(&location, &response, &file.repository)),
            }
        }
        if facts.size.is_none() || facts.sha256.is_none() {
            facts = self.listed(file).unwrap_or_default().or(facts);
        }
        let size = facts.size.ok_or_else(|| Error::NoSize { address: shown(&address) })?;
        Ok(Offer { size, sha256: facts.sha256, location })
    }

    /// What the list of the file's folder says.
    fn listed(&self, file: &ModelFile) -> Option<Facts> {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let start = ["api", "models"].into_iter().chain(file.repository.split('/'));
        let mut page = self.join(start, &["tree", &file.revision], folder);
        for _ in 0..MOST_STEPS {
            let mut response = self.send(&Method::GET, &page, None).ok()?;
            if response.status().as_u16() != 200 {
                return None;
            }
            let further = next_page(&page, response.headers());
            let text = response.body_mut().with_config().limit(MOST_LISTED).read_to_string().ok()?;
            let entries: Vec<Listed> = serde_json::from_str(&text).ok()?;
            if let Some(found) = entries.into_iter().find(|entry| entry.path == file.path) {
                let size = found.lfs.as_ref().map_or(found.size, |large| large.size);
                let sha256 = found.lfs.and_then(|large| digest(&large.oid));
                return Some(Facts { size: Some(size), sha256 });
            }
            page = further?;
        }
        None
    }

    /// Begins to read a file, or some bytes of it.
    pub(super) fn read(&self, name: &str, location: &Url, range: Option<&Range<u64>>) -> Result<Answer> {
        let mut place = location.clone();
        for _ in 0..MOST_STEPS {
            let response = self.send(&Method::GET, &place, range)?;
            if let Some(there) = next(&place, &response) {
                place = there;
                continue;
            }
            return match (response.status().as_u16(), range) {
                (206, Some(range)) => {
                    check_range(&place, &response, range)?;
                    Ok(Answer::Part(Box::new(response.into_body().into_reader())))
                }
                (200, _) => Ok(Answer::Whole(Box::new(response.into_body().into_reader()))),
                (416, Some(range)) => Err(Error::Changed {
                    name: name.to_owned(),
                    expected: format!("more than {} bytes", range.start),
                    found: "less".to_owned(),
                }),
                (401 | 403 | 404 | 410, _) => Err(Error::Expired { name: name.to_owned() }),
                _ => Err(self.refusal(&place, &response, name)),
            };
        }
        Err(Error::Loop { address: shown(location) })
    }

    fn send(
        &self,
        method: &Method,
        address: &Url,
        range: Option<&Range<u64>>,
    ) -> Result<Response<ureq::Body>> {
        let request = if method == Method::HEAD {
            self.agent.head(address.as_str())
        } else {
            self.agent.get(address.as_str())
        };
        // What is compressed on its way has other ranges and another length.
        let mut request = request.header("accept-encoding", "identity");
        if let Some(range) = range {
            request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(token) = &self.token
            && address.origin() == self.endpoint.origin()
        {
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        request
            .call()
            .map_err(|source| Error::Unreachable { address: shown(address), source: Box::new(source) })
    }

    /// Why there is no file.
    fn refusal(&self, address: &Url, response: &Response<ureq::Body>, repository: &str) -> Error {
        let word = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let told = word("x-error-message").map_or_else(String::new, |text| format!(": {text}"));
        let status = response.status().as_u16();
        match (status, word("x-error-code")) {
            // The hub does not tell strangers whether a repository exists.
            (404, _) | (401, Some("RepoNotFound")) => Error::Missing { address: shown(address), told },
            (401 | 403, _) => Error::Gated {
                repository: repository.to_owned(),
                page: self.join(repository.split('/'), &[], "").to_string(),
                has_token: self.has_token(),
                told,
            },
            _ => Error::Status { address: shown(address), status, told, after: pause(response.headers()) },
        }
    }

    /// An address below the endpoint; `path` may have several parts.
    fn join<'a>(&self, start: impl Iterator<Item = &'a str>, middle: &[&'a str], path: &'a str) -> Url {
        let mut address = self.endpoint.clone();
        if let Ok(mut parts) = address.path_segments_mut() {
            let path = path.split('/').filter(|part| !part.is_empty());
            parts.pop_if_empty().extend(start.chain(middle.iter().copied()).chain(path));
        }
        address
    }
}

impl Facts {
    /// Takes what headers say. The plain ones count only where the file itself answers.
    fn learn(&mut self, headers: &HeaderMap, is_file: bool) {
        let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let plain = |name: &str| word(name).filter(|_| is_file);
        self.size = self.size.or_else(|| word("x-linked-size").or(plain("content-length"))?.parse().ok());
        let tag = || digest(word("x-linked-etag").or(plain("etag"))?);
        self.sha256 = self.sha256.take().or_else(tag);
    }

    fn or(self, other: Self) -> Self {
        Self { size: self.size.or(other.size), sha256: self.sha256.or(other.sha256) }
    }
}

/// The SHA-256 digest that an entity tag is; small files have another kind.
fn digest(tag: &str) -> Option<String> {
    let text = tag.trim_start_matches("W/").trim_matches('"');
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| text.to_ascii_lowercase())
}

/// Where an answer leads.
fn next(from: &Url, response: &Response<ureq::Body>) -> Option<Url> {
    let leads = response.status().is_redirection();
    let there = response.headers().get("location").filter(|_| leads)?.to_str().ok()?;
    from.join(there).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// The next page of a list, from `Link: <address>; rel="next"`.
fn next_page(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let links = headers.get("link")?.to_str().ok()?;
    let link = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let address = link.split_once('<')?.1.split_once('>')?.0;
    from.join(address).ok().filter(|there| there.origin() == from.origin())
}

/// How long a server wants to be left alone: in seconds, or until a date.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(until.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

/// Whether a partial answer begins where it was asked to.
fn check_range(place: &Url, response: &Response<ureq::Body>, range: &Range<u64>) -> Result<()> {
    let found = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    let start = found.and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    if start == Some(range.start) {
        return Ok(());
    }
    Err(Error::OtherRange {
        address: shown(place),
        expected: format!("{}-{}", range.start, range.end - 1),
        found: found.unwrap_or("without a Content-Range").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_come_in_seconds_or_as_dates() {
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([("retry-after".parse().unwrap(), text.parse().unwrap())]);
            pause(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(asked("Thu, 06 Nov 2994 08:49:37 GMT") > Some(Duration::from_secs(1_000_000)));
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn only_digests_of_the_content_count_as_tags() {
        let sha256 = "ab".repeat(32);
        assert_eq!(digest(&format!("\"{sha256}\"")), Some(sha256));
        assert_eq!(digest("\"0123456789abcdef0123456789abcdef01234567\""), None);
    }

    #[test]
    fn mirrors_may_lie_below_a_path() {
        let hub = Hub::new("https://mirror.example/hub/", None).unwrap();
        let address = hub.join("a/b".split('/'), &["resolve", "refs/pr/1"], "x y/z.safetensors");
        assert_eq!(
            address.as_str(),
            "https://mirror.example/hub/a/b/resolve/refs%2Fpr%2F1/x%20y/z.safetensors"
        );
    }
}
