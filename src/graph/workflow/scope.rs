//! The graphs of a file once every subgraph stands where it is placed, and the ids its nodes get there.

use std::collections::{HashMap, VecDeque};

use super::Error;
use super::file::{File, Graph, Id, Link, Node, Subgraph};

/// One graph at one place: the outermost, or a subgraph as one node places it.
pub(super) struct Scope<'a> {
    pub(super) graph: &'a Graph,
    /// Where it is placed, and what it is; the outermost graph has neither.
    pub(super) placed: Option<Placed<'a>>,
    /// What the ids of its nodes begin with: `"12:3:"`.
    prefix: String,
    links: HashMap<&'a Id, &'a Link>,
    nodes: HashMap<&'a Id, &'a Node>,
    /// The scopes of the subgraphs it places, by the id of the placing node.
    inner: HashMap<&'a Id, usize>,
    active: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    /// The number of the scope around it.
    pub(super) outer: usize,
    /// The node that places it.
    pub(super) node: &'a Node,
    pub(super) subgraph: &'a Subgraph,
}

impl<'a> Scope<'a> {
    fn new(graph: &'a Graph, placed: Option<Placed<'a>>, prefix: String, active: bool) -> Self {
        let links = graph.links.iter().map(|link| (&link.id, link)).collect();
        let nodes = graph.nodes.iter().map(|node| (&node.id, node)).collect();
        Self { graph, placed, prefix, links, nodes, inner: HashMap::new(), active }
    }

    pub(super) fn link(&self, id: &Id) -> Option<&'a Link> {
        self.links.get(id).copied()
    }

    pub(super) fn node(&self, id: &Id) -> Option<&'a Node> {
        self.nodes.get(id).copied()
    }

    pub(super) fn inner(&self, node: &Node) -> Option<usize> {
        self.inner.get(&node.id).copied()
    }
}

/// Every scope of a file; number 0 is the outermost graph.
pub(super) struct Scopes<'a> {
    all: Vec<Scope<'a>>,
    subgraphs: HashMap<&'a str, &'a Subgraph>,
}

impl<'a> Scopes<'a> {
    pub(super) fn of(file: &'a File) -> Result<Self, Error> {
        let subgraphs = file.subgraphs().iter().map(|subgraph| (subgraph.id.as_str(), subgraph)).collect();
        let mut scopes = Self { all: vec![Scope::new(&file.graph, None, String::new(), true)], subgraphs };
        let mut number = 0;
        while number < scopes.all.len() {
            scopes.place_inner(number)?;
            number += 1;
        }
        Ok(scopes)
    }

    /// Opens a scope for each subgraph that scope `outer` places.
    fn place_inner(&mut self, outer: usize) -> Result<(), Error> {
        for node in &self.all[outer].graph.nodes {
            let Some(subgraph) = self.subgraph(node) else { continue };
            self.refuse_circle(outer, subgraph)?;
            let scope = &self.all[outer];
            let prefix = format!("{}{}:", scope.prefix, node.id);
            let active = scope.active && node.is_active();
            let placed = Some(Placed { outer, node, subgraph });
            let number = self.all.len();
            self.all.push(Scope::new(&subgraph.graph, placed, prefix, active));
            self.all[outer].inner.insert(&node.id, number);
        }
        Ok(())
    }

    fn refuse_circle(&self, outer: usize, subgraph: &Subgraph) -> Result<(), Error> {
        let mut path = vec![subgraph.name.clone()];
        let mut scope = &self.all[outer];
        while let Some(placed) = scope.placed {
            path.push(placed.subgraph.name.clone());
            if placed.subgraph.id == subgraph.id {
                path.reverse();
                return Err(Error::Endless { path });
            }
            scope = &self.all[placed.outer];
        }
        Ok(())
    }

    pub(super) fn get(&self, scope: usize) -> &Scope<'a> {
        &self.all[scope]
    }

    /// The subgraph that a node places, if it places one.
    pub(super) fn subgraph(&self, node: &Node) -> Option<&'a Subgraph> {
        self.subgraphs.get(node.class.as_str()).copied()
    }

    /// The id of a node in the prompt.
    pub(super) fn id(&self, scope: usize, node: &Node) -> String {
        format!("{}{}", self.all[scope].prefix, node.id)
    }

    /// The nodes in the order the editor queues them: those of the outermost graph by their links, each subgraph's
    /// as they stand in it, where it is placed. Muted and bypassed subgraphs are left out.
    pub(super) fn in_order(&self) -> Vec<(usize, &'a Node)> {
        let mut ordered = Vec::new();
        let mut waiting: Vec<(usize, &Node)> =
            by_links(self.all[0].graph).into_iter().rev().map(|node| (0, node)).collect();
        while let Some((scope, node)) = waiting.pop() {
            match self.all[scope].inner(node) {
                None => ordered.push((scope, node)),
                Some(inner) if self.all[inner].active => {
                    let nodes = self.all[inner].graph.nodes.iter().rev();
                    waiting.extend(nodes.map(|node| (inner, node)));
                }
                Some(_) => {}
            }
        }
        ordered
    }
}

/// The nodes of a graph, each after those it is linked to; circles at the end.
fn by_links(graph: &Graph) -> Vec<&Node> {
    let mut missing: HashMap<&Id, usize> = HashMap::new();
    for node in &graph.nodes {
        missing.insert(&node.id, node.inputs.iter().filter(|input| input.link.is_some()).count());
    }
    let mut followers: HashMap<&Id, Vec<&Id>> = HashMap::new();
    let mut links: Vec<_> = graph.links.iter().collect();
    links.sort_by_key(|link| link.origin_slot);
    for link in links {
        followers.entry(&link.origin).or_default().push(&link.target);
    }
    let nodes: HashMap<_, _> = graph.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut ready: VecDeque<_> = graph.nodes.iter().filter(|node| missing[&node.id] == 0).collect();
    let mut ordered = Vec::new();
    while let Some(node) = ready.pop_front() {
        ordered.push(node);
        for follower in followers.get(&node.id).into_iter().flatten() {
            let Some(left) = missing.get_mut(follower).filter(|left| **left > 0) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.extend(nodes.get(follower));
            }
        }
    }
    ordered.extend(graph.nodes.iter().filter(|node| missing[&node.id] > 0));
    ordered
}
