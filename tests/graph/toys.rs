//! Toy nodes, each for one thing a node can do.

use std::sync::Arc;

use comfyd::graph::{
    AnyNode, Anything, Arg, Args, Card, Expanded, ExpandedSlot, Expansion, Fingerprint, ListOf, Literals,
    MaybeBlocked, Node, NodeError, PROMPT_AND_PNGINFO, Preview, PreviewFormat, Result, Run, Socket, Value,
    WithUi, boolean, choice, files, float, int, python_text, socket, text,
};
use comfyd::{choices, inputs};
use serde_json::{Map, Value as Json, json};

pub const NODES: &[&dyn AnyNode<()>] = &[
    &Number, &Add, &Pair, &Show, &Pass, &Sink, &Split, &Sum, &Switch, &Chain, &Forever, &Risky, &Selfish,
    &Lost, &Gate, &Fail, &Panic, &Steps, &Memo, &Never, &FileOf, &Own, &Asks, &Widgets, &Schema, &Picky,
    &Many, &Folder, &Tensor, &Set, &Loose, &Names,
];

/// `{"text": [lines]}`, what output nodes here show.
fn shown(lines: Vec<String>) -> Map<String, Json> {
    Map::from_iter([("text".to_owned(), json!(lines))])
}

/// A literal or a link as text.
fn spell(arg: &Arg) -> String {
    match arg {
        Arg::Literal(value) => python_text(value),
        Arg::Value(value) => python_text(&value.describe()),
        Arg::List(items) => items.iter().map(spell).collect::<Vec<_>>().join("+"),
    }
}

inputs! { pub struct NumberIn { value: i64 = int(0).range(-100, u64::MAX) } }
pub struct Number;
impl Node<()> for Number {
    const CARD: Card = Card::new("Number", "Number", "toys");
    type In = NumberIn;
    type Out = (i64,);
    fn run(&self, input: NumberIn, _: &mut Run<'_, ()>) -> Result<(i64,)> {
        Ok((input.value,))
    }
}

inputs! { pub struct AddIn { a: i64 = int(0), b: i64 = int(0), c: Option<i64> = int(0) } }
pub struct Add;
impl Node<()> for Add {
    const CARD: Card = Card::new("Add", "Add", "toys");
    type In = AddIn;
    type Out = (i64,);
    fn run(&self, input: AddIn, _: &mut Run<'_, ()>) -> Result<(i64,)> {
        Ok((input.a + input.b + input.c.unwrap_or(0),))
    }
}

inputs! { pub struct PairIn { value: i64 = int(0) } }
/// Two slots: the value, and its text.
pub struct Pair;
impl Node<()> for Pair {
    const CARD: Card = Card::new("Pair", "Pair", "toys");
    type In = PairIn;
    type Out = (i64, String);
    fn run(&self, input: PairIn, _: &mut Run<'_, ()>) -> Result<(i64, String)> {
        Ok((input.value, input.value.to_string()))
    }
}

inputs! { pub struct ShowIn { source: Anything = socket(), note: Option<String> = text() } }
/// Shows its input.
pub struct Show;
impl Node<()> for Show {
    const CARD: Card = Card::new("Show", "Show", "toys").output().hidden(PROMPT_AND_PNGINFO);
    type In = ShowIn;
    type Out = WithUi<()>;
    fn run(&self, input: ShowIn, _: &mut Run<'_, ()>) -> Result<WithUi<()>> {
        Ok(WithUi { ui: shown(vec![spell(&input.source.0)]), outputs: () })
    }
}

inputs! { pub struct PassIn { value: i64 = int(0) } }
/// Shows its input and passes it on.
pub struct Pass;
impl Node<()> for Pass {
    const CARD: Card = Card::new("Pass", "Pass", "toys").output();
    type In = PassIn;
    type Out = WithUi<(i64,)>;
    fn run(&self, input: PassIn, _: &mut Run<'_, ()>) -> Result<WithUi<(i64,)>> {
        Ok(WithUi { ui: shown(vec![input.value.to_string()]), outputs: (input.value,) })
    }
}

