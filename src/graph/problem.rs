//! What can be wrong with a prompt before it runs, as plain data in ComfyUI's vocabulary.
//!
//! Each [`Problem`] knows its word, its sentence and its line of details; the JSON around them is `api`'s.

use std::sync::Arc;

use serde_json::Value as Json;

use super::event::NodeId;
use super::inputs::InputSpec;
use super::python;

/// Why a prompt cannot be queued at all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("The prompt has to be an object of nodes, but is {found}")]
    NotAnObject { found: &'static str },
    #[error(
        "Node {node} has no class_type; a workflow saved for the browser has to be exported in API format first"
    )]
    MissingClass { node: NodeId },
    #[error("Node {node} is of class {class}, which does not exist here")]
    UnknownClass { node: NodeId, class: String },
    #[error("The prompt has no output node to run")]
    NoOutputs,
    #[error("No output of the prompt can run")]
    OutputsFailed(Problems),
}

/// The nodes that are at fault themselves; nodes that merely depend on them are not listed.
#[derive(Clone, Debug, Default)]
pub struct Problems(pub Vec<NodeProblems>);

#[derive(Clone, Debug)]
pub struct NodeProblems {
    pub node: NodeId,
    pub class: &'static str,
    pub problems: Vec<Problem>,
    /// Output nodes that cannot run because of this node, in prompt order.
    pub dependents: Vec<NodeId>,
}

/// The declaration an input was judged by.
#[derive(Clone, Debug)]
pub struct Declared {
    pub class: &'static str,
    pub spec: Arc<InputSpec>,
}

/// Something that made a node impossible to judge: ComfyUI reports these as exceptions.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The exception's name, which users' scripts print: `KeyError`, `IndexError`, `TypeError`, ...
    pub kind: &'static str,
    /// The exception's text as Python gives it.
    pub text: String,
    /// What was expected, found, and how to mend it.
    pub reason: String,
}

/// One thing wrong with one node.
#[derive(Clone, Debug)]
pub enum Problem {
    RequiredInputMissing {
        input: &'static str,
    },
    BadLinkedInput {
        input: Declared,
        received: Json,
    },
    ReturnTypeMismatch {
        input: Declared,
        /// The type of the linked slot.
        received: String,
        /// What the input takes: a set of types, or the words of a closed list.
        expected: String,
        link: Json,
    },
    InvalidInputType {
        input: Declared,
        received: Json,
        reason: String,
    },
    ValueSmallerThanMin {
        input: Declared,
        received: Json,
    },
    ValueBiggerThanMax {
        input: Declared,
        received: Json,
    },
    ValueNotInList {
        input: Declared,
        received: Json,
        /// Every word that would have been accepted.
        list: Arc<[String]>,
    },
    CustomValidationFailed {
        input: &'static str,
        reason: String,
    },
    /// The node itself is at fault; `input` and `link` are those of the node that consumes it.
    ExceptionDuringInnerValidation {
        input: Declared,
        link: Json,
        fault: Fault,
    },
    /// An output node is at fault and nothing consumes it.
    ExceptionDuringValidation {
        fault: Fault,
    },
    /// The node closes a circle of links.
    DependencyCycle {
        cycle: Arc<[NodeId]>,
    },
}

/// The longest list that is spelled out for the user.
pub const LONGEST_SHOWN_LIST: usize = 20;

