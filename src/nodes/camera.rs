//! Where a camera stands, in numbers and in the words that networks were taught for it. Came after ComfyUI 0.3.64.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::Services;
use crate::graph::{AnyNode, Card, Node, Result, Run, Socket, float, int, socket, text};
use crate::image::Image;
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[&CameraAngle];

/// How far from the middle of the scene it stands, and how wide it sees, in degrees.
const DISTANCE: f64 = 6.0;
const FIELD_OF_VIEW: f64 = 35.0;
/// What `zoom`, 0 to [`CLOSEST`], enlarges by.
const ENLARGES: [f64; 2] = [1.0, 1.875];
const CLOSEST: f64 = 10.0;

/// Around the subject, an eighth of a turn each.
const SIDES: [&str; 8] = [
    "front view",
    "front-right quarter view",
    "right side view",
    "back-right quarter view",
    "back view",
    "back-left quarter view",
    "left side view",
    "front-left quarter view",
];

/// A camera as the editor's scenes have it.
struct Camera(Json);

impl Socket for Camera {
    const NAME: &'static str = "LOAD3D_CAMERA";
    fn describe(&self) -> Json {
        self.0.clone()
    }
}

struct CameraAngle;

inputs! {
    #[expect(dead_code, reason = "the editor shows the picture and keeps its view")]
    struct CameraAngleIn {
        horizontal_angle: i64 = int(0).range(0, 360).step(1)
            .tooltip("Degrees around the subject: 0 is its front, 90 its right side, 180 its back."),
        vertical_angle: i64 = int(0).range(-30, 60).step(1)
            .tooltip("Degrees above the subject; below it if negative."),
        zoom: f64 = float(5.0).range(0.0, CLOSEST).step(0.1)
            .tooltip("How close the subject is: 0 is a wide shot, 10 a close-up."),
        image: Option<Arc<Image>> = socket().tooltip("A picture for the front of the subject in the preview."),
        view: Option<String> = text().default("").with("multiline", false).with("socketless", true)
            .with("widgetType", "CAMERA_ANGLE_VIEW"),
    }
}

impl Node<Services> for CameraAngle {
    const CARD: Card = Card::new("CameraAngle", "Compose Camera Angle Prompt", "3d")
        .about("Describes a camera around a subject: as numbers for scenes, and in words for prompts.")
        .module("comfy_extras.nodes_camera_angle")
        .outputs(&["camera_info", "prompt"])
        .schema();
    type In = CameraAngleIn;
    type Out = (Camera, String);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (around, above, zoom) = (input.horizontal_angle, input.vertical_angle, input.zoom);
        Ok((camera(around, above, zoom), in_words(around, above, zoom)))
    }
}

fn camera(around: i64, above: i64, zoom: f64) -> Camera {
    let [yaw, pitch] = [around, above].map(|degrees| (degrees as f64).to_radians());
    let [least, most] = ENLARGES;
    Camera(json!({
        "position": {
            "x": DISTANCE * pitch.cos() * yaw.sin(),
            "y": DISTANCE * pitch.sin(),
            "z": DISTANCE * pitch.cos() * yaw.cos(),
        },
        "target": {"x": 0.0, "y": 0.0, "z": 0.0},
        "zoom": least + (most - least) * (zoom / CLOSEST),
        "cameraType": "perspective",
        "fov": FIELD_OF_VIEW,
    }))
}

fn in_words(around: i64, above: i64, zoom: f64) -> String {
    let eighth = ((around.rem_euclid(360) as f64 + 22.5) / 45.0) as usize % SIDES.len();
    let height = match above {
        ..-15 => "low-angle shot",
        -15..15 => "eye-level shot",
        15..45 => "elevated shot",
        45.. => "high-angle shot",
    };
    let distance = if zoom < 2.0 {
        "wide shot"
    } else if zoom < 6.0 {
        "medium shot"
    } else {
        "close-up"
    };
    format!("{} {height} {distance}", SIDES[eighth])
}