inputs! { pub struct SinkIn { value: i64 = int(0) } }
/// An output node that shows nothing.
pub struct Sink;
impl Node<()> for Sink {
    const CARD: Card = Card::new("Sink", "Sink", "toys").output();
    type In = SinkIn;
    type Out = ();
    fn run(&self, _: SinkIn, _: &mut Run<'_, ()>) -> Result<()> {
        Ok(())
    }
}

inputs! { pub struct SplitIn { numbers: String = text() } }
/// A list from `"1,2,3"`.
pub struct Split;
impl Node<()> for Split {
    const CARD: Card = Card::new("Split", "Split", "toys");
    type In = SplitIn;
    type Out = (ListOf<i64>,);
    fn run(&self, input: SplitIn, _: &mut Run<'_, ()>) -> Result<(ListOf<i64>,)> {
        Ok((ListOf(input.numbers.split(',').filter_map(|number| number.parse().ok()).collect()),))
    }
}

inputs! { pub struct SumIn { values: Vec<i64> = int(0), times: Vec<i64> = int(1) } }
/// Takes whole lists.
pub struct Sum;
impl Node<()> for Sum {
    const CARD: Card = Card::new("Sum", "Sum", "toys");
    const TAKES_LISTS: bool = true;
    type In = SumIn;
    type Out = (i64,);
    fn run(&self, input: SumIn, _: &mut Run<'_, ()>) -> Result<(i64,)> {
        Ok((input.values.iter().sum::<i64>() * input.times.iter().product::<i64>(),))
    }
}

inputs! { pub struct SwitchIn {
    condition: bool = boolean(true),
    on_true: Option<i64> = int(0).lazy(),
    on_false: Option<i64> = int(0).lazy(),
} }
/// Asks for one of two lazy inputs.
pub struct Switch;
impl Node<()> for Switch {
    const CARD: Card = Card::new("Switch", "Switch", "toys");
    type In = SwitchIn;
    type Out = (i64,);
    fn run(&self, input: SwitchIn, _: &mut Run<'_, ()>) -> Result<(i64,)> {
        let chosen = if input.condition { input.on_true } else { input.on_false };
        Ok((chosen.unwrap_or(-1),))
    }
    fn needs(&self, known: &Args) -> Vec<&'static str> {
        let name = match known.get("condition") {
            Some(arg) if spell(arg) == "True" => "on_true",
            _ => "on_false",
        };
        if known.contains_key(name) { Vec::new() } else { vec![name] }
    }
}

fn node(class: &str, inputs: Json) -> Json {
    json!({"class_type": class, "inputs": inputs})
}

inputs! { pub struct ChainIn { value: i64 = int(0), count: i64 = int(1), show: Option<bool> = boolean(false) } }
/// Expands into `count` additions of one, of which the last may be shown.
pub struct Chain;
impl Node<()> for Chain {
    const CARD: Card = Card::new("Chain", "Chain", "toys");
    type In = ChainIn;
    type Out = Expanded<(i64, String)>;
    fn run(&self, input: ChainIn, run: &mut Run<'_, ()>) -> Result<Self::Out> {
        if input.count == 0 {
            return Ok(Expanded::Done((input.value, "done".to_owned())));
        }
        let mut nodes = Map::new();
        let mut last = json!(input.value);
        for _ in 0..input.count {
            let id = run.unique_id();
            nodes.insert(id.clone(), node("Add", json!({"a": last, "b": 1})));
            last = json!([id, 0]);
        }
        if input.show == Some(true) {
            nodes.insert(run.unique_id(), node("Show", json!({"source": last.clone()})));
        }
        let id = last[0].as_str().unwrap_or_default().to_owned();
        let results = vec![
            ExpandedSlot::Link { node: id, slot: 0 },
            ExpandedSlot::Value(Value::new("made".to_owned())),
        ];
        Ok(Expanded::Into(Expansion { nodes, results }))
    }
}

