//! The diffusion transformer with its blocks on a card that is acted out, beside the same network on the processor.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd::device::cuda::store::Limits;
use comfyd::model::card::Card;
use comfyd::model::diffusion::{self, Options};
use comfyd::model::{Compute, Cond, Diffusion, Error, ReferenceMethod};
use comfyd::stop::Stop;
use comfyd::weights::{File, Layout};

use crate::host::{Against, Host};
use crate::streams::{Count, Streams};
use crate::{tiny_kin, tiny_qwen, tiny_qwen_21};

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

/// More than anything here takes.
pub const PLENTY: Limits = Limits { budget: 1 << 40, overhead: 0 };

fn card() -> Card {
    Card::new(Host::new(Against::End, 3), PLENTY)
}

/// Numbers that look like a latent, or an embedded text.
fn tensor(shape: &[usize], step: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * step).sin() * 1.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn distance(got: &Tensor, want: &Tensor) -> f64 {
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

/// What the weights of an INT8 file lost is in both. The inputs' own eight bits cost about as much as everything that is
/// rounded to BF16; so do those of a matrix that is rounded on the card.
#[test]
fn whole_numbers_are_multiplied_on_a_card() {
    let folder = tempfile::tempdir().unwrap();
    let whole = tiny_kin::read(tiny_qwen::DIFFUSION_BF16);
    let int8 = tiny_kin::save_in_eight_bits(folder.path(), "int8.safetensors", &whole);
    let [fp8, bf16] =
        [tiny_qwen::DIFFUSION_FP8, tiny_qwen::DIFFUSION_BF16].map(|name| tiny_qwen::models().join(name));
    let files = [("INT8", int8, false), ("FP8", fp8, true), ("BF16", bf16, true)];
    for (word, path, eight_bits_on_card) in files {
        let load = |compute, card| {
            let options = Options { compute, card, eight_bits_on_card, ..Options::default() };
            diffusion::load(File::open(&path).unwrap(), options).unwrap()
        };
        let lora = File::open(tiny_qwen::models().join(tiny_qwen::LORA_PEFT)).unwrap();
        let with_lora = |network: &Arc<dyn Diffusion>| network.with_lora(lora.clone(), 0.7).unwrap().network;
        let plain = [load(Compute::Bf16, Some(card())), load(Compute::F32, None)];
        let with = plain.each_ref().map(with_lora);
        let x = tensor(&[1, 16, 1, 8, 6], 0.71);
        let conds = conds(ReferenceMethod::Index);
        let conds: Vec<&Cond> = conds.iter().collect();
        for [card, exact] in [with, plain] {
            let [card, exact] = [card, exact].map(|it| it.forward(&x, 0.8, &conds, &Stop::new()).unwrap());
            for (card, exact) in card.iter().zip(&exact) {
                let error = distance(card, exact);
                println!("whole numbers on a card, from {word}: {error:.2e}");
                assert!(error > 1e-4 && error < 6e-2, "{word}: {error:.2e}");
            }
        }
    }
}

/// A small step of one conditioning.
struct Step {
    x: Tensor,
    cond: Cond,
}

impl Step {
    fn new() -> Self {
        Self { x: tensor(&[1, 16, 1, 2, 2], 0.71), cond: Cond::new(tensor(&[1, 1, 64], 0.3)) }
    }

    fn run(&self, network: &Arc<dyn Diffusion>) -> Result<Vec<f32>, Error> {
        let found = network.forward(&self.x, 0.8, &[&self.cond], &Stop::new())?.remove(0);
        Ok(found.flatten_all()?.to_vec1::<f32>()?)
    }
}

/// More blocks than the miniature has, one head wide.
const DEEP: &str = "\
F8_E4M3 64 txt_norm.weight
F8_E4M3 128x256 time_text_embed.timestep_embedder.linear_1.weight
F8_E4M3 128x128 time_text_embed.timestep_embedder.linear_2.weight
F8_E4M3 128x64 {img_in,txt_in}.weight
F8_E4M3 256x128 norm_out.linear.weight
F8_E4M3 64x128 proj_out.weight
BF16 128 {time_text_embed.timestep_embedder.linear_1,time_text_embed.timestep_embedder.linear_2,img_in,txt_in}.bias
BF16 256 norm_out.linear.bias
BF16 64 proj_out.bias
F8_E4M3 768x128 transformer_blocks.{0..7}.{img,txt}_mod.1.weight
F8_E4M3 512x128 transformer_blocks.{0..7}.{img,txt}_mlp.net.0.proj.weight
F8_E4M3 128x512 transformer_blocks.{0..7}.{img,txt}_mlp.net.2.weight
F8_E4M3 128x128 transformer_blocks.{0..7}.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}.weight
BF16 768 transformer_blocks.{0..7}.{img,txt}_mod.1.bias
BF16 512 transformer_blocks.{0..7}.{img,txt}_mlp.net.0.proj.bias
BF16 128 transformer_blocks.{0..7}.{img,txt}_mlp.net.2.bias
BF16 128 transformer_blocks.{0..7}.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}.bias
BF16 128 transformer_blocks.{0..7}.attn.{norm_q,norm_k,norm_added_q,norm_added_k}.weight
";

