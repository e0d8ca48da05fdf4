//! Nodes of later versions than 0.3.64 that work on numbers, texts and lists. What they should do is from their pages in
//! ComfyUI's documentation.

use serde_json::{Value as Json, json};

use crate::workshop::{Workshop, node};

/// What ComfyMathExpression gives at each of its outputs.
fn calculated(workshop: &mut Workshop, inputs: &Json) -> [Json; 3] {
    [0, 1, 2].map(|output| {
        let shown = workshop.run(json!({
            "a": node("PrimitiveFloat", json!({"value": 7.9})),
            "c": node("PrimitiveInt", json!({"value": 3})),
            "d": node("PrimitiveBoolean", json!({"value": true})),
            "math": node("ComfyMathExpression", inputs.clone()),
            "show": node("PreviewAny", json!({"source": ["math", output]})),
        }));
        shown.texts()[0].clone()
    })
}

/// As its page says: inputs by letter, all of them as `values`, and the result as float, whole number and flag.
#[test]
fn expressions_are_calculated_from_the_inputs_they_name() {
    let mut workshop = Workshop::new();
    let case = |expression: &str| json!({"expression": expression, "values.a": ["a", 0], "values.c": ["c", 0], "values.d": ["d", 0]});
    assert_eq!(calculated(&mut workshop, &case("a + c + d")), ["11.9", "11", "True"]);
    assert_eq!(calculated(&mut workshop, &case("-a")), ["-7.9", "-7", "True"]);
    assert_eq!(calculated(&mut workshop, &case("sum(values) - sum(values)")), ["0.0", "0", "False"]);
    assert_eq!(calculated(&mut workshop, &case("a > c")), ["1.0", "1", "True"]);
    assert_eq!(calculated(&mut workshop, &case("values[2] and c // 2")), ["1.0", "1", "True"]);
    let plain = json!({"expression": "a * 24", "values.a": 2});
    assert_eq!(calculated(&mut workshop, &plain), ["48.0", "48", "True"]);
}

#[test]
fn expressions_that_come_to_nothing_say_why() {
    let mut workshop = Workshop::new();
    let prompt = |expression: &str, output: u8| {
        json!({
            "math": node("ComfyMathExpression", json!({"expression": expression, "values.a": 2})),
            "show": node("PreviewAny", json!({"source": ["math", output]})),
        })
    };
    let mut refused = |expression: &str| workshop.fail(prompt(expression, 0)).message.trim_end().to_owned();
    assert_eq!(refused(" "), "the expression is empty; write one such as `a + b`");
    assert_eq!(refused("a + b"), "the expression `a + b`: `b` is not given; there are a, values");
    assert_eq!(
        refused("1e308 * 10"),
        "the expression `1e308 * 10`: it comes to inf, which is no finite number"
    );
    assert_eq!(refused("values"), "the expression `values`: it comes to a list, not to a number");
    assert!(!workshop.accepts(json!({
        "math": node("ComfyMathExpression", json!({"expression": "a"})),
        "show": node("PreviewAny", json!({"source": ["math", 0]})),
    })));
    // What no link can carry stops those who want it, and nobody else.
    assert_eq!(workshop.run(prompt("a * 1e30", 0)).texts(), &json!(["2e+30"]));
    assert!(workshop.run(prompt("a * 1e30", 1)).outputs.is_empty());
}

/// The texts that PreviewAny shows of some outputs of a node.
fn shown<const N: usize>(workshop: &mut Workshop, node_under_test: &Json) -> [String; N] {
    std::array::from_fn(|output| {
        let shown = workshop.run(json!({
            "node": node_under_test,
            "show": node("PreviewAny", json!({"source": ["node", output]})),
        }));
        shown.texts()[0].as_str().unwrap().to_owned()
    })
}

/// Later versions hand on the text that is shown.
#[test]
fn what_is_shown_is_handed_on() {
    let shown = Workshop::new().run(json!({
        "flag": node("PrimitiveBoolean", json!({"value": true})),
        "text": node("PreviewAny", json!({"source": ["flag", 0]})),
        "lower": node("CaseConverter", json!({"string": ["text", 0], "mode": "lowercase"})),
        "last": node("PreviewAny", json!({"source": ["lower", 0]})),
    }));
    assert_eq!(shown.outputs["last"]["text"], json!(["true"]));
}

/// As its page says: a float and a whole number without the fraction; texts have to be numbers.
#[test]
fn numbers_flags_and_texts_become_numbers() {
    let mut workshop = Workshop::new();
    let convert = |value: Json| node("ComfyNumberConvert", json!({"value": value}));
    for (value, expected) in [
        (json!(7), ["7.0", "7"]),
        (json!(-2.9), ["-2.9", "-2"]),
        (json!(true), ["1.0", "1"]),
        (json!(false), ["0.0", "0"]),
        (json!(" 123 "), ["123.0", "123"]),
        (json!("3.99"), ["3.99", "3"]),
        (json!("-1e2"), ["-100.0", "-100"]),
    ] {
        assert_eq!(shown::<2>(&mut workshop, &convert(value.clone())), expected, "{value}");
    }
    for text in ["", " ", "twelve", "inf", "nan", "1e999"] {
        let prompt = json!({
            "node": convert(json!(text)),
            "show": node("PreviewAny", json!({"source": ["node", 0]})),
        });
        let message = workshop.fail(prompt).message;
        assert!(message.contains("which is no number"), "{message}");
    }
}

