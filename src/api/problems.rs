//! Why a prompt cannot run, in the JSON that clients take apart.

use serde_json::{Map, Value as Json, json};

use super::object_info::{Listing, input_config};
use super::reply::Error;
use crate::graph::{Declared, Fault, LONGEST_SHOWN_LIST, Problem, Problems, Refusal, Registry};
use crate::nodes::Services;

/// The answer to a prompt of which nothing can run.
pub(super) fn refusal(refusal: &Refusal, listing: &Listing<'_>, registry: &Registry<Services>) -> Error {
    let empty = Problems::default();
    let (kind, details, problems) = match refusal {
        Refusal::NotAnObject { .. } => ("invalid_prompt", String::new(), &empty),
        Refusal::MissingClass { node } | Refusal::UnknownClass { node, .. } => {
            ("invalid_prompt", format!("Node ID '#{node}'"), &empty)
        }
        Refusal::NoOutputs => ("prompt_no_outputs", String::new(), &empty),
        Refusal::OutputsFailed(problems) => {
            ("prompt_outputs_failed_validation", problems.summary(), problems)
        }
    };
    let error = json!({"type": kind, "message": refusal.to_string(), "details": details, "extra_info": {}});
    Error::refused(error, node_errors(problems, listing, registry))
}

/// What is wrong, by node.
pub(super) fn node_errors(problems: &Problems, listing: &Listing<'_>, registry: &Registry<Services>) -> Json {
    let by_node: Map<_, _> = problems
        .0
        .iter()
        .map(|at| {
            let errors: Json =
                at.problems.iter().map(|problem| render(problem, &at.node, listing, registry)).collect();
            let entry = json!({"errors": errors, "dependent_outputs": at.dependents, "class_type": at.class});
            (at.node.clone(), entry)
        })
        .collect();
    by_node.into()
}

fn render(problem: &Problem, node: &str, listing: &Listing<'_>, registry: &Registry<Services>) -> Json {
    json!({
        "type": problem.word(),
        "message": problem.message(),
        "details": problem.details(),
        "extra_info": extra_info(problem, node, listing, registry),
    })
}

fn extra_info(problem: &Problem, node: &str, listing: &Listing<'_>, registry: &Registry<Services>) -> Json {
    let named = |input: &Declared| {
        let schema = registry.get(input.class).is_some_and(|node| node.card().schema);
        json!({"input_name": input.spec.name, "input_config": input_config(&input.spec, schema, listing)})
    };
    let with = |mut info: Json, more: Json| {
        if let (Some(info), Json::Object(more)) = (info.as_object_mut(), more) {
            info.extend(more);
        }
        info
    };
    match problem {
        Problem::RequiredInputMissing { input } | Problem::CustomValidationFailed { input, .. } => {
            json!({"input_name": input})
        }
        Problem::BadLinkedInput { input, received }
        | Problem::ValueSmallerThanMin { input, received }
        | Problem::ValueBiggerThanMax { input, received } => {
            with(named(input), json!({"received_value": received}))
        }
        Problem::ValueNotInList { input, received, list } => {
            let mut info = with(named(input), json!({"received_value": received}));
            if list.len() > LONGEST_SHOWN_LIST {
                info["input_config"] = Json::Null;
            }
            info
        }
        Problem::ReturnTypeMismatch { input, received, link, .. } => {
            with(named(input), json!({"received_type": received, "linked_node": link}))
        }
        Problem::InvalidInputType { input, received, reason } => {
            with(named(input), json!({"received_value": received, "exception_message": reason}))
        }
        Problem::ExceptionDuringInnerValidation { input, link, fault } => with(
            with(named(input), exception(fault)),
            json!({"exception_message": fault.text, "linked_node": link}),
        ),
        Problem::ExceptionDuringValidation { fault } => exception(fault),
        Problem::DependencyCycle { cycle } => json!({"node_id": node, "cycle_nodes": cycle[..]}),
    }
}

/// Users' scripts print these keys; there is no traceback to show.
fn exception(fault: &Fault) -> Json {
    json!({"exception_type": fault.kind, "traceback": []})
}