/// What loads such a network onto a card: all of it in BF16, or the first blocks rounded to eight bits, which takes the
/// acted card its time.
struct Deep {
    folder: tempfile::TempDir,
    blocks: usize,
    eight_bits_on_card: bool,
}

impl Deep {
    fn new(blocks: usize, eight_bits_on_card: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::parse(&DEEP.replace("{0..7}", &format!("{{0..{}}}", blocks - 1))).unwrap();
        layout.write_random(&folder.path().join("deep.safetensors"), 3, &mut |_| Ok(())).unwrap();
        Self { folder, blocks, eight_bits_on_card }
    }

    fn in_bf16() -> Self {
        Self::new(8, false)
    }

    fn in_eight_bits() -> Self {
        Self::new(3, true)
    }

    fn on(&self, card: &Card) -> Arc<dyn Diffusion> {
        let file = File::open(self.folder.path().join("deep.safetensors")).unwrap();
        let (card, eight_bits_on_card) = (Some(card.clone()), self.eight_bits_on_card);
        let options = Options { compute: Compute::Bf16, card, eight_bits_on_card, ..Options::default() };
        diffusion::load(file, options).unwrap()
    }
}

#[test]
fn blocks_that_do_not_fit_come_for_each_step() {
    let (deep, step, all) = (Deep::in_bf16(), Step::new(), Streams::new(1 << 40, 1e9));
    let card = Card::new(Host::accounted(all.clone()), PLENTY);
    let whole = deep.on(&card);
    let wanted = step.run(&whole).unwrap();
    let weights = all.count().copied;
    // What is taken is rounded up to where the next begins.
    let work = all.count().peak - weights + (1 << 12);
    assert_eq!(all.count().held, weights);
    assert_eq!((step.run(&whole).unwrap(), all.count().copied), (wanted.clone(), weights));
    let mut moved = Vec::new();
    // Room for all, for all but some, and in the end for less than one block and the work.
    for eighths in (0..=8).rev() {
        let budget = work + weights * eighths / 8;
        let streams = Streams::new(budget, 1e9);
        let card = Card::new(Host::accounted(streams.clone()), Limits { budget, overhead: 0 });
        let network = deep.on(&card);
        let done = (0..2).try_for_each(|_| step.run(&network).map(|found| assert_eq!(found, wanted)));
        if let Err(error) = &done {
            assert!(error.to_string().contains("out of memory"), "{error}");
        }
        let count = streams.count();
        assert!(count.peak <= budget && count.refused == 0, "{eighths} eighths: {count:?}");
        moved.push(done.ok().map(|()| count.copied));
        drop(network);
        assert_eq!(streams.count().rooms, 0, "{eighths} eighths");
    }
    println!("{weights} bytes of weights; brought in two steps, from all room to none: {moved:?}");
    assert_eq!((moved[0], moved[8]), (Some(weights), None));
    assert!(moved[..8].iter().all(Option::is_some), "{moved:?}");
    assert!(moved[..7].windows(2).all(|pair| pair[0] < pair[1]) && moved[7] > moved[1], "{moved:?}");
}

#[test]
fn whichever_piece_of_memory_is_refused_the_step_ends_well_or_says_why() {
    refusals_in_a_first_step(&Deep::in_bf16());
}

#[test]
fn rounded_blocks_bear_refusals_too() {
    refusals_in_a_first_step(&Deep::in_eight_bits());
    refusals_in_a_later_step(&Deep::in_eight_bits());
}

#[expect(clippy::print_stdout, reason = "part of a test")]
fn refusals_in_a_first_step(deep: &Deep) {
    let (step, streams) = (Step::new(), Streams::new(1 << 40, 1e9));
    let card = Card::new(Host::accounted(streams.clone()), PLENTY);
    let first = deep.on(&card);
    let wanted = step.run(&first).unwrap();
    let asked = streams.count().asked;
    drop(first);
    let (mut mended, mut told) = (0, 0);
    for number in 0..asked {
        let (network, before) = (deep.on(&card), streams.count().refused);
        streams.refuse(number);
        match step.run(&network) {
            Ok(found) => {
                assert_eq!(found, wanted, "piece {number}");
                mended += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with("out of memory: ") && text.contains("nothing is left"), "{text}");
                told += 1;
            }
        }
        assert_eq!(streams.count().refused, before + 1);
        assert_eq!(step.run(&network).unwrap(), wanted, "after piece {number}");
        drop(network);
        assert_eq!(streams.count().rooms, 0, "lost after piece {number}");
    }
    println!("of {asked} refusals in the first step {mended} were mended, {told} told");
    assert!(mended >= deep.blocks - 2 && told > 0);
}

