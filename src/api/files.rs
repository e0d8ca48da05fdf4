//! Files that clients name: where they may lie, and how they are sent, with ranges and validators.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::{Bound, Range as Span};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use headers::{
    AcceptRanges, ContentLength, ContentRange, ETag, HeaderMapExt as _, IfMatch, IfModifiedSince,
    IfNoneMatch, IfRange, IfUnmodifiedSince, LastModified, Range,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::reply::{Error, Result};
use crate::paths::normalise;

pub(super) const BINARY: &str = "application/octet-stream";

/// Files up to this size are read at once, larger ones while they are sent.
const AT_ONCE: u64 = 1 << 20;

/// How much of a larger file is read at a time.
const CHUNK: usize = 1 << 18;

/// A relative path of a client's making with `.` and `..` resolved; `None` where it leads outside.
///
/// Forms that lead outside on Windows alone are refused everywhere: folders travel between systems.
pub(super) fn inside(name: &str) -> Option<PathBuf> {
    let as_windows = name.replace('\\', "/");
    let has_drive = matches!(as_windows.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if has_drive || normalise(Path::new(&as_windows)).is_none() {
        return None;
    }
    normalise(Path::new(name))
}

/// A file as the whole answer, or the part of it that the request asks for. Blocks on the disk.
///
/// Sends `ETag` and `Last-Modified`; honours `Range` (one span), `If-Range` and the four preconditions in the
/// order of RFC 9110, section 13.2.2.
pub(super) fn answer(
    method: &Method,
    headers: &HeaderMap,
    path: &Path,
    content_type: &str,
) -> Result<Response> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
            Error::empty(StatusCode::NOT_FOUND)
        }
        _ => Error::internal("reading a file", &error),
    };
    // Opening what is no file, as a pipe, may wait for ever.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(Error::empty(StatusCode::NOT_FOUND));
    }
    let file = File::open(path).map_err(failed)?;
    let state = State::of(&file.metadata().map_err(failed)?);
    let verdict = judge(headers, &state);
    let mut response = Response::new(Body::empty());
    state.describe(response.headers_mut());
    match verdict {
        Verdict::Whole => fill(&mut response, method, file, 0..state.length).map_err(failed)?,
        Verdict::Part(span) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if let Ok(range) = ContentRange::bytes(span.clone(), state.length) {
                response.headers_mut().typed_insert(range);
            }
            fill(&mut response, method, file, span).map_err(failed)?;
        }
        Verdict::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().typed_insert(ContentRange::unsatisfied_bytes(state.length));
        }
        Verdict::Known => *response.status_mut() = StatusCode::NOT_MODIFIED,
        Verdict::Changed => *response.status_mut() = StatusCode::PRECONDITION_FAILED,
    }
    if response.status().is_success()
        && let Ok(content_type) = HeaderValue::from_str(content_type)
    {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

/// Puts a span of the file into an answer.
fn fill(response: &mut Response, method: &Method, mut file: File, span: Span<u64>) -> io::Result<()> {
    let length = span.end - span.start;
    response.headers_mut().typed_insert(ContentLength(length));
    if *method == Method::HEAD {
        return Ok(());
    }
    if span.start > 0 {
        file.seek(SeekFrom::Start(span.start))?;
    }
    *response.body_mut() = if length <= AT_ONCE {
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes)?;
        bytes.into()
    } else {
        let rest = tokio::fs::File::from_std(file).take(length);
        Body::from_stream(ReaderStream::with_capacity(rest, CHUNK))
    };
    Ok(())
}

/// What tells two states of a file apart.
struct State {
    tag: Option<ETag>,
    changed: Option<SystemTime>,
    length: u64,
}

impl State {
    fn of(about: &Metadata) -> Self {
        let (changed, length) = (about.modified().ok(), about.len());
        let since = changed.and_then(|changed| changed.duration_since(SystemTime::UNIX_EPOCH).ok());
        let tag = since.and_then(|since| format!("\"{:x}-{length:x}\"", since.as_nanos()).parse().ok());
        Self { tag, changed, length }
    }

    fn describe(&self, headers: &mut HeaderMap) {
        headers.typed_insert(AcceptRanges::bytes());
        if let Some(tag) = &self.tag {
            headers.typed_insert(tag.clone());
        }
        if let Some(changed) = self.changed {
            headers.typed_insert(LastModified::from(changed));
        }
    }
}

/// What a request's conditions make of a file.
#[derive(Debug, PartialEq)]
enum Verdict {
    Whole,
    Part(Span<u64>),
    Unsatisfiable,
    /// The client has this state already.
    Known,
    /// The client expects another state.
    Changed,
}