inputs! { pub struct ForeverIn { depth: i64 = int(0) } }
/// Expands into itself until `depth` is used up.
pub struct Forever;
impl Node<()> for Forever {
    const CARD: Card = Card::new("Forever", "Forever", "toys");
    type In = ForeverIn;
    type Out = Expanded<(i64,)>;
    fn run(&self, input: ForeverIn, run: &mut Run<'_, ()>) -> Result<Self::Out> {
        if input.depth == 0 {
            return Ok(Expanded::Done((0,)));
        }
        let id = run.unique_id();
        let nodes = Map::from_iter([(id.clone(), node("Forever", json!({"depth": input.depth - 1})))]);
        Ok(Expanded::Into(Expansion { nodes, results: vec![ExpandedSlot::Link { node: id, slot: 0 }] }))
    }
}

inputs! { pub struct RiskyIn { fail: bool = boolean(false) } }
/// Expands into a node that fails, or one that blocks.
pub struct Risky;
impl Node<()> for Risky {
    const CARD: Card = Card::new("Risky", "Risky", "toys");
    type In = RiskyIn;
    type Out = Expanded<(i64,)>;
    fn run(&self, input: RiskyIn, run: &mut Run<'_, ()>) -> Result<Self::Out> {
        let id = run.unique_id();
        let inner = if input.fail {
            node("Fail", json!({"value": 1}))
        } else {
            node("Gate", json!({"message": "no"}))
        };
        let nodes = Map::from_iter([(id.clone(), inner)]);
        Ok(Expanded::Into(Expansion { nodes, results: vec![ExpandedSlot::Link { node: id, slot: 0 }] }))
    }
}

inputs! { pub struct SelfishIn { value: i64 = int(0) } }
/// Expands into a node that waits for the node it came from.
pub struct Selfish;
impl Node<()> for Selfish {
    const CARD: Card = Card::new("Selfish", "Selfish", "toys");
    type In = SelfishIn;
    type Out = Expanded<(i64,)>;
    fn run(&self, input: SelfishIn, run: &mut Run<'_, ()>) -> Result<Self::Out> {
        let id = run.unique_id();
        let inner = node("Add", json!({"a": [run.node(), 0], "b": input.value}));
        let nodes = Map::from_iter([(id.clone(), inner)]);
        Ok(Expanded::Into(Expansion { nodes, results: vec![ExpandedSlot::Link { node: id, slot: 0 }] }))
    }
}

inputs! { pub struct LostIn { kind: String = text() } }
/// Expands into subgraphs that cannot be run.
pub struct Lost;
impl Node<()> for Lost {
    const CARD: Card = Card::new("Lost", "Lost", "toys");
    type In = LostIn;
    type Out = Expanded<(i64,)>;
    fn run(&self, input: LostIn, run: &mut Run<'_, ()>) -> Result<Self::Out> {
        let id = run.unique_id();
        let (name, class, slot) = match input.kind.as_str() {
            "class" => (id.clone(), "Nothing", 0),
            "duplicate" => (run.node().to_owned(), "Number", 0),
            "slot" => (id.clone(), "Number", 7),
            _ => ("elsewhere".to_owned(), "Number", 0),
        };
        let nodes = Map::from_iter([(name, node(class, json!({"value": 1})))]);
        Ok(Expanded::Into(Expansion { nodes, results: vec![ExpandedSlot::Link { node: id, slot }] }))
    }
}

