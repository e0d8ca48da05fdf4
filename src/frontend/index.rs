//! The package index: which versions are published, and where their files are.
//!
//! Reads the simple index that pip reads, in both of its forms: JSON (PEP 691) and HTML (PEP 503), which is all
//! that many mirrors have.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;
use std::time::Duration;

use fancy_regex::Regex;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value as Json;
use ureq::ResponseExt as _;
use url::Url;

use super::{Error, PACKAGE, Result};
use crate::http_client::{self, shown};

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const FORMS: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";

/// The longest list of files that is read.
const MOST_LISTED: u64 = 64 << 20;

/// How many versions an error names.
const NAMED: usize = 5;

/// How long a download may take.
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(3600);

/// A package index.
pub struct Index {
    address: Url,
    agent: ureq::Agent,
}

/// Which version somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest that is neither a preview nor withdrawn.
    Latest,
    Exactly(String),
}

impl std::str::FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let version = text.strip_prefix('v').unwrap_or(text);
        match version {
            "latest" => Ok(Self::Latest),
            _ if is_version(version) => Ok(Self::Exactly(version.to_owned())),
            _ => Err(Error::NoVersion(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Latest => "latest",
            Self::Exactly(version) => version,
        })
    }
}

/// A published version.
#[derive(Clone, Debug)]
pub struct Release {
    pub version: String,
    /// In hexadecimal.
    pub sha256: String,
    /// In bytes, where the index says it.
    pub size: Option<u64>,
    address: Url,
    withdrawn: bool,
}

impl Index {
    /// An index by its address, which may carry a user and a password.
    pub fn new(address: &str) -> Result<Self> {
        let mut url = http_client::server(address).ok_or_else(|| Error::Address(address.to_owned()))?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let agent = http_client::configure().timeout_recv_body(Some(DOWNLOAD_PATIENCE)).build().into();
        Ok(Self { address: url, agent })
    }

    /// Where the index is, without credentials.
    pub fn address(&self) -> String {
        shown(&self.address)
    }

    /// The wheel of a version.
    pub fn find(&self, wanted: &Wanted) -> Result<Release> {
        let page = self.address.join(&format!("{PACKAGE}/"));
        let page = page.map_err(|_| Error::Address(self.address()))?;
        let mut releases = self.releases(&page)?;
        releases.sort_by_cached_key(|release| rank(&release.version));
        let found = match wanted {
            Wanted::Latest => {
                releases.iter().rfind(|release| !release.withdrawn && is_final(&release.version))
            }
            Wanted::Exactly(version) => releases.iter().rfind(|release| release.version == *version),
        };
        let Some(release) = found else {
            let newest = releases.iter().rev().filter(|release| is_final(&release.version)).take(NAMED);
            return Err(Error::Unpublished {
                wanted: wanted.to_string(),
                address: self.address(),
                newest: newest.map(|release| release.version.clone()).collect(),
            });
        };
        if release.sha256.is_empty() {
            return Err(Error::NoDigest { address: self.address(), version: release.version.clone() });
        }
        Ok(release.clone())
    }

    fn releases(&self, page: &Url) -> Result<Vec<Release>> {
        let no_index = |problem: String| Error::NoIndex { address: shown(page), problem };
        let mut response = self.get(page, FORMS)?;
        // Addresses of files are relative to where the list was found in the end.
        let base = Url::parse(&response.get_uri().to_string()).unwrap_or_else(|_| page.clone());
        let json = response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(JSON.as_bytes()));
        let text = response.body_mut().with_config().limit(MOST_LISTED).read_to_string();
        let text = text.map_err(|source| unreachable(page, source))?;
        let releases = if json { from_json(&text, &base) } else { Ok(from_html(&text, &base)) };
        let releases = releases.map_err(|error| no_index(error.to_string()))?;
        if releases.is_empty() {
            return Err(no_index("there is no wheel on the page".to_owned()));
        }
        Ok(releases)
    }

    /// Begins to download a version; the bytes, and how many there should be.
    pub(super) fn open(&self, release: &Release) -> Result<(impl Read + use<>, Option<u64>)> {
        let response = self.get(&release.address, "*/*")?;
        let announced = response.body().content_length();
        Ok((response.into_body().into_reader(), announced.or(release.size)))
    }

    fn get(&self, address: &Url, accept: &str) -> Result<ureq::http::Response<ureq::Body>> {
        let response = self.agent.get(address.as_str()).header("accept", accept).call();
        let response = response.map_err(|source| unreachable(address, source))?;
        let status = response.status().as_u16();
        if status == 200 { Ok(response) } else { Err(Error::Status { address: shown(address), status }) }
    }
}

fn unreachable(address: &Url, source: ureq::Error) -> Error {
    Error::Unreachable { address: shown(address), source: Box::new(source) }
}

/// The list of files as JSON.
#[derive(Deserialize)]
struct Listing {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    filename: String,
    url: String,
    hashes: HashMap<String, String>,
    size: Option<u64>,
    /// `false`, `true`, or the reason.
    #[serde(default)]
    yanked: Json,
}

