//! The last lines of the server's log, for clients that show them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value as Json, json};

use super::App;
use super::reply::{Result, done, json};
use super::request::Object;
use super::route::Route;

/// As many as ComfyUI keeps.
const KEPT: usize = 300;

/// The size of the terminal that the log is shown in; nothing here wraps lines.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/internal/logs", text).alone(),
        Route::get("/internal/logs/raw", raw).alone(),
        Route::patch("/internal/logs/subscribe", subscribe).alone(),
    ]
}

/// Keeps what is written to the log, line by line. `cli` writes to it beside stderr.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    lines: VecDeque<Line>,
    watch: Option<Watch>,
}

type Watch = Box<dyn Fn(&Json) + Send>;

struct Line {
    time: String,
    text: String,
}

impl Line {
    fn entry(&self) -> Json {
        json!({"t": self.time, "m": self.text})
    }
}

impl Logs {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `watch` with the websocket message of every line to come. It must not log.
    pub(super) fn watch(&self, watch: impl Fn(&Json) + Send + 'static) {
        self.kept().watch = Some(Box::new(watch));
    }

    fn entries(&self) -> Vec<Json> {
        self.kept().lines.iter().map(Line::entry).collect()
    }
}

fn message(entries: Vec<Json>) -> Json {
    json!({"entries": entries, "size": {"cols": COLUMNS, "rows": ROWS}})
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let time = jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
        let line = Line { time, text: String::from_utf8_lossy(bytes).into_owned() };
        let mut kept = self.kept();
        if let Some(watch) = &kept.watch {
            watch(&message(vec![line.entry()]));
        }
        if kept.lines.len() == KEPT {
            kept.lines.pop_front();
        }
        kept.lines.push_back(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn text(State(app): State<Arc<App>>) -> Response {
    let kept = app.logs.kept();
    let lines: Vec<_> = kept.lines.iter().map(|line| format!("{} - {}", line.time, line.text)).collect();
    json(&lines.concat().into())
}

async fn raw(State(app): State<Arc<App>>) -> Response {
    json(&message(app.logs.entries()))
}

async fn subscribe(State(app): State<Arc<App>>, Object(wish): Object) -> Result {
    let client = wish.get("clientId").and_then(Json::as_str).unwrap_or_default();
    app.hub.want_logs(client, wish.get("enabled").and_then(Json::as_bool).unwrap_or_default());
    Ok(done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut logs = Logs::default();
        for number in 0..KEPT + 5 {
            logs.write_all(format!("line {number}\n").as_bytes()).expect("written");
        }
        let lines = logs.entries();
        assert_eq!(lines.last().expect("a line")["m"], format!("line {}\n", KEPT + 4));
        assert!(lines.len() <= KEPT);
    }
}