inputs! { pub struct GateIn { value: Option<i64> = int(1), message: Option<String> = text() } }
/// Lets positive numbers pass; blocks others, and everything when it has a message.
pub struct Gate;
impl Node<()> for Gate {
    const CARD: Card = Card::new("Gate", "Gate", "toys");
    type In = GateIn;
    type Out = (MaybeBlocked<i64>,);
    fn run(&self, input: GateIn, _: &mut Run<'_, ()>) -> Result<Self::Out> {
        let value = input.value.unwrap_or(1);
        Ok((match input.message {
            Some(message) => MaybeBlocked::Blocked(Some(message)),
            None if value > 0 => MaybeBlocked::Value(value),
            None => MaybeBlocked::Blocked(None),
        },))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the outer reason")]
struct Outer(#[source] std::fmt::Error);

inputs! { pub struct FailIn { value: Anything = socket(), note: Option<String> = text() } }
pub struct Fail;
impl Node<()> for Fail {
    const CARD: Card = Card::new("Fail", "Fail", "toys").hidden(&[
        ("prompt", "PROMPT"),
        ("extra_pnginfo", "EXTRA_PNGINFO"),
        ("unique_id", "UNIQUE_ID"),
    ]);
    type In = FailIn;
    type Out = (i64,);
    fn run(&self, _: FailIn, _: &mut Run<'_, ()>) -> Result<(i64,)> {
        Err(NodeError::other(Outer(std::fmt::Error)))
    }
}

inputs! { pub struct PanicIn { value: i64 = int(0) } }
pub struct Panic;
impl Node<()> for Panic {
    const CARD: Card = Card::new("Panic", "Panic", "toys");
    type In = PanicIn;
    type Out = (i64,);
    fn run(&self, input: PanicIn, run: &mut Run<'_, ()>) -> Result<(i64,)> {
        *run.memory(|| 0_i64) += 1;
        assert!(input.value > 0, "value {} is not positive", input.value);
        Ok((*run.memory(|| 0_i64),))
    }
}

inputs! { pub struct StepsIn { count: i64 = int(2), picture: Option<bool> = boolean(false), value: Option<i64> = int(0) } }
/// Reports steps.
pub struct Steps;
impl Node<()> for Steps {
    const CARD: Card = Card::new("Steps", "Steps", "toys");
    type In = StepsIn;
    type Out = (i64,);
    fn run(&self, input: StepsIn, run: &mut Run<'_, ()>) -> Result<(i64,)> {
        let total = u32::try_from(input.count).unwrap_or_default();
        for done in 1..=total {
            if input.picture == Some(true) {
                let image = Preview { format: PreviewFormat::Png, bytes: Arc::from([1, 2]) };
                run.preview(done, total, image)?;
            } else {
                run.step(done, total)?;
            }
        }
        run.text("a note");
        Ok((input.count,))
    }
}

inputs! { pub struct MemoIn { value: i64 = int(0) } }
/// Counts its own calls.
pub struct Memo;
impl Node<()> for Memo {
    const CARD: Card = Card::new("Memo", "Memo", "toys").output();
    type In = MemoIn;
    type Out = WithUi<(i64,)>;
    fn run(&self, _: MemoIn, run: &mut Run<'_, ()>) -> Result<WithUi<(i64,)>> {
        let calls = run.memory(|| 0_i64);
        *calls += 1;
        Ok(WithUi { ui: shown(vec![calls.to_string()]), outputs: (*calls,) })
    }
}

inputs! { pub struct NeverIn { value: i64 = int(0) } }
/// Never cached.
pub struct Never;
impl Node<()> for Never {
    const CARD: Card = Card::new("Never", "Never", "toys");
    type In = NeverIn;
    type Out = (i64,);
    fn run(&self, input: NeverIn, _: &mut Run<'_, ()>) -> Result<(i64,)> {
        Ok((input.value,))
    }
    fn fingerprint(&self, literals: &Literals, (): &()) -> Fingerprint {
        assert!(literals.get("value") != Some(&json!(13)), "unlucky");
        Fingerprint::Always
    }
}

inputs! { pub struct FileOfIn { path: String = text(), number: Option<i64> = int(0) } }
/// The text of a file, read again when it changes.
pub struct FileOf;
impl Node<()> for FileOf {
    const CARD: Card = Card::new("FileOf", "FileOf", "toys");
    type In = FileOfIn;
    type Out = (String,);
    fn run(&self, input: FileOfIn, _: &mut Run<'_, ()>) -> Result<(String,)> {
        std::fs::read_to_string(&input.path).map(|text| (text,)).map_err(NodeError::other)
    }
    fn fingerprint(&self, literals: &Literals, (): &()) -> Fingerprint {
        let path = literals.get("path").and_then(Json::as_str).unwrap_or_default();
        Fingerprint::Is(std::fs::read_to_string(path).unwrap_or_default())
    }
}

inputs! { pub struct OwnIn { value: i64 = int(0) } }
/// Never shares a result with another node.
pub struct Own;
impl Node<()> for Own {
    const CARD: Card = Card::new("Own", "Own", "toys").distinct();
    type In = OwnIn;
    type Out = (String,);
    fn run(&self, _: OwnIn, run: &mut Run<'_, ()>) -> Result<(String,)> {
        Ok((run.node().to_owned(),))
    }
}

inputs! { pub struct AsksIn { trigger: Option<i64> = int(0) } }
/// Shows the prompt and the extra information it is given.
pub struct Asks;
impl Node<()> for Asks {
    const CARD: Card = Card::new("Asks", "Asks", "toys").output();
    type In = AsksIn;
    type Out = WithUi<()>;
    fn run(&self, _: AsksIn, run: &mut Run<'_, ()>) -> Result<WithUi<()>> {
        let lines = vec![
            Json::Object(run.prompt().clone()).to_string(),
            run.extra_pnginfo().map(Json::to_string).unwrap_or_default(),
            run.previews().map(|wanted| wanted.to_string()).unwrap_or_default(),
        ];
        Ok(WithUi { ui: shown(lines), outputs: () })
    }
}

choices! { pub enum Crop { Disabled = "disabled", Center = "center" } }
inputs! { pub struct WidgetsIn {
    whole: Option<i64> = int(0).range(-5, 100),
    seed: Option<u64> = int(0).seed(),
    free: Option<i64> = int(0),
    real: Option<f64> = float(0.0).range(0.0, 100.0),
    any_real: Option<f64> = float(0.0),
    flag: Option<bool> = boolean(false),
    words: Option<String> = text(),
    crop: Option<Crop> = choice(),
    anything: Option<Anything> = socket(),
} }
/// One input of each kind.
pub struct Widgets;
impl Node<()> for Widgets {
    const CARD: Card = Card::new("Widgets", "Widgets", "toys").output();
    type In = WidgetsIn;
    type Out = WithUi<()>;
    fn run(&self, input: WidgetsIn, _: &mut Run<'_, ()>) -> Result<WithUi<()>> {
        Ok(WithUi { ui: shown(vec![format!("{:?} {:?}", input.whole, input.seed)]), outputs: () })
    }
}

inputs! { pub struct SchemaIn { crop: Crop = choice() } }
/// A node in the newer style, whose combos are not checked.
pub struct Schema;
impl Node<()> for Schema {
    const CARD: Card = Card::new("Schema", "Schema", "toys").schema().output();
    type In = SchemaIn;
    type Out = ();
    fn run(&self, _: SchemaIn, _: &mut Run<'_, ()>) -> Result<()> {
        Ok(())
    }
}

inputs! { pub struct PickyIn { crop: Crop = choice(), level: i64 = int(0).range(0, 3), other: i64 = int(0).range(0, 3) } }
/// Judges two of its inputs by itself.
pub struct Picky;
impl Node<()> for Picky {
    const CARD: Card = Card::new("Picky", "Picky", "toys").output();
    const CHECKS: &'static [&'static str] = &["crop", "level"];
    type In = PickyIn;
    type Out = ();
    fn run(&self, _: PickyIn, _: &mut Run<'_, ()>) -> Result<()> {
        Ok(())
    }
    fn check(&self, literals: &Literals, (): &()) -> Result<(), String> {
        match literals.get("level").and_then(Json::as_i64) {
            Some(7) => Err(String::new()),
            Some(8) => panic!("eight"),
            Some(9) => Err("nine is too much".to_owned()),
            _ => Ok(()),
        }
    }
}

choices! { pub enum Letter {
    A = "a", B = "b", C = "c", D = "d", E = "e", F = "f", G = "g", H = "h", I = "i", J = "j", K = "k",
    L = "l", M = "m", N = "n", O = "o", P = "p", Q = "q", R = "r", S = "s", T = "t", U = "u",
} }
inputs! { pub struct ManyIn { letter: Letter = choice() } }
/// A choice of more words than are spelled out.
pub struct Many;
impl Node<()> for Many {
    const CARD: Card = Card::new("Many", "Many", "toys").output();
    type In = ManyIn;
    type Out = ();
    fn run(&self, _: ManyIn, _: &mut Run<'_, ()>) -> Result<()> {
        Ok(())
    }
}

inputs! { pub struct FolderIn { name: comfyd::graph::FileName = files("loras") } }
/// A choice of files; the host here lists none.
pub struct Folder;
impl Node<()> for Folder {
    const CARD: Card = Card::new("Folder", "Folder", "toys").output();
    type In = FolderIn;
    type Out = ();
    fn run(&self, _: FolderIn, _: &mut Run<'_, ()>) -> Result<()> {
        Ok(())
    }
}

/// A value of its own type.
pub struct Block;
impl Socket for Block {
    const NAME: &'static str = "BLOCK";
}
pub struct Tensor;
impl Node<()> for Tensor {
    const CARD: Card = Card::new("Tensor", "Tensor", "toys");
    type In = ();
    type Out = (Block,);
    fn run(&self, (): (), _: &mut Run<'_, ()>) -> Result<(Block,)> {
        Ok((Block,))
    }
}

/// An input that takes one of two types.
pub struct Either;
impl comfyd::graph::Input for Either {
    fn kind() -> comfyd::graph::Kind {
        comfyd::graph::Kind::Link("BLOCK, INT")
    }
    fn read(_: &'static str, _: Option<&Arg>) -> Result<Self> {
        Ok(Self)
    }
}
inputs! { pub struct SetIn { either: Either = socket(), block: Option<Arc<Block>> = socket() } }
pub struct Set;
impl Node<()> for Set {
    const CARD: Card = Card::new("Set", "Set", "toys").output();
    type In = SetIn;
    type Out = ();
    fn run(&self, input: SetIn, _: &mut Run<'_, ()>) -> Result<()> {
        drop(input.block);
        Ok(())
    }
}

inputs! { pub struct LooseIn { anything: Anything = socket() } }
/// Passes anything on as anything.
pub struct Loose;
impl Node<()> for Loose {
    const CARD: Card = Card::new("Loose", "Loose", "toys");
    type In = LooseIn;
    type Out = (comfyd::graph::AnyValue,);
    fn run(&self, input: LooseIn, _: &mut Run<'_, ()>) -> Result<Self::Out> {
        match input.anything.0 {
            Arg::Value(value) => Ok((comfyd::graph::AnyValue(value),)),
            _ => Err(NodeError::Refused("only links can be passed on".to_owned())),
        }
    }
}

inputs! { pub struct NamesIn { value: i64 = int(0) } }
/// Knows its own id through a hidden input.
pub struct Names;
impl Node<()> for Names {
    const CARD: Card = Card::new("Names", "Names", "toys").hidden(&[("unique_id", "UNIQUE_ID")]);
    type In = NamesIn;
    type Out = (String,);
    fn run(&self, _: NamesIn, run: &mut Run<'_, ()>) -> Result<(String,)> {
        Ok((run.node().to_owned(),))
    }
}
