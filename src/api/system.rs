//! What the server says about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value as Json, json};

use super::App;
use super::reply::{json, written};
use super::route::Route;
use crate::device::ops::Unit;
use crate::nodes::Arithmetic;
use crate::{device, frontend, python_json};

/// The version whose API this server speaks. Clients compare it.
const COMFYUI_VERSION: &str = "0.3.64";

/// The workflow templates that belong to that version; none are shipped.
const TEMPLATES_VERSION: &str = "0.1.95";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/system_stats", system_stats),
        Route::get("/features", show_features),
        Route::get("/i18n", nothing),
        Route::get("/workflow_templates", nothing),
        Route::get("/global_subgraphs", nothing),
        Route::get("/node_replacements", nothing),
    ]
}

/// Objects that only custom nodes would fill. Newer web interfaces ask for the last two.
async fn nothing() -> Response {
    json(&json!({}))
}

async fn show_features(State(app): State<Arc<App>>) -> Response {
    json(&features(&app))
}

/// What the server can do, for clients that ask over HTTP or the websocket.
pub(super) fn features(app: &App) -> Json {
    json!({"supports_preview_metadata": true, "max_upload_size": app.settings.max_upload_bytes})
}

/// How old the figures may be. Reading them takes longer than everything else about the answer.
const FRESH: Duration = Duration::from_millis(100);

/// The figures as they were written last, and when.
#[derive(Default)]
pub(super) struct Figures(Mutex<Option<(Instant, Bytes)>>);

impl Figures {
    fn now(&self, app: &App) -> Bytes {
        // The lock is held while reading, so that of many who ask at once only one reads.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, bytes)) = &*last
            && read.elapsed() < FRESH
        {
            return bytes.clone();
        }
        let bytes = Bytes::from(python_json::write(&figures(app)));
        *last = Some((Instant::now(), bytes.clone()));
        bytes
    }
}

async fn system_stats(State(app): State<Arc<App>>) -> Response {
    written(app.figures.now(&app))
}

fn figures(app: &App) -> Json {
    let memory = device::memory();
    let devices: Json = device::all()
        .iter()
        .enumerate()
        .map(|(index, device)| {
            // ComfyUI's torch has a pool of its own; here every free byte is free to all.
            json!({
                "name": device.name, "type": device.kind, "index": index,
                "vram_total": device.memory.total, "vram_free": device.memory.free,
                "torch_vram_total": device.memory.total, "torch_vram_free": device.memory.free,
            })
        })
        .collect();
    let mut figures = json!({
        "system": {
            "os": if cfg!(windows) { "nt" } else { "posix" },
            "ram_total": memory.total,
            "ram_free": memory.free,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": frontend::VERSION,
            "installed_templates_version": TEMPLATES_VERSION,
            "required_templates_version": TEMPLATES_VERSION,
            "python_version": concat!("none (comfyd ", env!("CARGO_PKG_VERSION"), ")"),
            "pytorch_version": concat!("none (comfyd ", env!("CARGO_PKG_VERSION"), ")"),
            "embedded_python": false,
            "argv": app.settings.argv,
        },
        "devices": devices,
    });
    // Not ComfyUI's, so only where this server was asked to compute otherwise than ComfyUI does.
    if app.services.arithmetic != Arithmetic::default() {
        figures["comfyd"] = json!({
            "arithmetic": app.services.arithmetic.words().into_iter().collect::<BTreeMap<_, _>>(),
            "bf16_unit": Unit::all().first().map(|unit| unit.word()),
            "int8_on_card": app.services.card.is_some() && app.services.arithmetic.eight_bits_on_card,
        });
    }
    figures
}
