//! `GET /experiment/models/preview/...`: the picture that lies beside a model file, or inside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path as Part, State};
use axum::http::{HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::App;
use super::files::inside;
use super::models::read_notes;
use super::reply::{Error, Result, typed};
use super::route::Route;
use crate::image::{Alpha, Frame, Turn, decode, open};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/experiment/models/preview/{folder}/{index}/{*file}", preview)]
}

/// The quality ComfyUI's encoder takes when nobody names one.
const QUALITY: u8 = 80;

/// Trainers keep covers in the header, so it may be larger than other notes.
const LARGEST_HEADER: u64 = 8 << 20;

async fn preview(
    State(app): State<Arc<App>>,
    Part((folder, index, file)): Part<(String, String, String)>,
) -> Result {
    let found = app.blocking(move |app| {
        let root = app.folders().model_folders(&folder).into_iter().nth(index.parse().ok()?)?;
        let model = root.join(inside(&file)?);
        webp(beside(&model).or_else(|| within(&model))?)
    });
    let webp = found.await?.ok_or_else(|| Error::empty(StatusCode::NOT_FOUND))?;
    Ok(typed(StatusCode::OK, HeaderValue::from_static("image/webp"), Body::from(webp)))
}

fn webp(frame: Frame) -> Option<Vec<u8>> {
    let picture = if frame.alpha == Alpha::None { frame.rgba.to_rgb() } else { frame.rgba };
    picture.to_webp(QUALITY).ok()
}

/// `model.png` or `model.preview.png`, whatever kind of picture it is.
fn beside(model: &Path) -> Option<Frame> {
    let stem = model.file_stem()?.to_str()?;
    let is_picture = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((own, _)) = name.rsplit_once('.') else { return false };
        let kind = mime_guess::from_path(path).first_raw().unwrap_or_default();
        kind.starts_with("image/") && (own == stem || own.strip_suffix(".preview") == Some(stem))
    };
    let entries = std::fs::read_dir(model.parent()?).ok()?;
    let mut pictures: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_picture).collect();
    pictures.sort_unstable();
    pictures.iter().find_map(|path| open(path, Turn::AsStored).ok()?.into_iter().next())
}

/// The first cover among the notes of a safetensors file.
fn within(model: &Path) -> Option<Frame> {
    let notes = read_notes(&model.with_extension("safetensors"), LARGEST_HEADER)?;
    let covers: Json = serde_json::from_str(notes.get("ssmd_cover_images")?.as_str()?).ok()?;
    let cover = STANDARD.decode(covers.get(0)?.as_str()?).ok()?;
    decode(&cover, "cover", Turn::AsStored).ok()?.into_iter().next()
}
