//! Lists of anything. These nodes came after ComfyUI 0.3.64.

use super::Services;
use super::logic::passed_on;
use crate::graph::{
    AnyList, AnyNode, AnyValue, Anything, Args, Card, Growth, InputSpec, Inputs, Node, NodeError, Result,
    Run, int, numbered, socket,
};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[&CreateList, &GetItemFromList];

const INPUTS: Growth = Growth {
    group: "inputs",
    item: "input",
    numbered: true,
    least: 1,
    names: numbered!(
        "inputs.input"
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24
        25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49
    ),
};

struct CreateListIn {
    lists: Vec<Vec<Anything>>,
}

impl Inputs for CreateListIn {
    fn specs() -> Vec<InputSpec> {
        INPUTS.specs::<Vec<Anything>>().collect()
    }

    fn read(args: &Args) -> Result<Self> {
        Ok(Self { lists: INPUTS.read(args)?.into_iter().map(|(_, list)| list).collect() })
    }
}

struct CreateList;

impl Node<Services> for CreateList {
    const CARD: Card = Card::new("CreateList", "Create List", "utilities/list")
        .about("Makes one list of everything that comes in, in the order of the inputs.")
        .module("comfy_extras.nodes_toolkit")
        .outputs(&["list"])
        .schema();
    const TAKES_LISTS: bool = true;
    type In = CreateListIn;
    type Out = (AnyList,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let items = input.lists.into_iter().flatten();
        Ok((AnyList(items.filter_map(|item| passed_on(item.0)).collect()),))
    }
}

struct GetItemFromList;

inputs! {
    struct GetItemFromListIn {
        list: Vec<Anything> = socket(),
        index: Vec<i64> = int(0),
    }
}

impl Node<Services> for GetItemFromList {
    const CARD: Card = Card::new("GetItemFromList", "Get Item From List", "utilities/list")
        .about("Gives one item of a list; the first is 0, and numbers below zero count from the end.")
        .module("comfy_extras.nodes_toolkit")
        .outputs(&["OUTPUT"])
        .schema();
    const TAKES_LISTS: bool = true;
    type In = GetItemFromListIn;
    type Out = (AnyValue,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (count, index) = (input.list.len(), input.index.first().copied().unwrap_or(0));
        let place = if index < 0 { index + count as i64 } else { index };
        let item = usize::try_from(place).ok().and_then(|place| input.list.into_iter().nth(place));
        let item = item.ok_or_else(|| {
            NodeError::Refused(format!("`index` is {index}, and the list has {count} items"))
        })?;
        let value = passed_on(item.0);
        value
            .map(AnyValue)
            .ok_or_else(|| NodeError::Refused("no link can carry this item".to_owned()))
            .map(|value| (value,))
    }
}