fn from_json(text: &str, base: &Url) -> Result<Vec<Release>, serde_json::Error> {
    let listing: Listing = serde_json::from_str(text)?;
    let release = |file: File| {
        Some(Release {
            version: wheel_version(&file.filename)?,
            sha256: file.hashes.get("sha256").map(|digest| digest.to_ascii_lowercase()).unwrap_or_default(),
            size: file.size,
            address: base.join(&file.url).ok()?,
            withdrawn: !matches!(file.yanked, Json::Null | Json::Bool(false)),
        })
    };
    Ok(listing.files.into_iter().filter_map(release).collect())
}

/// The links of a page: each names a file, with its digest behind `#`.
fn from_html(text: &str, base: &Url) -> Vec<Release> {
    static LINK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"(?is)<a\s([^>]*?)href\s*=\s*["']([^"']+)["']([^>]*)>"#).ok());
    let Some(link) = LINK.as_ref() else { return Vec::new() };
    let release = |found: fancy_regex::Captures<'_, str>| {
        let part = |number| found.get(number).map_or("", |part| part.as_str());
        let mut address = base.join(&part(2).replace("&amp;", "&")).ok()?;
        let sha256 = address.fragment().and_then(|digest| digest.strip_prefix("sha256="));
        let sha256 = sha256.unwrap_or_default().to_ascii_lowercase();
        address.set_fragment(None);
        let name = percent_decode_str(address.path_segments()?.next_back()?).decode_utf8_lossy().into_owned();
        let withdrawn = part(1).contains("data-yanked") || part(3).contains("data-yanked");
        Some(Release { version: wheel_version(&name)?, sha256, size: None, address, withdrawn })
    };
    link.captures_iter(text).flatten().filter_map(release).collect()
}

/// The version in the name of a wheel of our package: `NAME-VERSION-py3-none-any.whl`.
fn wheel_version(file: &str) -> Option<String> {
    let mut parts = file.strip_suffix(".whl")?.split('-');
    let name = parts.next()?.replace(['_', '.'], "-");
    let version = parts.next()?;
    (name.eq_ignore_ascii_case(PACKAGE) && is_version(version)).then(|| version.to_owned())
}

/// Whether a text can be a version, and with that the name of a folder.
pub(super) fn is_version(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_digit())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || ".+!_".contains(letter))
}

/// Whether a version is more than a preview: digits only, perhaps with a `.post`.
fn is_final(version: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    version.split('.').all(|part| is_number(part.strip_prefix("post").unwrap_or(part)))
}

/// Orders versions by their numbers; previews come before what they precede.
pub(super) fn rank(version: &str) -> (Vec<u64>, bool, String) {
    let numbers = version.split('.').map_while(|part| part.strip_prefix("post").unwrap_or(part).parse().ok());
    (numbers.collect(), is_final(version), version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let mut versions = ["1.10.0", "1.9.3", "1.9.3.post1", "1.11.0.dev2", "1.2", "1.22.3a1", "1.22.3"];
        versions.sort_by_cached_key(|version| rank(version));
        assert_eq!(versions, ["1.2", "1.9.3", "1.9.3.post1", "1.10.0", "1.11.0.dev2", "1.22.3a1", "1.22.3"]);
        assert!(is_final("1.9.3.post1") && !is_final("1.22.3a1") && !is_final("1.11.0.dev2"));
    }

    #[test]
    fn versions_never_lead_to_another_folder() {
        for text in ["..", "../x", "/etc", "active", "", ".new-x", "1/2", "1\\2", "-rf"] {
            assert!(!is_version(text), "{text}");
        }
        assert_eq!("v1.2.3".parse::<Wanted>().ok(), Some(Wanted::Exactly("1.2.3".to_owned())));
    }

    #[test]
    fn pages_of_links_are_read_as_pip_reads_them() {
        let base = Url::parse("https://mirror.example/simple/comfyui-frontend-package/").unwrap();
        let page = r#"<html><body>
            <a href="../../files/comfyui_frontend_package-1.2.0-py3-none-any.whl#sha256=AB" >one</a>
            <A data-yanked="broken" HREF='https://cdn.example/x/comfyui_frontend_package-1.3.0-py3-none-any.whl?a=1&amp;b=2#sha256=cd'>two</A>
            <a href="comfyui_frontend_package-1.2.0.tar.gz#sha256=ef">source</a>
            <a href="other-1.0-py3-none-any.whl">other</a></body></html>"#;
        let releases = from_html(page, &base);
        let seen: Vec<_> = releases
            .iter()
            .map(|release| {
                (
                    release.version.as_str(),
                    release.address.as_str(),
                    release.sha256.as_str(),
                    release.withdrawn,
                )
            })
            .collect();
        let first = "https://mirror.example/files/comfyui_frontend_package-1.2.0-py3-none-any.whl";
        let second = "https://cdn.example/x/comfyui_frontend_package-1.3.0-py3-none-any.whl?a=1&b=2";
        assert_eq!(seen, [("1.2.0", first, "ab", false), ("1.3.0", second, "cd", true)]);
    }

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        let index = Index::new("https://me:secret@mirror.example/simple").unwrap();
        assert_eq!(index.address(), "https://mirror.example/simple/");
    }
}
