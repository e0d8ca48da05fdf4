//! What text encoders write. For Qwen3-VL: against `generate` of transformers 5.24.0, without chance, over the miniature
//! of `golden/qwen3-vl` (`tied`: with the embeddings in place of `lm_head.weight`). For Qwen2.5-VL, whose miniature it
//! does not know: against the states that are held against ComfyUI, all rows read anew for each token.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd::model::text::generation::{Choosing, Question, Sampling};
use comfyd::model::text::qwen_vl::tokenizer::{THINKING, Tokenizer};
use comfyd::model::text::qwen2_5_vl::Encoder;
use comfyd::model::{Compute, Error, TextEncoder, TextPrompt, text};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};

use crate::qwen3_vl::{CASES, ENCODER};
use crate::tiny_qwen;
use crate::tiny_qwen3::{self, Form};

const LIKELIEST: Choosing = Choosing { most: 12, sampling: None };

/// The question whose conversation is the recorded prompt.
fn question(name: &str) -> Question {
    let TextPrompt { text, images, .. } = CASES[name].prompt();
    let text = if text.is_empty() { " ".to_owned() } else { text };
    Question { text, images, system: String::new(), thinking: true, templated: true }
}

fn answer(encoder: &dyn TextEncoder, question: &Question, how: &Choosing) -> String {
    encoder.generate(question, how, &Stop::new(), &mut |_| ()).unwrap().text
}

#[test]
fn the_likeliest_tokens_are_those_of_transformers() {
    let tokenizer = Tokenizer::new(THINKING).unwrap();
    for (name, case) in &*CASES {
        let expected = tokenizer.text(&case.generated).unwrap();
        assert!(expected.len() > 30, "{name}");
        let mut counts = Vec::new();
        let mut told = |count| counts.push(count);
        let found = ENCODER.generate(&question(name), &LIKELIEST, &Stop::new(), &mut told).unwrap();
        assert_eq!(found.text, expected, "{name}");
        assert_eq!(counts, (1..=12).collect::<Vec<_>>(), "{name}");
        let shorter = answer(&**ENCODER, &question(name), &Choosing { most: 3, ..LIKELIEST });
        assert_eq!(shorter, tokenizer.text(&case.generated[..3]).unwrap(), "{name}");
    }
}

#[test]
fn what_a_prompt_has_it_think_is_a_thought() {
    let question = Question { text: "A fox. <think>\n".to_owned(), ..Question::default() };
    let written = ENCODER.generate(&question, &LIKELIEST, &Stop::new(), &mut |_| ()).unwrap();
    assert_eq!((written.text.as_str(), written.thinking.is_empty()), ("", false));
}

#[test]
fn embeddings_score_words_where_there_is_no_other_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny_qwen3::write(folder.path(), "headless", Form { headless: true, ..Form::default() });
    let encoder = text::load(File::open(&path).unwrap(), "qwen_image", Compute::F32).unwrap();
    let expected = Tokenizer::new(THINKING).unwrap().text(&CASES["text"].tied).unwrap();
    assert_eq!(answer(&*encoder, &question("text"), &LIKELIEST), expected);
}

#[test]
fn chance_is_of_the_seed() {
    let sampling = |seed| Sampling {
        repetition_penalty: 1.05,
        presence_penalty: 0.5,
        temperature: 0.7,
        top_k: 64,
        min_p: 0.05,
        top_p: 0.95,
        seed,
    };
    let question = question("text");
    let [once, again, other] = [1, 1, 2].map(|seed| {
        let how = Choosing { most: 5, sampling: Some(sampling(seed)) };
        answer(&**ENCODER, &question, &how)
    });
    assert_eq!(once, again);
    assert_ne!(once, other);
    let surely = Choosing {
        most: 5,
        sampling: Some(Sampling { top_k: 1, repetition_penalty: 1.0, presence_penalty: 0.0, ..sampling(3) }),
    };
    let likeliest = Choosing { most: 5, ..LIKELIEST };
    assert_eq!(answer(&**ENCODER, &question, &surely), answer(&**ENCODER, &question, &likeliest));
}

#[test]
fn writing_can_be_stopped() {
    let stop = Stop::new();
    let mut told = |count| {
        if count == 2 {
            stop.request();
        }
    };
    let end = ENCODER.generate(&question("text"), &LIKELIEST, &stop, &mut told);
    assert!(matches!(end, Err(Error::Stopped(_))));
}

fn tiny_2_5() -> Weights {
    Weights::new(File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap(), "")
}

#[test]
fn what_is_remembered_says_what_reading_all_again_says() {
    let encoder = Encoder::load(tiny_2_5()).unwrap();
    let weights = tiny_2_5();
    let tensor = |name: &str| weights.tensor(name, weights.shape(name).unwrap()).unwrap();
    let (head, table) = (tensor("lm_head.weight"), tensor("model.embed_tokens.weight"));
    let prompt = TextPrompt { text: "A red fox at".to_owned(), images: Vec::new(), template: Some("{}") };
    let mut reading = encoder.read(&prompt, &Stop::new()).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..8 {
        let states = encoder.understand(&reading, &Stop::new()).unwrap();
        let last = states.squeeze(0).unwrap().narrow(0, reading.counted.len() - 1, 1).unwrap();
        let scores = last.matmul(&head.t().unwrap()).unwrap().flatten_all().unwrap();
        let token = scores.argmax(0).unwrap().to_scalar::<u32>().unwrap();
        tokens.push(token);
        let row = table.narrow(0, token as usize, 1).unwrap().unsqueeze(0).unwrap();
        reading.embeds = Tensor::cat(&[&reading.embeds, &row], 1).unwrap();
        let place = reading.counted.len() as f32;
        reading.positions.iter_mut().for_each(|axis| axis.push(place));
        reading.counted.push(true);
    }
    let question = Question { text: prompt.text, templated: false, ..Question::default() };
    let found = answer(&encoder, &question, &Choosing { most: 8, sampling: None });
    assert_eq!(found, Tokenizer::new(&[]).unwrap().text(&tokens).unwrap());
}

#[test]
fn a_wide_model_does_not_write_with_its_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.safetensors");
    // No layers: what counts is the width.
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::BF16, &Device::Cpu).unwrap();
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), zeros(&[64, 4096])),
        ("model.norm.weight".to_owned(), zeros(&[4096])),
    ];
    candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    let encoder = Encoder::load(Weights::new(File::open(Path::new(&path)).unwrap(), "")).unwrap();
    let encoder: Arc<dyn TextEncoder> = Arc::new(encoder);
    let question = Question { text: "A".to_owned(), ..Question::default() };
    let error = encoder.generate(&question, &LIKELIEST, &Stop::new(), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("wide.safetensors") && error.contains("lm_head.weight"), "{error}");
}
