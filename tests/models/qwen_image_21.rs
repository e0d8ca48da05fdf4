//! Qwen-Image 2.1's diffusion transformer, of two blocks with weights from draws. `values/qwen_image_21.safetensors`
//! holds what diffusers 0.42.1 (torch 2.15, `f32`) makes of the same weights and draws.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use candle_core::{Device, Tensor};
use comfyd::model::diffusion::{self, Options};
use comfyd::model::estimate::Estimate;
use comfyd::model::{Compute, Cond, Diffusion, Error, Flow, Precision, Prefix, latents};
use comfyd::sampling::{Entry, Guidance, InitialNoise, Model, Request, Sampler, preview, sample};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::golden::{self, relative_l2};
use crate::tiny_kin::{self, Tensors, draw};
use crate::tiny_qwen_21::{CHANNELS, TEXT, WIDTH, tensors};

/// Relative L2 distance: sums in another order differ by less, and any mistake by more.
const CLOSE: f64 = 2e-5;

static EXPECTED: LazyLock<Tensors> = LazyLock::new(|| {
    candle_core::safetensors::load(golden::path("../values/qwen_image_21.safetensors"), &Device::Cpu).unwrap()
});

fn file(name: &str, tensors: &Tensors) -> Arc<File> {
    let folder = tempfile::tempdir().unwrap();
    File::open(tiny_kin::save(folder.path(), name, tensors)).unwrap()
}

fn network(compute: Compute) -> Arc<dyn Diffusion> {
    diffusion::load(file("tiny.safetensors", &tensors()), Options { compute, ..Options::default() }).unwrap()
}

fn exact() -> Arc<dyn Diffusion> {
    network(Compute::F32)
}

/// The network's tensors as ComfyUI's files have them.
fn fused() -> Tensors {
    let mut all = tensors();
    for index in 0..2 {
        let mut take =
            |part: &str| all.remove(&format!("transformer_blocks.{index}.img_mlp.{part}.weight")).unwrap();
        let both = Tensor::cat(&[take("gate_layer"), take("proj")], 0).unwrap();
        all.insert(format!("transformer_blocks.{index}.img_mlp.gate_up.weight"), both);
    }
    all
}

fn latent(seed: u64, batch: usize, h: usize, w: usize) -> Tensor {
    draw(seed, &[batch, CHANNELS, 1, h, w], 1.0)
}

/// Nine rows of text with rows of pictures among them: each as many as said, before the row of the text that is said.
fn cond(pictures: &[(usize, usize)], references: Vec<Tensor>) -> Cond {
    let text = draw(1, &[1, 9, TEXT], 1.0);
    let (mut parts, mut ranges, mut at, mut row) = (Vec::new(), Vec::new(), 0, 0);
    for (before, count) in pictures {
        parts.push(text.narrow(1, at, before - at).unwrap());
        parts.push(draw(99, &[1, *count, TEXT], 1.0));
        row += before - at;
        ranges.push(row..row + count);
        (at, row) = (*before, row + count);
    }
    parts.push(text.narrow(1, at, 9 - at).unwrap());
    let filled: Vec<_> = parts.into_iter().filter(|part| part.dim(1).unwrap() > 0).collect();
    Cond { pictures: ranges, references, ..Cond::new(Tensor::cat(&filled, 1).unwrap()) }
}

/// The text and a reference in it.
fn referring() -> Cond {
    cond(&[(3, 4)], vec![latent(4, 1, 4, 4)])
}

fn noisy() -> Tensor {
    latent(2, 1, 4, 6)
}

fn predict(network: &dyn Diffusion, x: &Tensor, t: f64, cond: &Cond) -> Tensor {
    let found = network.forward(x, t, &[cond], &Stop::new()).unwrap().remove(0);
    assert_eq!(found.dims(), x.dims());
    found
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let values = |x: &Tensor| -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    relative_l2(&values(found), &values(expected))
}

fn assert_close(name: &str, found: &Tensor) {
    let error = distance(found, &EXPECTED[name]);
    golden::record("Qwen-Image 2.1", error, CLOSE);
    assert!(error < CLOSE, "{name} is off by {error:.1e}");
}

fn keeping(network: &Arc<dyn Diffusion>, prefix: Prefix) -> Arc<dyn Diffusion> {
    network.keeping(prefix).unwrap().unwrap()
}

#[test]
fn text_alone_gives_the_recorded_velocity_at_any_timestep() {
    let network = exact();
    let cond = cond(&[], Vec::new());
    for (name, t) in [("text at 1.0", 1.0), ("text at 0.6", 0.6), ("text at 0.05", 0.05)] {
        assert_close(name, &predict(network.as_ref(), &noisy(), t, &cond));
    }
    let batch = predict(network.as_ref(), &latent(3, 2, 4, 4), 0.7, &cond);
    assert_close("a batch", &batch);
}

