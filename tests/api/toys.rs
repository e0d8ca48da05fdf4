//! Nodes that do what a test needs: take their time, show pictures, fail, panic.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use comfyd::graph::{
    AnyNode, Card, Node, NodeError, Preview, PreviewFormat, Result, Run, WithUi, int, socket, text,
};
use comfyd::nodes::Services;
use serde_json::{Map, Value as Json, json};

pub const TOYS: &[&dyn AnyNode<Services>] = &[&ToySource, &ToySlow, &ToyShow, &ToyFail, &ToyPanic, &ToyHeavy];

struct ToySource;

comfyd::inputs! {
    struct ToySourceIn {
        text: String = text(),
    }
}

impl Node<Services> for ToySource {
    const CARD: Card = Card::new("ToySource", "Toy Source", "toys");
    type In = ToySourceIn;
    type Out = (String,);
    fn run(&self, input: ToySourceIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        Ok((input.text,))
    }
}

/// Steps every ten milliseconds, with a picture each time if asked.
struct ToySlow;

comfyd::inputs! {
    struct ToySlowIn {
        text: Arc<String> = socket(),
        steps: u32 = int(3).range(1, 100_000),
        pictures: u32 = int(0).range(0, 1),
    }
}

impl Node<Services> for ToySlow {
    const CARD: Card = Card::new("ToySlow", "Toy Slow", "toys");
    type In = ToySlowIn;
    type Out = (String,);
    fn run(&self, input: ToySlowIn, run: &mut Run<'_, Services>) -> Result<(String,)> {
        for step in 1..=input.steps {
            sleep(Duration::from_millis(10));
            if input.pictures == 1 {
                let bytes = Arc::from(b"picture".as_slice());
                run.preview(step, input.steps, Preview { format: PreviewFormat::Jpeg, bytes })?;
            } else {
                run.step(step, input.steps)?;
            }
        }
        Ok((input.text.as_str().to_owned(),))
    }
}

/// Ends a graph and shows its text.
struct ToyShow;

comfyd::inputs! {
    struct ToyShowIn {
        text: String = text(),
    }
}

impl Node<Services> for ToyShow {
    const CARD: Card = Card::new("ToyShow", "Toy Show", "toys").output();
    type In = ToyShowIn;
    type Out = WithUi<()>;
    fn run(&self, input: ToyShowIn, _run: &mut Run<'_, Services>) -> Result<WithUi<()>> {
        let ui = Map::from_iter([("text".to_owned(), json!([input.text]))]);
        Ok(WithUi { ui, outputs: () })
    }
}

struct ToyFail;

impl Node<Services> for ToyFail {
    const CARD: Card = Card::new("ToyFail", "Toy Fail", "toys").output();
    type In = ToyShowIn;
    type Out = ();
    fn run(&self, input: ToyShowIn, _run: &mut Run<'_, Services>) -> Result<()> {
        Err(NodeError::Refused(input.text))
    }
}

struct ToyPanic;

impl Node<Services> for ToyPanic {
    const CARD: Card = Card::new("ToyPanic", "Toy Panic", "toys").output();
    type In = ToyShowIn;
    type Out = ();
    fn run(&self, input: ToyShowIn, _run: &mut Run<'_, Services>) -> Result<()> {
        panic!("{}", input.text)
    }
}

/// Shows large pictures as fast as they are taken.
struct ToyHeavy;

comfyd::inputs! {
    struct ToyHeavyIn {
        pictures: u32 = int(1).range(1, 100_000),
    }
}

impl Node<Services> for ToyHeavy {
    const CARD: Card = Card::new("ToyHeavy", "Toy Heavy", "toys").output();
    type In = ToyHeavyIn;
    type Out = ();
    fn run(&self, input: ToyHeavyIn, run: &mut Run<'_, Services>) -> Result<()> {
        let bytes: Arc<[u8]> = vec![0; 12 << 20].into();
        for step in 1..=input.pictures {
            let picture = Preview { format: PreviewFormat::Jpeg, bytes: bytes.clone() };
            run.preview(step, input.pictures, picture)?;
        }
        Ok(())
    }
}

/// A graph that shows so many large pictures.
#[allow(dead_code, reason = "not every test binary uses it")]
pub fn heavy(pictures: u32) -> Json {
    json!({"1": {"class_type": "ToyHeavy", "inputs": {"pictures": pictures}}})
}

/// A graph that shows a text at once.
pub fn show(text: &str) -> Json {
    json!({"1": {"class_type": "ToyShow", "inputs": {"text": text}}})
}

/// A chain: source, a slow node, show.
#[allow(dead_code, reason = "not every test binary uses it")]
pub fn slow(text: &str, steps: u32) -> Json {
    json!({
        "1": {"class_type": "ToySource", "inputs": {"text": text}},
        "2": {"class_type": "ToySlow", "inputs": {"text": ["1", 0], "steps": steps, "pictures": 0}},
        "3": {"class_type": "ToyShow", "inputs": {"text": ["2", 0]}},
    })
}

/// As [`slow`], with pictures on the way.
#[allow(dead_code, reason = "not every test binary uses it")]
pub fn pictures(text: &str, steps: u32) -> Json {
    let mut graph = slow(text, steps);
    graph["2"]["inputs"]["pictures"] = json!(1);
    graph
}