fn judge(headers: &HeaderMap, state: &State) -> Verdict {
    let State { tag, changed, .. } = state;
    let matches = headers.typed_get::<IfMatch>();
    let is_other = match (matches, headers.typed_get::<IfUnmodifiedSince>()) {
        (Some(wanted), _) => !tag.as_ref().is_some_and(|tag| wanted.precondition_passes(tag)),
        (None, Some(since)) => !changed.is_some_and(|changed| since.precondition_passes(changed)),
        (None, None) => false,
    };
    if is_other {
        return Verdict::Changed;
    }
    let none_matches = headers.typed_get::<IfNoneMatch>();
    let is_known = match (none_matches, headers.typed_get::<IfModifiedSince>()) {
        (Some(known), _) => tag.as_ref().is_some_and(|tag| !known.precondition_passes(tag)),
        (None, Some(since)) => changed.is_some_and(|changed| !since.is_modified(changed)),
        (None, None) => false,
    };
    if is_known {
        return Verdict::Known;
    }
    let last_modified = changed.map(LastModified::from);
    let is_stale = headers
        .typed_get::<IfRange>()
        .is_some_and(|known| known.is_modified(tag.as_ref(), last_modified.as_ref()));
    match headers.typed_get::<Range>() {
        Some(range) if !is_stale => span(&range, state.length),
        _ => Verdict::Whole,
    }
}

/// The part that a range asks for. Several spans at once are refused, as by ComfyUI.
fn span(range: &Range, length: u64) -> Verdict {
    let mut spans = range.satisfiable_ranges(length).map(|(start, end)| {
        let start = match start {
            Bound::Included(start) => start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match end {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => end,
            Bound::Unbounded => length,
        };
        start..end.min(length)
    });
    match (spans.next(), spans.next()) {
        (Some(span), None) if span.start < span.end => Verdict::Part(span),
        _ => Verdict::Unsatisfiable,
    }
}

/// The content type by a name's suffix; unknown ones are binary.
pub(super) fn content_type(name: &str) -> &'static str {
    mime_guess::from_path(name).first_raw().unwrap_or(BINARY)
}

/// How a browser may be told to treat a file of unknown origin.
#[derive(Debug, PartialEq)]
pub(super) struct Presentation {
    pub content_type: &'static str,
    pub disposition: Option<HeaderValue>,
    /// Whether it depends on what the browser wants the file for.
    pub varies: bool,
}

/// What a browser says it wants a file for. It says so to sites it trusts only: those on this machine, or
/// behind TLS.
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Files that can carry script are downloads, so that they never run with the rights of this site.
///
/// Drawings in SVG are shown where an `<img>` asks for them, which runs no script. ComfyUI 0.3.64 sends pages
/// and scripts as binary without calling them attachments; clients that are no browsers see just that.
pub(super) fn presentation(name: &str, headers: &HeaderMap) -> Presentation {
    let content_type = content_type(name);
    if !is_active(content_type) {
        return Presentation { content_type, disposition: disposition(name, false), varies: false };
    }
    let destination = headers.get(SEC_FETCH_DEST).map(HeaderValue::as_bytes);
    let once_shown = !LONG_DOWNLOADS.contains(&content_type);
    if content_type == "image/svg+xml" && destination == Some(b"image") {
        return Presentation { content_type, disposition: disposition(name, false), varies: true };
    }
    let attached = once_shown || destination.is_some();
    Presentation { content_type: BINARY, disposition: disposition(name, attached), varies: once_shown }
}

/// The types that ComfyUI 0.3.64 turns into downloads.
const LONG_DOWNLOADS: [&str; 5] =
    ["text/html", "application/xhtml+xml", "text/javascript", "application/javascript", "text/css"];

/// Whether a type can carry script that would run with the rights of this site.
fn is_active(content_type: &str) -> bool {
    LONG_DOWNLOADS.contains(&content_type)
        || content_type.ends_with("/xml")
        || content_type.ends_with("+xml")
        || ["text/xsl", "message/rfc822", "multipart/related"].contains(&content_type)
}

/// `filename="NAME"`, the name as raw UTF-8 as ComfyUI sends it.
fn disposition(name: &str, attached: bool) -> Option<HeaderValue> {
    let mut quoted = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            // A header cannot carry them.
            letter if letter.is_control() => quoted.push('_'),
            letter => quoted.push(letter),
        }
    }
    let kind = if attached { "attachment; " } else { "" };
    HeaderValue::from_bytes(format!("{kind}filename=\"{quoted}\"").as_bytes()).ok()
}