#[test]
fn references_take_the_places_of_their_pictures() {
    let network = exact();
    let references = || vec![latent(4, 1, 4, 4), latent(5, 1, 2, 4)];
    let check = |name: &str, t: f64, cond: &Cond| {
        assert_close(name, &predict(network.as_ref(), &noisy(), t, cond));
    };
    check("a reference", 0.6, &referring());
    // The size of a picture in the text is the text encoder's matter.
    check("a reference", 0.6, &cond(&[(3, 1)], vec![latent(4, 1, 4, 4)]));
    check("two references side by side", 0.6, &cond(&[(2, 4), (2, 2)], references()));
    check("two references apart", 0.3, &cond(&[(2, 4), (5, 2)], references()));
    check("a reference after the text", 0.6, &cond(&[], vec![latent(4, 1, 4, 4)]));
    let odd = cond(&[(4, 3)], vec![latent(7, 1, 5, 3)]);
    assert_close("odd sides", &predict(network.as_ref(), &latent(6, 1, 3, 5), 0.45, &odd));
}

#[test]
fn pictures_without_a_reference_stay_text() {
    let network = exact();
    let seen = cond(&[(3, 4)], Vec::new());
    let as_text = Cond::new(seen.text.clone());
    let [seen, as_text] = [seen, as_text].map(|cond| predict(network.as_ref(), &noisy(), 0.6, &cond));
    assert!(distance(&seen, &as_text) <= 0.0);
    assert!(distance(&seen, &EXPECTED["text at 0.6"]) > 0.01);
}

#[test]
fn what_the_first_step_keeps_is_what_the_others_compute() {
    let network = exact();
    let anew = keeping(&network, Prefix::Recomputed);
    let [kept, never] = [referring(), referring()];
    for t in [0.9, 0.6] {
        let [kept, never] = [(&network, &kept), (&anew, &never)]
            .map(|(network, cond)| predict(network.as_ref(), &noisy(), t, cond));
        assert!(distance(&kept, &never) <= 0.0, "at {t}");
    }
    assert_close("a reference", &predict(network.as_ref(), &noisy(), 0.6, &kept));
}

#[test]
fn what_is_kept_in_fewer_bits_is_less_exact_and_the_same_in_all_steps() {
    let network = exact();
    let errors = [(Precision::Int8, 5e-3), (Precision::Int4, 0.08)].map(|(precision, bound)| {
        let network = keeping(&network, Prefix::Kept(precision));
        let cond = referring();
        let [first, second] = [0; 2].map(|_| predict(network.as_ref(), &noisy(), 0.6, &cond));
        assert!(distance(&first, &second) <= 0.0, "{precision:?}");
        let error = distance(&first, &EXPECTED["a reference"]);
        assert!(error < bound, "{precision:?} is off by {error:.1e}");
        error
    });
    assert!(CLOSE < errors[0] && 4.0 * errors[0] < errors[1], "{errors:?}");
}

#[test]
fn what_was_kept_is_of_one_conditioning_and_one_network() {
    let network = exact();
    let first = referring();
    predict(network.as_ref(), &noisy(), 0.6, &first);
    let moved = Cond { pictures: Vec::new(), ..first.clone() };
    let other = Cond {
        text: cond(&[], Vec::new()).text,
        references: Vec::new(),
        pictures: Vec::new(),
        ..first.clone()
    };
    assert_close("text at 0.6", &predict(network.as_ref(), &noisy(), 0.6, &other));
    let found = predict(network.as_ref(), &noisy(), 0.6, &moved);
    assert!(distance(&found, &EXPECTED["a reference"]) > 1e-3);
    let skipping = network.without_blocks(&[0, 7]).unwrap();
    assert_close("without a block", &predict(skipping.as_ref(), &noisy(), 0.6, &first));
    assert_close("a reference", &predict(network.as_ref(), &noisy(), 0.6, &first));
}

#[test]
fn several_conditionings_share_a_step_without_mixing() {
    let network = exact();
    let [one, other] = [referring(), cond(&[], Vec::new())];
    for _ in 0..2 {
        let both = network.forward(&noisy(), 0.6, &[&one, &other], &Stop::new()).unwrap();
        assert_close("a reference", &both[0]);
        assert_close("text at 0.6", &both[1]);
    }
}

#[test]
fn texts_and_frames_of_a_batch_keep_to_themselves() {
    let network = exact();
    let texts = [draw(1, &[1, 9, TEXT], 1.0), draw(8, &[1, 9, TEXT], 1.0)];
    let x = draw(3, &[2, CHANNELS, 3, 2, 2], 1.0);
    let whole = predict(network.as_ref(), &x, 0.6, &Cond::new(Tensor::cat(&texts, 0).unwrap()));
    for (item, text) in texts.into_iter().enumerate() {
        for frame in 0..3 {
            let part = |x: &Tensor| x.narrow(0, item, 1).unwrap().narrow(2, frame, 1).unwrap();
            let alone = predict(network.as_ref(), &part(&x), 0.6, &Cond::new(text.clone()));
            assert!(distance(&part(&whole), &alone) < 1e-6, "item {item}, frame {frame}");
        }
    }
}

