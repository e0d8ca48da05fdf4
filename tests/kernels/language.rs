//! The text encoder with its layers on a card that is acted out, beside the same encoder on the processor.

use std::sync::{Arc, LazyLock};

use candle_core::{Device, Tensor};
use comfyd::device::cuda::store::Limits;
use comfyd::model::card::Card;
use comfyd::model::{Compute, TextEncoder, TextPrompt, text};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::host::{Against, Host};
use crate::network::{PLENTY, distance};
use crate::streams::Streams;
use crate::tiny_qwen;

/// How far states may be from those in `f32`: a card rounds them to BF16 after each of some 15 steps in each of three
/// layers, by 2e-3 on average.
const ALLOWED: f64 = 2e-2;

static FILE: LazyLock<Arc<File>> =
    LazyLock::new(|| File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap());

static HERE: LazyLock<Arc<dyn TextEncoder>> =
    LazyLock::new(|| text::load(FILE.clone(), "", Compute::F32).unwrap());

fn prompt(words: &str) -> TextPrompt {
    TextPrompt { text: words.to_owned(), ..TextPrompt::default() }
}

fn read(encoder: &Arc<dyn TextEncoder>, prompt: &TextPrompt) -> Tensor {
    encoder.encode(prompt, &Stop::new()).unwrap().hidden
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn layers_on_a_card_are_the_layers_of_the_processor() {
    let there = HERE.on_card(&Card::new(Host::new(Against::End, 3), PLENTY)).unwrap();
    let picture: Vec<f32> = (0..3 * 56 * 84).map(|index| (index as f32 * 0.013).sin().abs()).collect();
    let picture = Tensor::from_vec(picture, (1, 56, 84, 3), &Device::Cpu).unwrap();
    let seeing = TextPrompt { images: vec![picture], ..prompt("make it blue") };
    for (name, prompt) in [("words", prompt("a red fox in the snow")), ("a picture", seeing)] {
        let error = distance(&read(&there, &prompt), &read(&HERE, &prompt));
        println!("{name}: {error:.2e}, {ALLOWED:.2e} is allowed");
        assert!(error > 0.0 && error <= ALLOWED, "{name}: {error}");
    }
    // The states of an earlier layer, without the last norm.
    let [early, wanted] =
        [&there, &HERE].map(|encoder| read(&encoder.ending_at(2).unwrap(), &prompt("a fox")));
    let error = distance(&early, &wanted);
    assert!(error > 0.0 && error <= ALLOWED, "{error}");
}

#[test]
fn rows_that_do_not_count_are_left_to_the_processor() {
    let there = HERE.on_card(&Card::new(Host::new(Against::End, 0), PLENTY)).unwrap();
    let padded = prompt("a fox<|endoftext|>and more");
    assert_eq!(values(&read(&there, &padded)), values(&read(&HERE, &padded)));
}

#[test]
fn layers_that_do_not_fit_come_in_turn_and_nothing_is_lost() {
    let prompt = prompt("a fox");
    let all = Streams::new(1 << 40, 1e9);
    let there = HERE.on_card(&Card::new(Host::accounted(all.clone()), PLENTY)).unwrap();
    let wanted = values(&read(&there, &prompt));
    let (weights, asked) = (all.count().held, all.count().asked);
    let budget = all.count().peak - weights / 4;
    let tight = Streams::new(budget, 1e9);
    let there =
        HERE.on_card(&Card::new(Host::accounted(tight.clone()), Limits { budget, overhead: 0 })).unwrap();
    for _ in 0..2 {
        assert_eq!(values(&read(&there, &prompt)), wanted);
    }
    assert!(tight.count().refused == 0 && tight.count().copied > weights, "{:?}", tight.count());
    drop(there);
    assert_eq!(tight.count().rooms, 0);
    for number in 0..asked {
        let streams = Streams::new(1 << 40, 1e9);
        let there = HERE.on_card(&Card::new(Host::accounted(streams.clone()), PLENTY)).unwrap();
        streams.refuse(number);
        match there.encode(&prompt, &Stop::new()) {
            Ok(found) => assert_eq!(values(&found.hidden), wanted, "piece {number}"),
            Err(error) => assert!(error.to_string().contains("out of memory"), "{error}"),
        }
        assert_eq!(values(&read(&there, &prompt)), wanted, "after piece {number}");
        drop(there);
        assert_eq!(streams.count().rooms, 0, "lost after piece {number}");
    }
}