#[test]
fn whatever_a_later_step_is_refused_weights_make_room_for() {
    refusals_in_a_later_step(&Deep::in_bf16());
}

#[expect(clippy::print_stdout, reason = "part of a test")]
fn refusals_in_a_later_step(deep: &Deep) {
    let (step, streams) = (Step::new(), Streams::new(1 << 40, 1e9));
    let card = Card::new(Host::accounted(streams.clone()), PLENTY);
    for number in 0.. {
        let network = deep.on(&card);
        let wanted = step.run(&network).unwrap();
        let (weights, before) = (streams.count().held, streams.count().refused);
        streams.refuse(number);
        assert_eq!(step.run(&network).unwrap(), wanted, "piece {number}");
        if streams.count().refused == before {
            println!("{number} refusals in a later step were mended");
            assert!(number > 5, "{number}");
            break;
        }
        assert!(streams.count().held < weights, "piece {number}");
    }
}

#[test]
fn a_card_with_less_memory_than_it_said_is_found_out_once() {
    let (deep, step, all) = (Deep::in_bf16(), Step::new(), Streams::new(1 << 40, 1e9));
    let card = Card::new(Host::accounted(all.clone()), PLENTY);
    let network = deep.on(&card);
    let wanted = step.run(&network).unwrap();
    // Another program takes half of what is free beside the weights, and some of their room.
    let (weights, peak) = (all.count().held, all.count().peak);
    all.shrink((1 << 40) - weights - (peak - weights) / 2);
    let refused = || {
        let before = all.count().refused;
        assert_eq!(step.run(&network).unwrap(), wanted);
        all.count().refused - before
    };
    assert!(refused() > 0);
    let later: Vec<u64> = (0..4).map(|_| refused()).collect();
    assert_eq!(later.iter().sum::<u64>(), 0, "{later:?}");
}

#[test]
fn a_network_that_no_card_computes_is_computed_by_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny_kin::save(folder.path(), "tiny.safetensors", &tiny_qwen_21::tensors());
    let load =
        |card| diffusion::load(File::open(&path).unwrap(), Options { card, ..Options::default() }).unwrap();
    let cond = Cond::new(tensor(&[1, 5, tiny_qwen_21::TEXT], 0.11));
    let x = tensor(&[1, tiny_qwen_21::CHANNELS, 1, 4, 2], 0.71);
    let [with, without] = [load(Some(card())), load(None)]
        .map(|network| network.forward(&x, 0.8, &[&cond], &Stop::new()).unwrap().remove(0));
    assert!(distance(&with, &without) <= 0.0);
}

#[test]
fn what_comes_for_each_step_is_rounded_each_time() {
    let (deep, step, all) = (Deep::in_eight_bits(), Step::new(), Streams::new(1 << 40, 1e9));
    let card = Card::new(Host::accounted(all.clone()), PLENTY);
    let network = deep.on(&card);
    let wanted = step.run(&network).unwrap();
    let Count { copied: weights, launched: first, peak, .. } = all.count();
    assert_eq!(step.run(&network).unwrap(), wanted);
    let rounding = 2 * first - all.count().launched;
    assert_eq!(rounding, 3 * 12 * 3, "three launches for each large matrix of each block, once");
    let budget = peak + (1 << 12) - weights / 2;
    let streams = Streams::new(budget, 1e9);
    let card = Card::new(Host::accounted(streams.clone()), Limits { budget, overhead: 0 });
    let network = deep.on(&card);
    for _ in 0..2 {
        assert_eq!(step.run(&network).unwrap(), wanted);
    }
    let count = streams.count();
    assert!(count.peak <= budget && count.refused == 0 && count.copied > weights, "{count:?}");
    assert!(count.launched > 2 * first - rounding, "{count:?}");
}

/// A launch that fails in the midst of rounding a block leaves matrices that are rounded and others that are not.
#[test]
fn whichever_launch_fails_the_next_step_is_right() {
    let (step, streams, deep) = (Step::new(), Streams::new(1 << 40, 1e9), Deep::new(1, true));
    let card = Card::new(Host::accounted(streams.clone()), PLENTY);
    let network = deep.on(&card);
    let wanted = step.run(&network).unwrap();
    let launches = streams.count().launched;
    // Every seventh, so that it is each of the three that round a matrix.
    for number in (0..launches).step_by(7) {
        let network = deep.on(&card);
        streams.break_launch(number);
        let told = step.run(&network).unwrap_err().to_string();
        assert!(told.contains("it was to fail"), "{told}");
        assert_eq!(step.run(&network).unwrap(), wanted, "after launch {number}");
    }
}
