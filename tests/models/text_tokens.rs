//! What the Qwen2.5 tokenizer makes of texts, against ids recorded from ComfyUI.

use std::sync::LazyLock;

use comfyd::model::text::qwen_vl::prompt::Entry;
use comfyd::model::text::qwen_vl::tokenizer::{ADDED, IMAGE, PAD, TURN, Tokenizer};
use comfyd::model::text::qwen2_5_vl::template::{self, entries};
use serde_json::Value;

use crate::golden::Case;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::new(&[]).unwrap());

fn ids(text: &str) -> Vec<u32> {
    TOKENIZER.ids(text).unwrap()
}

/// Recorded ids, with anything else than a number standing for a picture.
fn recorded(list: &Value) -> Vec<Entry> {
    let mut pictures = 0..;
    let entry = |id: &Value| match id.as_u64() {
        Some(id) => Entry::Token(id as u32),
        None => Entry::Image(pictures.next().unwrap()),
    };
    list.as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn texts_of_all_kinds_have_the_recorded_ids() {
    let table: Value = serde_json::from_str(include_str!("../golden/qwen-tiny/tables/tokens.json")).unwrap();
    let rows = table.as_array().unwrap();
    assert_eq!(rows.len(), 16);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let raw: Vec<Entry> = ids(text).into_iter().map(Entry::Token).collect();
        assert_eq!(raw, recorded(&row["raw"]), "raw {text:?}");
        for (column, images) in [("qwen_image", 0), ("edit_one_image", 1)] {
            let read = entries(&TOKENIZER, text, None, images).unwrap();
            assert_eq!(read, recorded(&row[column]), "{column} {text:?}");
        }
    }
}

#[test]
fn odd_texts_have_the_ids_of_the_reference_tokenizer() {
    #[derive(serde::Deserialize)]
    struct Table {
        texts: Vec<(String, Vec<u32>)>,
    }
    let table: Table =
        serde_json::from_str(include_str!("../golden/qwen-tiny/tables/odd_tokens.json")).unwrap();
    assert_eq!(table.texts.len(), 230);
    for (text, expected) in table.texts {
        assert_eq!(ids(&text), expected, "{text:?}");
    }
}

#[test]
fn recorded_runs_read_the_same_entries() {
    let mut texts = 0;
    for case in Case::all() {
        for read in case.facts["tokens"].as_array().into_iter().flatten() {
            let text = read["text"].as_str().unwrap();
            let expected = recorded(&read["ids"]);
            let images = expected.iter().filter(|entry| matches!(entry, Entry::Image(_))).count();
            let plus = text.starts_with("Picture 1: ").then_some(template::EDIT_PLUS);
            assert_eq!(entries(&TOKENIZER, text, plus, images).unwrap(), expected, "{}: {text:?}", case.name);
            texts += 1;
        }
    }
    assert!(texts >= 50, "only {texts} texts were found");
}

#[test]
fn added_tokens_are_recognised_inside_text() {
    assert_eq!(ADDED.len(), 22);
    for (id, token) in (151_643..).zip(ADDED) {
        assert_eq!(ids(token), [id], "{token}");
        assert_eq!(ids(&format!("a{token}b")), [64, id, 65], "{token} between letters");
    }
}

#[test]
fn composed_and_decomposed_letters_are_the_same() {
    assert_eq!(ids("cafe\u{301}"), ids("caf\u{e9}"));
    assert_eq!(ids("\u{1100}\u{1161}"), ids("\u{ac00}"));
    assert_ne!(ids("\u{fb01}"), ids("fi"), "compatibility forms stay what they are");
}

#[test]
fn empty_text_has_no_ids() {
    assert!(ids("").is_empty());
}

#[test]
fn very_long_texts_are_cut_like_short_ones() {
    let sentence = "The quick brown fox jumps over 13 lazy dogs, again.\n";
    let once = ids(sentence);
    let many = ids(&sentence.repeat(2000));
    assert_eq!(many, once.repeat(2000));
    for run in [" ", "\n", " \n", "a", "!", "1", "\u{4f60}", "\u{1f431}"] {
        let long = run.repeat(100_000 / run.len());
        let ids = ids(&long);
        assert!(ids.len() > 100 && ids.iter().all(|id| *id < PAD), "{run:?}");
    }
    // Everything between the last space and the word is one token, however much that is.
    assert_eq!(ids(&format!("{}x", " ".repeat(100_000))).last(), ids(" x").last());
}

#[test]
fn a_complete_conversation_gets_no_template() {
    let text = "<|im_start|>user\nfox<|im_end|>";
    let expected: Vec<Entry> = ids(text).into_iter().map(Entry::Token).collect();
    for template in [None, Some(template::EDIT_PLUS)] {
        assert_eq!(entries(&TOKENIZER, text, template, 0).unwrap(), expected);
    }
    let other = entries(&TOKENIZER, "<|start_header_id|>fox", None, 0).unwrap();
    assert!(!other.contains(&Entry::Token(TURN)));
}

#[test]
fn pictures_fill_placeholders_in_order_while_they_last() {
    let text = "<|image_pad|> and <|image_pad|>";
    let places = |images| -> Vec<Entry> {
        let read = entries(&TOKENIZER, text, None, images).unwrap();
        read.into_iter().filter(|entry| matches!(entry, Entry::Image(_) | Entry::Token(IMAGE))).collect()
    };
    assert_eq!(places(0), [Entry::Token(IMAGE), Entry::Token(IMAGE)]);
    // With pictures the template has a place of its own, ahead of those in the text.
    assert_eq!(places(2), [Entry::Image(0), Entry::Image(1), Entry::Token(IMAGE)]);
}

#[test]
fn a_picture_is_introduced_by_its_number() {
    let text = template::picture(1) + "make it night";
    let read = entries(&TOKENIZER, &text, Some(template::EDIT_PLUS), 1).unwrap();
    assert_eq!(read.iter().filter(|entry| **entry == Entry::Image(0)).count(), 1);
    assert_eq!(template::first_kept(&read, 300), 64);
}