/// Keeps a file of unknown origin from running script with the rights of this site when it is opened as a page.
pub(super) fn harmless(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

#[cfg(test)]
mod tests {
    use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};

    use super::*;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn conditions_are_asked_in_the_order_of_the_standard() {
        let changed = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(784_111_777_900);
        let state = State { tag: "\"a\"".parse().ok(), changed: Some(changed), length: 10 };
        for (given, verdict) in [
            (headers(&[]), Verdict::Whole),
            (headers(&[(IF_NONE_MATCH, "\"x\", W/\"a\"")]), Verdict::Known),
            (headers(&[(IF_NONE_MATCH, "*")]), Verdict::Known),
            (headers(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, THEN)]), Verdict::Whole),
            (headers(&[(IF_MODIFIED_SINCE, THEN)]), Verdict::Known),
            (headers(&[(IF_MODIFIED_SINCE, BEFORE)]), Verdict::Whole),
            (headers(&[(IF_MATCH, "\"x\"")]), Verdict::Changed),
            (headers(&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, BEFORE)]), Verdict::Whole),
            (headers(&[(IF_UNMODIFIED_SINCE, BEFORE)]), Verdict::Changed),
            (headers(&[(RANGE, "bytes=2-4")]), Verdict::Part(2..5)),
            (headers(&[(RANGE, "bytes=8-99")]), Verdict::Part(8..10)),
            (headers(&[(RANGE, "bytes=-3")]), Verdict::Part(7..10)),
            (headers(&[(RANGE, "bytes=4-")]), Verdict::Part(4..10)),
            (headers(&[(RANGE, "bytes=10-")]), Verdict::Unsatisfiable),
            (headers(&[(RANGE, "bytes=0-1,4-5")]), Verdict::Unsatisfiable),
            (headers(&[(RANGE, "lines=0-1")]), Verdict::Whole),
            (headers(&[(RANGE, "bytes=2-4"), (IF_RANGE, "\"a\"")]), Verdict::Part(2..5)),
            (headers(&[(RANGE, "bytes=2-4"), (IF_RANGE, "\"x\"")]), Verdict::Whole),
            (headers(&[(RANGE, "bytes=2-4"), (IF_RANGE, BEFORE)]), Verdict::Whole),
            (headers(&[(RANGE, "bytes=2-4"), (IF_NONE_MATCH, "\"a\"")]), Verdict::Known),
        ] {
            assert_eq!(judge(&given, &state), verdict, "{given:?}");
        }
        let empty = State { length: 0, ..state };
        assert_eq!(judge(&headers(&[(RANGE, "bytes=0-")]), &empty), Verdict::Unsatisfiable);
    }

    #[test]
    fn what_can_carry_script_is_a_download() {
        let shown = |name: &str, destination: Option<&'static str>| {
            let given = destination.map(|word| (SEC_FETCH_DEST, HeaderValue::from_static(word)));
            let found = presentation(name, &given.into_iter().collect());
            let disposition = found.disposition.expect("a header");
            (found.content_type, String::from_utf8_lossy(disposition.as_bytes()).into_owned())
        };
        let attached = |name: &str| (BINARY, format!("attachment; filename=\"{name}\""));
        let plain = |kind, name: &str| (kind, format!("filename=\"{name}\""));
        assert_eq!(shown("a.png", Some("document")), plain("image/png", "a.png"));
        assert_eq!(shown("a.svg", None), attached("a.svg"));
        assert_eq!(shown("a.svg", Some("image")), plain("image/svg+xml", "a.svg"));
        assert_eq!(shown("a.svg", Some("document")), attached("a.svg"));
        for name in ["a.xml", "a.rdf", "a.xsl", "a.atom", "a.mht"] {
            assert_eq!(shown(name, Some("image")), attached(name));
        }
        for name in ["a.html", "a.HTM", "a.xhtml", "a.js", "a.css"] {
            assert_eq!(shown(name, None), plain(BINARY, name));
            assert_eq!(shown(name, Some("document")), attached(name));
        }
        assert_eq!(shown("q\"\\\r\n.png", None), plain("image/png", "q\\\"\\\\__.png"));
    }

    #[test]
    fn names_lead_nowhere_outside_in_the_forms_of_any_system() {
        for name in ["..", "a/../../b", "/etc", "..\\x", "a\\..\\..\\x", "\\\\host\\share", "C:\\x", "c:x"] {
            assert_eq!(inside(name), None, "{name}");
        }
        assert_eq!(inside("a/./b/../c"), Some(PathBuf::from("a/c")));
        assert_eq!(inside("a\\b"), Some(PathBuf::from("a\\b")));
    }
}