impl Problem {
    /// ComfyUI's word for this kind of problem.
    pub fn word(&self) -> &'static str {
        match self {
            Self::RequiredInputMissing { .. } => "required_input_missing",
            Self::BadLinkedInput { .. } => "bad_linked_input",
            Self::ReturnTypeMismatch { .. } => "return_type_mismatch",
            Self::InvalidInputType { .. } => "invalid_input_type",
            Self::ValueSmallerThanMin { .. } => "value_smaller_than_min",
            Self::ValueBiggerThanMax { .. } => "value_bigger_than_max",
            Self::ValueNotInList { .. } => "value_not_in_list",
            Self::CustomValidationFailed { .. } => "custom_validation_failed",
            Self::ExceptionDuringInnerValidation { .. } => "exception_during_inner_validation",
            Self::ExceptionDuringValidation { .. } => "exception_during_validation",
            Self::DependencyCycle { .. } => "dependency_cycle",
        }
    }

    /// One sentence for a person.
    pub fn message(&self) -> String {
        let limit = |input: &Declared, key| input.spec.options.get(key).map(python::text).unwrap_or_default();
        match self {
            Self::RequiredInputMissing { .. } => "A required input is missing".to_owned(),
            Self::BadLinkedInput { .. } => {
                "A link has to be a list of two, the id of a node and the number of its slot".to_owned()
            }
            Self::ReturnTypeMismatch { .. } => "The linked slot is of another type than the input".to_owned(),
            Self::InvalidInputType { input, .. } => {
                format!("The value cannot be read as {}", input.spec.kind.name())
            }
            Self::ValueSmallerThanMin { input, received } => {
                format!(
                    "Value {} is smaller than the minimum {}",
                    python::text(received),
                    limit(input, "min")
                )
            }
            Self::ValueBiggerThanMax { input, received } => {
                format!("Value {} is bigger than the maximum {}", python::text(received), limit(input, "max"))
            }
            Self::ValueNotInList { .. } => "The value is not in the list".to_owned(),
            Self::CustomValidationFailed { .. } => "The node does not accept this value".to_owned(),
            Self::ExceptionDuringInnerValidation { fault, .. } => {
                format!("The node cannot be validated, because {}", fault.reason)
            }
            Self::ExceptionDuringValidation { fault } => {
                format!("The output node cannot be validated, because {}", fault.reason)
            }
            Self::DependencyCycle { .. } => "The links of the prompt run in a circle".to_owned(),
        }
    }

    /// The data of the problem on one line, as ComfyUI writes it.
    pub fn details(&self) -> String {
        match self {
            Self::RequiredInputMissing { input } => (*input).to_owned(),
            Self::BadLinkedInput { input, .. }
            | Self::ValueSmallerThanMin { input, .. }
            | Self::ValueBiggerThanMax { input, .. } => input.spec.name.to_owned(),
            Self::ReturnTypeMismatch { input, received, expected, .. } => {
                format!("{}, received_type({received}) mismatch input_type({expected})", input.spec.name)
            }
            Self::InvalidInputType { input, received, reason } => {
                format!("{}, {}, {reason}", input.spec.name, python::text(received))
            }
            Self::ValueNotInList { input, received, list } => {
                let list = if list.len() > LONGEST_SHOWN_LIST {
                    format!("(list of length {})", list.len())
                } else {
                    word_list(list)
                };
                format!("{}: '{}' not in {list}", input.spec.name, python::text(received))
            }
            Self::CustomValidationFailed { input, reason } if reason.is_empty() => (*input).to_owned(),
            Self::CustomValidationFailed { input, reason } => format!("{input} - {reason}"),
            Self::ExceptionDuringInnerValidation { fault, .. }
            | Self::ExceptionDuringValidation { fault } => fault.text.clone(),
            Self::DependencyCycle { cycle } => cycle.join(" -> "),
        }
    }
}

/// Words as Python prints a list of them.
pub(super) fn word_list(words: &[String]) -> String {
    python::repr(&Json::from(words))
}

/// One line per problem, for people: the node, what is wrong, and with what.
impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for at in &self.0 {
            for problem in &at.problems {
                let (message, details) = (problem.message(), problem.details());
                write!(f, "\n  node {} ({}): {message}: {details}", at.node, at.class)?;
            }
        }
        Ok(())
    }
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line per problem of the output nodes themselves; empty when the faults are further up.
    pub fn summary(&self) -> String {
        let own = self.0.iter().filter(|at| at.dependents.contains(&at.node));
        let lines = own
            .flat_map(|at| &at.problems)
            .map(|problem| format!("{}: {}", problem.message(), problem.details()));
        lines.collect::<Vec<_>>().join("\n")
    }
}
