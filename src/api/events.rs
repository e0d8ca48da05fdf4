//! What runs tell, in ComfyUI's words: one match from [`Event`] to the wire.
//!
//! History shows the milestones in the same words, so it renders them here as well.

use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Map, Value as Json, json};

use crate::graph::{Event, Failure, NodeState, Phase, Preview, PreviewFormat};
use crate::queue::Notice;

/// A message before it is a frame.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// `{"type": .., "data": ..}`.
    Json(&'static str, Json),
    /// `progress`, and a picture whose frame depends on what the client understands.
    Step { data: Json, job: String, node: Arc<NodeState>, image: Preview },
    /// A node's note.
    Note { node: String, text: String },
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience<'a> {
    Everybody,
    Client(&'a str),
    Nobody,
}

/// A notice as a message, and who gets it.
///
/// Jobs without a client are told to everybody, but only in part: ComfyUI's rule, which clients that share a
/// server rely on.
pub(super) fn render(notice: Notice<'_>) -> (Audience<'_>, Message) {
    match notice {
        Notice::Remaining(count) => (Audience::Everybody, status(count)),
        Notice::Ended { job } => {
            let data = json!({"node": null, "prompt_id": job.id});
            (
                job.client.as_deref().map_or(Audience::Nobody, Audience::Client),
                Message::Json("executing", data),
            )
        }
        Notice::Run { job, at_ms, event } => {
            let shared = matches!(
                event,
                Event::State(_) | Event::Progress { .. } | Event::Text { .. } | Event::Interrupted { .. }
            );
            let everybody = if shared { Audience::Everybody } else { Audience::Nobody };
            let audience = job.client.as_deref().map_or(everybody, Audience::Client);
            (audience, message(&job.id, at_ms, event))
        }
    }
}

/// The number of jobs left.
pub(super) fn status(remaining: usize) -> Message {
    Message::Json("status", json!({"status": queue_info(remaining)}))
}

/// `GET /prompt` gives the same.
pub(super) fn queue_info(remaining: usize) -> Json {
    json!({"exec_info": {"queue_remaining": remaining}})
}

/// One event of a run.
pub(super) fn message(job: &str, at_ms: u64, event: &Event) -> Message {
    let timed = |mut data: Json| {
        data["prompt_id"] = job.into();
        data["timestamp"] = at_ms.into();
        data
    };
    let (kind, data) = match event {
        Event::Started => ("execution_start", timed(json!({}))),
        Event::Cached { nodes } => ("execution_cached", timed(json!({"nodes": nodes}))),
        Event::State(nodes) => {
            let nodes: Map<_, _> = nodes.iter().map(|node| (node.node.clone(), state(job, node))).collect();
            ("progress_state", json!({"prompt_id": job, "nodes": nodes}))
        }
        Event::Executing { node, display } => {
            ("executing", json!({"node": node, "display_node": display, "prompt_id": job}))
        }
        Event::Progress { node, preview } => {
            let data = json!({"value": node.value, "max": node.max, "prompt_id": job, "node": node.node});
            let Some(image) = preview else { return Message::Json("progress", data) };
            return Message::Step { data, job: job.to_owned(), node: node.clone(), image: image.clone() };
        }
        Event::Text { node, text } => return Message::Note { node: node.clone(), text: text.clone() },
        Event::Executed { node, display, output } => {
            ("executed", json!({"node": node, "display_node": display, "output": output, "prompt_id": job}))
        }
        Event::Succeeded => ("execution_success", timed(json!({}))),
        Event::Interrupted { node, class, executed } => (
            "execution_interrupted",
            timed(json!({"node_id": node, "node_type": class, "executed": executed})),
        ),
        Event::Failed(failure) => ("execution_error", timed(failed(failure))),
    };
    Message::Json(kind, data)
}

/// `[type, data]`, as history shows a milestone.
pub(super) fn milestone(job: &str, at_ms: u64, event: &Event) -> Option<Json> {
    match message(job, at_ms, event) {
        Message::Json(kind, data) => Some(json!([kind, data])),
        Message::Step { .. } | Message::Note { .. } => None,
    }
}

fn failed(failure: &Failure) -> Json {
    json!({
        "node_id": failure.node,
        "node_type": failure.class,
        "executed": failure.executed,
        "exception_message": failure.message,
        "exception_type": failure.kind,
        "traceback": failure.causes,
        "current_inputs": failure.inputs,
        "current_outputs": failure.known,
    })
}

/// Names of one node, as progress and previews carry them.
fn names(job: &str, node: &NodeState) -> Map<String, Json> {
    [
        ("node_id", Json::from(node.node.as_str())),
        ("prompt_id", job.into()),
        ("display_node_id", node.display.as_str().into()),
        ("parent_node_id", node.parent.as_deref().into()),
        ("real_node_id", node.real.as_str().into()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn state(job: &str, node: &NodeState) -> Json {
    let phase = match node.phase {
        Phase::Running => "running",
        Phase::Finished => "finished",
        Phase::Error => "error",
    };
    let mut state = json!({"value": node.value, "max": node.max, "state": phase});
    if let Some(state) = state.as_object_mut() {
        state.extend(names(job, node));
    }
    state
}

/// The first number of a binary frame.
const PREVIEW: u32 = 1;
const NOTE: u32 = 3;
const PREVIEW_WITH_METADATA: u32 = 4;

/// A preview for clients that know nothing but the picture.
pub(super) fn plain_preview(image: &Preview) -> Bytes {
    let format: u32 = match image.format {
        PreviewFormat::Jpeg => 1,
        PreviewFormat::Png => 2,
    };
    [PREVIEW.to_be_bytes().as_slice(), &format.to_be_bytes(), &image.bytes].concat().into()
}

/// A preview for clients that said they understand `supports_preview_metadata`.
pub(super) fn preview_with_metadata(job: &str, node: &NodeState, image: &Preview) -> Bytes {
    let mut about = names(job, node);
    let format = match image.format {
        PreviewFormat::Jpeg => "image/jpeg",
        PreviewFormat::Png => "image/png",
    };
    about.insert("image_type".to_owned(), format.into());
    let about = crate::python_json::write(&about.into());
    let length = u32::try_from(about.len()).unwrap_or(u32::MAX);
    let head = [PREVIEW_WITH_METADATA.to_be_bytes(), length.to_be_bytes()].concat();
    [head.as_slice(), about.as_bytes(), &image.bytes].concat().into()
}

pub(super) fn note(node: &str, text: &str) -> Bytes {
    let length = u32::try_from(node.len()).unwrap_or(u32::MAX);
    let head = [NOTE.to_be_bytes(), length.to_be_bytes()].concat();
    [head.as_slice(), node.as_bytes(), text.as_bytes()].concat().into()
}
