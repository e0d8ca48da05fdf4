//! `GET /view`: pictures and other files, as they are or re-encoded for the eye.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;

use super::App;
use super::files::{answer, harmless, inside, presentation};
use super::reply::{Error, Result, typed};
use super::request::Query;
use super::route::Route;
use crate::image::{Alpha, Frame, SAVE_LEVEL, Turn, open};
use crate::paths::{Kind, split_annotation, stays_below};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/view", view)]
}

/// A file a client named, and the name without its folders.
pub(super) struct Located {
    pub path: PathBuf,
    pub name: String,
}

/// A name without its annotation, and the folder that the annotation chose.
fn judged(name: &str) -> Result<(&str, Option<Kind>)> {
    let (name, kind) = split_annotation(name);
    if name.is_empty() || name.starts_with('/') || name.contains("..") {
        return Err(Error::empty(StatusCode::BAD_REQUEST));
    }
    Ok((name, kind))
}

/// The existing file behind `filename`, `type` and `subfolder`. Blocks on the disk.
///
/// `x.png [input]` names its own folder.
pub(super) fn locate(app: &App, name: &str, kind: Option<&str>, subfolder: Option<&str>) -> Result<Located> {
    let forbidden = || Error::empty(StatusCode::FORBIDDEN);
    let (name, annotated) = judged(name)?;
    let kind = annotated.or_else(|| Kind::from_word(kind.unwrap_or("output")));
    let kind = kind.ok_or_else(|| Error::empty(StatusCode::BAD_REQUEST))?;
    let below = inside(subfolder.unwrap_or_default()).ok_or_else(forbidden)?.join(name);
    let root = app.folders().of(kind);
    let path = root.join(&below);
    if !path.is_file() {
        return Err(Error::empty(StatusCode::NOT_FOUND));
    }
    if !stays_below(root, &below) {
        tracing::warn!(path = %path.display(), "refused to follow a link out of the {kind} folder");
        return Err(forbidden());
    }
    Ok(Located { path, name: name.rsplit('/').next().unwrap_or(name).to_owned() })
}

async fn view(State(app): State<Arc<App>>, query: Query, method: Method, headers: HeaderMap) -> Result {
    app.blocking(move |app| show(app, &query, &method, &headers)).await?
}

fn show(app: &App, query: &Query, method: &Method, headers: &HeaderMap) -> Result {
    let name = query.get("filename").ok_or_else(|| Error::empty(StatusCode::NOT_FOUND))?;
    judged(name)?;
    // Folders within the name are dropped here, as ComfyUI drops them.
    let name = name.rsplit('/').next().unwrap_or(name);
    let Located { path, name } = locate(app, name, query.get("type"), query.get("subfolder"))?;
    let presentation = presentation(&name, headers);
    let mut response = match Wanted::of(query) {
        None => answer(method, headers, &path, presentation.content_type)?,
        Some(wanted) => wanted.render(&path)?,
    };
    if let Some(value) = presentation.disposition {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    if presentation.varies {
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Sec-Fetch-Dest"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(harmless(response))
}

/// A picture in another form than its file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Webp {
        quality: u8,
        alpha: bool,
    },
    Jpeg {
        quality: u8,
    },
    /// Without the alpha channel, as PNG.
    Colour,
    /// Black with the alpha channel, as PNG.
    Alpha,
}

impl Wanted {
    /// `None` when the file itself is wanted.
    fn of(query: &Query) -> Option<Self> {
        let channel = query.get("channel").unwrap_or_default();
        if let Some(preview) = query.get("preview") {
            let quality = preview.rsplit(';').next().and_then(|last| last.parse().ok()).unwrap_or(90_u32);
            let quality = u8::try_from(quality.min(100)).unwrap_or(100);
            let jpeg = preview.split(';').next() == Some("jpeg") && !channel.contains('a');
            let webp = Self::Webp { quality, alpha: channel != "rgb" };
            return Some(if jpeg { Self::Jpeg { quality } } else { webp });
        }
        match channel {
            "rgb" => Some(Self::Colour),
            "a" => Some(Self::Alpha),
            _ => None,
        }
    }

    fn render(self, path: &Path) -> Result<Response> {
        let unreadable = |error: crate::image::Error| {
            Error::words(StatusCode::BAD_REQUEST, &format!("The file cannot be shown as a picture: {error}"))
        };
        let frame = open(path, Turn::AsStored).map_err(unreadable)?.into_iter().next();
        let Some(Frame { rgba, alpha }) = frame else { return Err(Error::empty(StatusCode::NOT_FOUND)) };
        let (bytes, kind) = match self {
            Self::Webp { quality, alpha: true } if alpha != Alpha::None => {
                (rgba.to_webp(quality), "image/webp")
            }
            Self::Webp { quality, .. } => (rgba.to_rgb().to_webp(quality), "image/webp"),
            Self::Jpeg { quality } => (rgba.to_jpeg(quality), "image/jpeg"),
            Self::Colour => (rgba.to_rgb().to_png(SAVE_LEVEL, &[]), "image/png"),
            // Only pixels with an alpha of their own count as transparent here.
            Self::Alpha if alpha == Alpha::Color => {
                (rgba.alpha_on_black().to_png(SAVE_LEVEL, &[]), "image/png")
            }
            Self::Alpha => (rgba.to_rgb().alpha_on_black().to_png(SAVE_LEVEL, &[]), "image/png"),
        };
        let bytes = bytes.map_err(unreadable)?;
        Ok(typed(StatusCode::OK, HeaderValue::from_static(kind), bytes.into()))
    }
}
