//! How constants become what an input declares.

use comfyd::graph::Refusal;
use serde_json::{Value as Json, json};

use crate::lab::{judge, prompt};

/// The constant that a plan holds after input `name` of a [`Widgets`](crate::toys::Widgets) got `given`,
/// or the word and details of the problem.
fn converted(name: &str, given: Json) -> Result<Json, String> {
    match judge(prompt([("1", "Widgets", json!({name: given}))]), None) {
        Ok(checked) => Ok(checked.plan.prompt["1"]["inputs"][name].clone()),
        Err(Refusal::OutputsFailed(problems)) => {
            let problem = &problems.0[0].problems[0];
            Err(format!("{}: {}", problem.word(), problem.details()))
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn check(name: &str, table: &[(Json, Json)]) {
    for (given, expected) in table {
        let found = converted(name, given.clone());
        // Texts are compared so that 1 and 1.0 differ.
        assert_eq!(found.map(|value| value.to_string()), Ok(expected.to_string()), "{name} given {given}");
    }
}

fn refuse(name: &str, table: &[(Json, &str)]) {
    for (given, expected) in table {
        assert_eq!(converted(name, given.clone()), Err((*expected).to_owned()), "{name} given {given}");
    }
}

#[test]
fn whole_numbers_are_read_as_python_reads_them() {
    check(
        "whole",
        &[
            (json!(7), json!(7)),
            (json!("12"), json!(12)),
            (json!(" +1_0\n"), json!(10)),
            (json!("-5"), json!(-5)),
            (json!(9.9), json!(9)),
            (json!(-4.9), json!(-4)),
            (json!(true), json!(1)),
            (json!({"__value__": "8"}), json!(8)),
        ],
    );
    let literal = |text: &str| {
        format!("invalid_input_type: whole, {text}, invalid literal for int() with base 10: '{text}'")
    };
    for text in ["wide", "9.9", "", "1__0", "_1", "1_", "0x10", "NaN", "+", "1 2"] {
        refuse("whole", &[(json!(text), &literal(text))]);
    }
    let argument = "int() argument must be a string, a bytes-like object or a real number, not";
    refuse(
        "whole",
        &[
            (json!(null), &format!("invalid_input_type: whole, None, {argument} 'NoneType'")),
            (json!({}), &format!("invalid_input_type: whole, {{}}, {argument} 'dict'")),
            (json!({"__value__": [1]}), &format!("invalid_input_type: whole, [1], {argument} 'list'")),
            (json!(-6), "value_smaller_than_min: whole"),
            (json!(101), "value_bigger_than_max: whole"),
            (json!("1000000000000000000000000000000000000000000000"), "value_bigger_than_max: whole"),
            (json!(-1e30), "value_smaller_than_min: whole"),
        ],
    );
}

#[test]
fn seeds_use_all_64_bits() {
    check(
        "seed",
        &[
            (json!(u64::MAX), json!(u64::MAX)),
            (json!("18446744073709551615"), json!(u64::MAX)),
            (json!(42.7), json!(42)),
        ],
    );
    refuse(
        "seed",
        &[
            (json!(-1), "value_smaller_than_min: seed"),
            (json!(18_446_744_073_709_551_616.0_f64), "value_bigger_than_max: seed"),
            (json!("18446744073709551616"), "value_bigger_than_max: seed"),
        ],
    );
    refuse("free", &[(json!(1e30), "invalid_input_type: free, 1e+30, the number does not fit into 64 bits")]);
}

#[test]
fn real_numbers_are_read_as_python_reads_them_but_have_to_be_numbers() {
    check(
        "real",
        &[
            (json!(1), json!(1.0)),
            (json!("0.25"), json!(0.25)),
            (json!(" 1_0.5e0 "), json!(10.5)),
            (json!(true), json!(1.0)),
            (json!({"__value__": 2}), json!(2.0)),
        ],
    );
    for text in ["abc", "nan", "inf", "-Infinity", "", "."] {
        let expected =
            format!("invalid_input_type: real, {text}, could not convert string to float: '{text}'");
        refuse("real", &[(json!(text), &expected)]);
    }
    refuse(
        "real",
        &[
            (
                json!(null),
                "invalid_input_type: real, None, float() argument must be a string or a real number, not \
                 'NoneType'",
            ),
            (json!(-0.1), "value_smaller_than_min: real"),
            (json!(101), "value_bigger_than_max: real"),
            (json!("1e999"), "value_bigger_than_max: real"),
        ],
    );
    refuse(
        "any_real",
        &[(json!("1e999"), "invalid_input_type: any_real, 1e999, the number does not fit into 64 bits")],
    );
}

#[test]
fn texts_are_what_python_prints() {
    check(
        "words",
        &[
            (json!("as it is"), json!("as it is")),
            (json!(12.5), json!("12.5")),
            (json!(1.0), json!("1.0")),
            (json!(1e-7), json!("1e-07")),
            (json!(7), json!("7")),
            (json!(true), json!("True")),
            (json!(null), json!("None")),
            (json!({"a": [1, "b"]}), json!("{'a': [1, 'b']}")),
            (json!({"__value__": ["x", 1]}), json!("['x', 1]")),
        ],
    );
}

#[test]
fn flags_are_true_unless_empty_or_zero() {
    check(
        "flag",
        &[
            (json!(true), json!(true)),
            (json!("false"), json!(true)),
            (json!(""), json!(false)),
            (json!(0), json!(false)),
            (json!(0.0), json!(false)),
            (json!(2), json!(true)),
            (json!(null), json!(false)),
            (json!({}), json!(false)),
            (json!({"__value__": []}), json!(false)),
            (json!({"__value__": ["1", 0]}), json!(true)),
        ],
    );
}

#[test]
fn choices_and_sockets_keep_their_constants() {
    check("crop", &[(json!("center"), json!("center"))]);
    check(
        "anything",
        &[
            (json!(1.5), json!(1.5)),
            (json!(null), json!(null)),
            (json!({"k": 1}), json!({"k": 1})),
            (json!({"__value__": [1, 2, 3]}), json!([1, 2, 3])),
        ],
    );
}
