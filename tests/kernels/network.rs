//! The diffusion transformer with its blocks on a card that is acted out, beside the same network on the processor.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use candle_core::{DType, Device, Tensor};
use comfyd::model::card::Card;
use comfyd::model::diffusion::{self, Options};
use comfyd::model::{Compute, Cond, Diffusion, Error, ReferenceMethod};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::host::{Against, Host, Ledger};
use crate::tiny_qwen;

/// How far the card may be from the network in `f32`, in parts of how far the processor is that rounds to BF16 after each
/// step: a card rounds products, again what is added to them, and the weights of its attention.
const AS_CLOSE: f64 = 2.0;

fn network(name: &str, compute: Compute, card: Option<Card>) -> Arc<dyn Diffusion> {
    let file = File::open(tiny_qwen::models().join(name)).unwrap();
    diffusion::load(file, Options { compute, card, ..Options::default() }).unwrap()
}

/// One network on a card, and on the processor in BF16 and in `f32`.
fn three(name: &str, card: Card) -> [Arc<dyn Diffusion>; 3] {
    [(Compute::Bf16, Some(card)), (Compute::Bf16, None), (Compute::F32, None)]
        .map(|(compute, card)| network(name, compute, card))
}

fn card() -> Card {
    Card::new(Host::new(Against::End, 3))
}

/// Numbers that look like a latent, or an embedded text.
fn tensor(shape: &[usize], step: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * step).sin() * 1.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let norm = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    norm(&(got - want).unwrap()) / norm(want)
}

/// A text of five tokens and a reference, and another text without.
fn conds(method: ReferenceMethod) -> [Cond; 2] {
    let text = |tokens, step| tensor(&[1, tokens, 64], step);
    let reference = tensor(&[1, 16, 1, 6, 4], 0.37);
    let with_reference =
        Cond { references: vec![reference], reference_method: Some(method), ..Cond::new(text(5, 0.11)) };
    [with_reference, Cond::new(text(3, 0.23))]
}

/// Runs a batch through all three; what it gives in `f32` for the second text.
fn compare([card, bf16, exact]: &[Arc<dyn Diffusion>; 3], batch: usize, method: ReferenceMethod) -> Tensor {
    let x = tensor(&[batch, 16, 1, 8, 6], 0.71);
    let conds = conds(method);
    let conds: Vec<&Cond> = conds.iter().collect();
    let run = |network: &Arc<dyn Diffusion>| network.forward(&x, 0.8, &conds, &Stop::new()).unwrap();
    let (card, bf16, mut exact) = (run(card), run(bf16), run(exact));
    for ((card, bf16), exact) in card.iter().zip(&bf16).zip(&exact) {
        let (ours, theirs) = (distance(card, exact), distance(bf16, exact));
        assert!(ours <= AS_CLOSE * theirs && ours > 0.0, "card {ours:.2e}, processor in BF16 {theirs:.2e}");
    }
    exact.remove(1)
}

#[test]
fn blocks_on_a_card_are_the_blocks_of_the_processor() {
    let networks = three(tiny_qwen::DIFFUSION_FP8, card());
    compare(&networks, 1, ReferenceMethod::Index);
    // The weights are there already; a batch, and references shown as free of noise.
    compare(&networks, 2, ReferenceMethod::IndexTimestepZero);
}

#[test]
fn networks_take_turns_on_a_card() {
    let card = card();
    let [bf16, fp8] =
        [tiny_qwen::DIFFUSION_BF16, tiny_qwen::DIFFUSION_FP8].map(|name| three(name, card.clone()));
    for networks in [&bf16, &fp8, &bf16] {
        compare(networks, 1, ReferenceMethod::Index);
    }
}

#[test]
fn loras_are_added_on_a_card() {
    let lora = File::open(tiny_qwen::models().join(tiny_qwen::LORA_PEFT)).unwrap();
    let plain = three(tiny_qwen::DIFFUSION_FP8, card());
    let with = plain.each_ref().map(|network| network.with_lora(lora.clone(), 0.7).unwrap().network);
    let [plain, with] = [plain, with].map(|networks| compare(&networks, 1, ReferenceMethod::Index));
    assert!(distance(&with, &plain) > 0.1, "the LoRA changes nothing to speak of");
}

#[test]
fn memory_that_is_refused_is_an_error_and_nothing_is_lost() {
    let ledger = Arc::new(Ledger::default());
    let card = Card::new(Host::accounted(ledger.clone()));
    let (x, cond) = (tensor(&[1, 16, 1, 2, 2], 0.71), Cond::new(tensor(&[1, 1, 64], 0.3)));
    let run = |network: &Arc<dyn Diffusion>| {
        let found = network.forward(&x, 0.8, &[&cond], &Stop::new())?.remove(0);
        Ok::<_, Error>(found.flatten_all()?.to_vec1::<f32>()?)
    };
    let load = || network(tiny_qwen::DIFFUSION_FP8, Compute::Bf16, Some(card.clone()));
    let held = || ledger.held.load(Ordering::Relaxed);
    let first = load();
    let (wanted, weights) = (run(&first).unwrap(), held());
    assert_eq!((run(&first).unwrap() == wanted, held()), (true, weights));
    let mut refused = 0;
    for refuse_after in (1..).step_by(9) {
        let network = load();
        ledger.refuse_after.store(refuse_after, Ordering::Relaxed);
        let Err(error) = run(&network) else { break };
        assert!(error.to_string().starts_with("the graphics card failed at taking "), "{error}");
        refused += 1;
        assert_eq!((run(&network).unwrap() == wanted, held()), (true, weights), "{refuse_after}");
        drop(network);
        assert_eq!(held(), 0);
    }
    assert!(refused > 5, "{refused}");
}