#[test]
fn rounding_where_graphics_cards_round_stays_near() {
    for (compute, bound) in [(Compute::Fast, 0.03), (Compute::Bf16, 0.03)] {
        let network = network(compute);
        let cond = referring();
        for _ in 0..2 {
            let error = distance(&predict(network.as_ref(), &noisy(), 0.6, &cond), &EXPECTED["a reference"]);
            assert!(error < bound, "{compute:?} is off by {error:.1e}");
        }
    }
}

#[test]
fn a_lora_gives_the_recorded_velocity() {
    let modules = [
        ("transformer.transformer_blocks.0.attn.to_q", WIDTH),
        ("diffusion_model.transformer_blocks.1.img_mlp.gate_layer", 3 * WIDTH),
        ("modulation.1", 4 * WIDTH),
    ];
    let keys = modules.iter().enumerate().flat_map(|(index, (module, outputs))| {
        let seed = 300 + 2 * index as u64;
        [
            (format!("{module}.lora_A.weight"), draw(seed, &[4, WIDTH], 0.2)),
            (format!("{module}.lora_B.weight"), draw(seed + 1, &[*outputs, 4], 0.2)),
        ]
    });
    let lora = file("lora.safetensors", &keys.collect());
    let adapted = exact().with_lora(lora, 0.5).unwrap();
    assert_eq!(adapted.used.len(), 6);
    assert_close("a LoRA", &predict(adapted.network.as_ref(), &noisy(), 0.6, &referring()));
}

/// LoRAs call the parts by their own names either way.
#[test]
fn gates_that_lie_in_one_matrix_with_what_they_open_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let module = "diffusion_model.transformer_blocks.1.img_mlp.proj";
    let keys = [
        (format!("{module}.lora_A.weight"), draw(300, &[4, WIDTH], 0.2)),
        (format!("{module}.lora_B.weight"), draw(301, &[3 * WIDTH, 4], 0.2)),
    ];
    let lora = file("lora.safetensors", &keys.into_iter().collect());
    let check = |[apart, together]: [PathBuf; 2]| {
        let [apart, together] = [apart, together].map(|path| {
            let plain = diffusion::load(File::open(path).unwrap(), Options::default()).unwrap();
            let adapted = plain.with_lora(lora.clone(), 0.5).unwrap();
            assert_eq!(adapted.used.len(), 2);
            [plain, adapted.network].map(|network| predict(network.as_ref(), &noisy(), 0.6, &referring()))
        });
        for (apart, together) in apart.iter().zip(&together) {
            assert!(distance(apart, together) <= 0.0);
        }
        assert!(distance(&apart[0], &apart[1]) > 1e-3);
    };
    let files = [("apart.safetensors", tensors()), ("together.safetensors", fused())];
    check(files.each_ref().map(|(name, tensors)| tiny_kin::save(folder.path(), name, tensors)));
    check(files.map(|(name, tensors)| tiny_kin::save_in_eight_bits(folder.path(), name, &tensors)));
}

/// As `scheduler_config.json` of Qwen/Qwen-Image-2.1 has it: between 0.5 for 256 tokens and 0.9 for 8192.
#[test]
fn the_schedule_is_the_published_one_at_1024_by_1024() {
    let published = 0.5 + 0.4 * f64::from(64 * 64 - 256) / f64::from(8192 - 256);
    let flow = exact().flow();
    assert!(matches!(flow, Flow::Exponential { mu } if (mu - published).abs() < 5e-3), "{flow:?}");
}