/// As its page says: whatever words the editor's list has.
#[test]
fn a_list_of_own_words_gives_the_word_and_its_place() {
    let mut workshop = Workshop::new();
    let combo =
        node("CustomCombo", json!({"choice": "9:16", "index": 1, "option1": "16:9", "option2": "9:16"}));
    assert_eq!(shown::<2>(&mut workshop, &combo), ["9:16", "1"]);
    assert_eq!(shown::<2>(&mut workshop, &node("CustomCombo", json!({"choice": "x"}))), ["x", "0"]);
    assert_eq!(shown::<1>(&mut workshop, &node("SeedNode", json!({"seed": 42}))), ["42"]);
}

/// As its page says: the first object that can be read, with anything around it; nothing where there is none.
#[test]
fn the_first_object_in_a_text_is_searched() {
    let mut workshop = Workshop::new();
    let mut found = |text: &str, key: &str| {
        let [found] =
            shown(&mut workshop, &node("JsonExtractString", json!({"json_string": text, "key": key})));
        found
    };
    let reply =
        "Sure {as you like}:\n```json\n{\"a\": \"x \u{e9}\", \"b\": null, \"c\": [1, true]}\n```{\"d\": 1}";
    assert_eq!(found(reply, "a"), "x \u{e9}");
    assert_eq!(found(reply, "b"), "");
    assert_eq!(found(reply, "c"), "[1, True]");
    assert_eq!(found(reply, "d"), "");
    assert_eq!(found("{\"n\": 1.50, \"t\": {\"u\": \"v\"}}", "n"), "1.5");
    assert_eq!(found("{\"t\": {\"u\": \"v\"}}", "t"), "{'u': 'v'}");
    assert_eq!(found("[1, 2] and no object", "a"), "");
    assert_eq!(found(&"{".repeat(100_000), "a"), "");
}

/// As its page says: the name, the counter, the folder, and documents written over several lines.
#[test]
fn texts_are_written_to_files_and_documents_are_indented() {
    let mut workshop = Workshop::new();
    let mut save = |text: &str, format: &str| {
        let shown = workshop.run(json!({
            "text": node("PrimitiveStringMultiline", json!({"value": text})),
            "save": node("SaveText", json!({"text": ["text", 0], "filename_prefix": "notes/x", "format": format})),
            "show": node("PreviewAny", json!({"source": ["save", 0]})),
        }));
        assert_eq!(shown.outputs["show"]["text"][0], text);
        let file = shown.outputs["save"]["files"][0].clone();
        assert_eq!((&file["subfolder"], &file["type"]), (&"notes".into(), &"output".into()));
        let name = file["filename"].as_str().unwrap().to_owned();
        let written = std::fs::read_to_string(workshop.path("output/notes").join(&name)).unwrap();
        (name, written)
    };
    assert_eq!(save("a,b\n\u{e9}", "csv"), ("x_00001.csv".to_owned(), "a,b\n\u{e9}".to_owned()));
    assert_eq!(save("# t", "md").0, "x_00002.md");
    let document = save("{\"b\":[1,{}],\"a\":\"\u{e9}\"}", "json");
    assert_eq!(
        document,
        ("x_00003.json".to_owned(), "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"\u{e9}\"\n}".to_owned())
    );
    assert_eq!(save("{\"b\":", "json"), ("x_00004.json".to_owned(), "{\"b\":".to_owned()));
    assert_eq!(save("same", "txt").0, "x_00005.txt");
}

/// As their pages say: lists one after another, and an item by its place.
#[test]
fn lists_are_joined_and_their_items_taken() {
    let mut workshop = Workshop::new();
    let prompt = |index: i64| {
        json!({
            "1": node("CreateList", json!({"inputs.input0": "a", "inputs.input1": 2, "inputs.input4": true})),
            "2": node("CreateList", json!({"inputs.input0": ["1", 0], "inputs.input1": ["1", 0]})),
            "3": node("GetItemFromList", json!({"list": ["2", 0], "index": index})),
            "4": node("PreviewAny", json!({"source": ["3", 0]})),
        })
    };
    for (index, item) in [(0, "a"), (1, "2"), (2, "True"), (3, "a"), (-1, "True"), (-6, "a")] {
        assert_eq!(workshop.run(prompt(index)).texts(), &json!([item]), "{index}");
    }
    for index in [6, -7] {
        let message = workshop.fail(prompt(index)).message;
        assert!(message.contains(&format!("`index` is {index}, and the list has 6 items")), "{message}");
    }
}
