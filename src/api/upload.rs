//! Files that clients bring: pictures and masks, as multipart forms.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use futures_util::StreamExt as _;
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt as _;

use super::App;
use super::files::inside;
use super::reply::{Error, Result, json};
use super::route::Route;
use super::store::{self, Partial};
use super::view::locate;
use crate::image::{Turn, open, text_chunks};
use crate::paths::{Kind, stays_below};
use crate::python_json;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::post("/upload/image", image), Route::post("/upload/mask", mask)]
}

async fn image(State(app): State<Arc<App>>, request: Request) -> Result {
    let form = read_form(&app, request).await?;
    app.blocking(move |app| settle(app, form)).await?
}

/// Stores the picture that `original_ref` names with the alpha of the uploaded one; editors draw masks so.
///
/// ComfyUI answers 200 and stores nothing when the reference cannot be used. Here that is a 400.
async fn mask(State(app): State<Arc<App>>, request: Request) -> Result {
    let mut form = read_form(&app, request).await?;
    app.blocking(move |app| {
        let masked = apply_mask(app, &form)?;
        form.content = Some(masked);
        settle(app, form)
    })
    .await?
}

fn bad(sentence: &str) -> Error {
    Error::words(StatusCode::BAD_REQUEST, sentence)
}

/// An upload form: the fields in whatever order they came, the file on disk.
struct Form {
    fields: BTreeMap<String, String>,
    name: String,
    file: Partial,
    /// What to store in place of the file's own bytes.
    content: Option<Partial>,
}

/// The fields that say something about the file. Others are passed over, however many there are.
const FIELDS: [&str; 4] = ["overwrite", "type", "subfolder", "original_ref"];

/// Streams the form to disk. Without a file in `image`: 400.
async fn read_form(app: &Arc<App>, request: Request) -> Result<Form> {
    let mut form = multipart(app, request).await?;
    let mut fields = BTreeMap::new();
    let mut file = None;
    while let Some(field) = form.next_field().await.map_err(|error| broken(app, &error))? {
        let key = field.name().unwrap_or_default().to_owned();
        match (key.as_str(), file_name(&field)) {
            ("image", Some(name)) if file.is_none() => file = Some((name, receive(app, field).await?)),
            (known, None) if FIELDS.contains(&known) => {
                let text = field.text().await.map_err(|error| broken(app, &error))?;
                fields.entry(key).or_insert(text);
            }
            _ => {}
        }
    }
    match file {
        Some((name, file)) if !name.is_empty() => Ok(Form { fields, name, file, content: None }),
        _ => Err(Error::empty(StatusCode::BAD_REQUEST)),
    }
}

fn broken(app: &App, error: &MultipartError) -> Error {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::too_large(app.settings.max_upload_bytes),
        _ => bad(&format!("The form cannot be read: {}", error.body_text())),
    }
}

/// The form in a body, even if the client called it something else: the boundary is then taken from the
/// body's first line. Some clients put `application/json` on every request.
async fn multipart(app: &Arc<App>, request: Request) -> Result<Multipart> {
    let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let request = if declared.is_some_and(|kind| kind.contains("multipart/") && kind.contains("boundary=")) {
        request
    } else {
        let (mut parts, body) = request.into_parts();
        let mut body = body.into_data_stream();
        let first = body.next().await.and_then(std::result::Result::ok).unwrap_or_default();
        let boundary = first.strip_prefix(b"--").and_then(|rest| rest.split(|byte| *byte == b'\r').next());
        let kind = boundary.and_then(|boundary| {
            HeaderValue::from_bytes(&[b"multipart/form-data; boundary=", boundary].concat()).ok()
        });
        let kind = kind.ok_or_else(|| Error::empty(StatusCode::BAD_REQUEST))?;
        parts.headers.insert(header::CONTENT_TYPE, kind);
        let whole = futures_util::stream::once(std::future::ready(Ok(first))).chain(body);
        Request::from_parts(parts, Body::from_stream(whole))
    };
    Multipart::from_request(request, app).await.map_err(|rejection| bad(&rejection.body_text()))
}

/// The name a part gives its file, in either of HTTP's spellings.
fn file_name(field: &Field<'_>) -> Option<String> {
    encoded_name(field.headers()).or_else(|| field.file_name().map(str::to_owned))
}