/// A step over the text and a reference, counted by hand.
#[test]
fn estimates_count_what_comes_before_the_target_once() {
    let network = exact();
    let anew = keeping(&network, Prefix::Recomputed);
    let cond = referring();
    let estimate = |network: &Arc<dyn Diffusion>| network.estimate(noisy().dims(), &[&cond]).unwrap();
    let (w, before, target) = (WIDTH as f64, 9.0 + 16.0, 24.0);
    let block = 2.0 * (4.0 + 9.0) * w * w;
    let time = 2.0 * (2.0 * (256.0 + w + 4.0 * w) * w) + 2.0 * w * w;
    let always = time + 2.0 * block * target + 2.0 * 2.0 * 64.0 * w * target;
    // All thirteen rows of the text are read, though four of them make room for the reference.
    let once = 2.0 * block * before + 2.0 * 64.0 * w * 16.0 + 2.0 * (32.0 + w) * w * 13.0;
    let seeing = |rows: f64, seen: f64| 2.0 * 4.0 * rows * seen * w;
    let seen_once = seeing(3.0, 3.0) + seeing(16.0, 19.0) + seeing(6.0, 25.0);
    let check = |estimate: &Estimate, products: f64, attention: f64| {
        let work = estimate.work();
        assert!((work.products / products - 1.0).abs() < 1e-9, "{} of {products}", work.products);
        assert!((work.attention / attention - 1.0).abs() < 1e-9, "{} of {attention}", work.attention);
    };
    for _ in 0..2 {
        check(&estimate(&network), always + once, seeing(24.0, 49.0) + seen_once);
    }
    let [keeps, forgets] = [&network, &anew].map(|network| estimate(network).working_bytes);
    assert_eq!(keeps - forgets, 2 * 2 * 25 * 256 * 4);
    predict(network.as_ref(), &noisy(), 0.6, &cond);
    check(&estimate(&network), always, seeing(24.0, 49.0));
    check(&estimate(&anew), always + once, seeing(24.0, 49.0) + seen_once);
}

#[test]
fn plans_count_it_once_too() {
    let ledger = comfyd::model::dry::Ledger::default();
    let dry = ledger.diffusion(exact());
    let cond = referring();
    for t in [0.9, 0.6, 0.3] {
        predict(dry.as_ref(), &noisy(), t, &cond);
    }
    let steps: Vec<f64> = ledger.entries().iter().map(|estimate| estimate.work().products).collect();
    assert!(steps[0] > steps[1] && (steps[1] - steps[2]).abs() <= 0.0, "{steps:?}");
}

#[test]
fn a_stopped_step_keeps_nothing() {
    let network = exact();
    let cond = referring();
    let stop = Stop::new();
    stop.request();
    assert!(matches!(network.forward(&noisy(), 0.6, &[&cond], &stop), Err(Error::Stopped(_))));
    let fresh = network.estimate(noisy().dims(), &[&cond]).unwrap().work();
    predict(network.as_ref(), &noisy(), 0.6, &cond);
    assert!(network.estimate(noisy().dims(), &[&cond]).unwrap().work().products < fresh.products);
}

#[test]
fn inputs_and_files_of_other_models_are_refused_in_words() {
    let network = exact();
    let refusal =
        |x: &Tensor, cond: &Cond| network.forward(x, 0.6, &[cond], &Stop::new()).unwrap_err().to_string();
    let other = |expected, found| {
        format!("expected vectors of {expected} numbers, found {found}; these inputs belong to another model")
    };
    let wide = Cond::new(draw(1, &[1, 3, 64], 1.0));
    assert_eq!(refusal(&noisy(), &wide), other(32, 64));
    let narrow = draw(1, &[1, 16, 1, 4, 4], 1.0);
    assert_eq!(refusal(&narrow, &referring()), other(64, 16));
    let mut damaged = tensors();
    damaged.insert("transformer_blocks.1.attn.to_k.weight".to_owned(), draw(1, &[8, 8], 1.0));
    damaged.remove("proj_out.weight");
    let message =
        diffusion::load(file("bad.safetensors", &damaged), Options::default()).err().unwrap().to_string();
    assert!(message.contains("proj_out.weight"), "{message}");
}

#[test]
fn the_families_know_their_files() {
    let name = |tensors: &Tensors| diffusion::detect(&file("some.safetensors", tensors)).unwrap().0.name();
    assert_eq!(name(&tensors()), "Qwen-Image 2.1");
    let below = tensors().into_iter().map(|(name, x)| (format!("model.diffusion_model.{name}"), x));
    assert_eq!(name(&below.collect()), "Qwen-Image 2.1");
    assert_eq!(name(&tiny_kin::read(crate::tiny_qwen::DIFFUSION_BF16)), "Qwen-Image");
}

#[test]
fn a_blank_sheet_for_any_model_has_the_cells_of_this_one_and_no_preview() {
    let model = Model::new(exact());
    let blank = Tensor::zeros((1, 4, 6, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    let positive = [Entry::new(draw(1, &[1, 9, TEXT], 1.0))];
    let request = Request {
        latent: &blank,
        noise: InitialNoise::Batch,
        seed: 5,
        sampler: &Sampler::find("euler").unwrap(),
        sigmas: &[1.0, 0.5, 0.0],
        guidance: Guidance::ClassifierFree { positive: &positive, negative: &positive, cfg: 1.0 },
        mask: None,
    };
    let sampled = sample(&model, &request, &mut |_| Ok(()), &Stop::new()).unwrap();
    assert_eq!(sampled.latent.dims(), [1, 64, 1, 3, 4]);
    assert!(preview(&latents::QWEN_IMAGE_2_1, &sampled.latent).unwrap().is_none());
}