/// `filename*=UTF-8''NAME`, percent-encoded.
fn encoded_name(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_DISPOSITION)?.to_str().ok()?;
    let (_, value) = text.split_once("filename*=")?;
    let (_, encoded) = value.split(';').next()?.trim().trim_matches('"').split_once("''")?;
    Some(percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

async fn receive(app: &Arc<App>, mut field: Field<'_>) -> Result<Partial> {
    let failed = |error: io::Error| Error::internal("storing an upload", &error);
    let partial = Partial::new(&app.folders().temp).map_err(failed)?;
    let mut file = tokio::fs::File::options().write(true).open(partial.path()).await.map_err(failed)?;
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(app, &error))? {
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(partial)
}

/// Gives an upload its place and name, and tells both.
fn settle(app: &App, form: Form) -> Result {
    let kind = match form.fields.get("type").map(String::as_str) {
        None | Some("") => Kind::Input,
        Some(word) => {
            Kind::from_word(word).ok_or_else(|| bad("`type` is none of input, output and temp."))?
        }
    };
    let subfolder = form.fields.get("subfolder").cloned().unwrap_or_default();
    let overwrite = matches!(form.fields.get("overwrite").map(String::as_str), Some("true" | "1"));
    let root = app.folders().of(kind).to_owned();
    let place = |name: &str| {
        // An absolute name counts for itself, as when Python joins paths, and leads outside.
        let alone = subfolder.is_empty() || name.starts_with('/');
        let below = inside(&if alone { name.to_owned() } else { format!("{subfolder}/{name}") });
        let below = below.filter(|path| path.file_name().is_some() && stays_below(&root, path));
        below.map(|path| root.join(path)).ok_or_else(|| Error::empty(StatusCode::BAD_REQUEST))
    };
    // Two uploads of one name must not find the same free name.
    let _one_at_a_time = app.exclusive();
    let (name, path, there) = free_name(&form, overwrite, place)?;
    if !there {
        let content = form.content.unwrap_or(form.file);
        path.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| content.keep(&path))
            .map_err(|error| store::refusal("storing an upload", &error))?;
    }
    Ok(json(&json!({"name": name, "subfolder": subfolder, "type": kind.word()})))
}

/// The first name that is free or holds the same bytes already (`true`): `a.png`, `a (1).png`, ...
fn free_name(
    form: &Form,
    overwrite: bool,
    place: impl Fn(&str) -> Result<PathBuf>,
) -> Result<(String, PathBuf, bool)> {
    let (stem, suffix) = split_suffix(&form.name);
    let mut name = form.name.clone();
    for count in 1.. {
        let path = place(&name)?;
        if overwrite || !path.exists() {
            return Ok((name, path, false));
        }
        if same_bytes(form.file.path(), &path).unwrap_or(false) {
            return Ok((name, path, true));
        }
        name = format!("{stem} ({count}){suffix}");
    }
    unreachable!("a folder does not hold every number")
}

/// `a.tar.gz` -> `a.tar`, `.gz`; dots at the start of a name begin no suffix.
fn split_suffix(name: &str) -> (&str, &str) {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dots = name[start..].len() - name[start..].trim_start_matches('.').len();
    match name[start + dots..].rfind('.') {
        Some(dot) => name.split_at(start + dots + dot),
        None => (name, ""),
    }
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (std::fs::File::open(one)?, std::fs::File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

fn apply_mask(app: &App, form: &Form) -> Result<Partial> {
    let reference =
        form.fields.get("original_ref").ok_or_else(|| bad("The field `original_ref` is missing."))?;
    let reference = python_json::read(reference.as_bytes())
        .map_err(|error| bad(&format!("The field `original_ref`: {error}")))?;
    let word = |key| reference.get(key).and_then(Json::as_str);
    let name = word("filename").ok_or_else(|| bad("`original_ref` has no `filename`."))?;
    let original = locate(app, name, word("type"), word("subfolder"))?;
    if !Path::new(&form.name).extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("png")) {
        return Err(bad("A masked picture is stored as PNG; its name must end in .png."));
    }
    let read = |path: &Path| -> Result<_> {
        let frames = open(path, Turn::AsStored).map_err(|error| bad(&error.to_string()))?;
        frames.into_iter().next().ok_or_else(|| bad("The file holds no picture."))
    };
    let unusable = |error: crate::image::Error| bad(&error.to_string());
    let texts = std::fs::read(&original.path).map(|bytes| text_chunks(&bytes)).unwrap_or_default();
    let masked = read(&original.path)?.rgba.with_alpha_of(&read(form.file.path())?.rgba);
    let png = masked.and_then(|picture| picture.to_png(4, &texts)).map_err(unusable)?;
    let failed = |error: io::Error| Error::internal("storing an upload", &error);
    let partial = Partial::new(&app.folders().temp).map_err(failed)?;
    std::fs::write(partial.path(), png).map_err(failed)?;
    Ok(partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_python_splits_them() {
        for (name, stem, suffix) in [
            ("a.png", "a", ".png"),
            ("a.tar.gz", "a.tar", ".gz"),
            (".hidden", ".hidden", ""),
            ("plain", "plain", ""),
            ("x.y/plain", "x.y/plain", ""),
        ] {
            assert_eq!(split_suffix(name), (stem, suffix));
        }
    }

    #[test]
    fn both_spellings_of_a_file_name_are_read() {
        let header =
            |text| HeaderMap::from_iter([(header::CONTENT_DISPOSITION, HeaderValue::from_static(text))]);
        let encoded = header("form-data; name=\"image\"; filename*=utf-8''%C3%BCn%C3%AF.png");
        assert_eq!(encoded_name(&encoded).as_deref(), Some("ünï.png"));
        assert_eq!(encoded_name(&header("form-data; name=\"image\"; filename=\"a.png\"")), None);
    }
}
