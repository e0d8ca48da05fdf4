//! What a run promises apart from its numbers.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use comfyd::model::diffusion::{self, Options};
use comfyd::model::{Diffusion, Flow};
use comfyd::sampling::{
    Entry, Error, Guidance, InitialNoise, Model, Request, Result, Sampled, Sampler, Watched, sample, schedule,
};
use comfyd::stop::{Stop, Stopped};
use comfyd::weights::File;

use crate::golden::Case;
use crate::tiny_qwen;

fn model() -> Model {
    static NETWORK: OnceLock<Arc<dyn Diffusion>> = OnceLock::new();
    let network = NETWORK.get_or_init(|| {
        let file = tiny_qwen::models().join(tiny_qwen::DIFFUSION_FP8);
        diffusion::load(File::open(file).unwrap(), Options::default()).unwrap()
    });
    Model::new(network.clone()).with_flow(Flow::Discrete { shift: 3.0, multiplier: 1.0 })
}

/// Two prompts.
fn prompts() -> [Entry; 2] {
    let case = Case::open("t2i_basic");
    ["cond.1", "cond.0"].map(|name| Entry::new(case.whole(name).unwrap()))
}

fn zeros(batch: usize, channels: usize) -> Tensor {
    Tensor::zeros((batch, channels, 4, 6), DType::F32, &Device::Cpu).unwrap()
}

const SIGMAS: [f32; 4] = [1.0, 0.75, 0.5, 0.0];

fn request<'a>(latent: &'a Tensor, positive: &'a [Entry], negative: &'a [Entry]) -> Request<'a> {
    static EULER: OnceLock<Sampler> = OnceLock::new();
    Request {
        latent,
        noise: InitialNoise::Batch,
        seed: 5,
        sampler: EULER.get_or_init(|| Sampler::find("euler").unwrap()),
        sigmas: &SIGMAS,
        guidance: Guidance::ClassifierFree { positive, negative, cfg: 2.0 },
        mask: None,
    }
}

fn run(request: &Request<'_>) -> Result<Sampled> {
    sample(&model(), request, &mut |_| Ok(()), &Stop::new())
}

/// The largest difference of two latents.
fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn a_blank_latent_of_any_channels_is_a_blank_sheet() {
    let [positive, negative] = prompts();
    let sides = [std::slice::from_ref(&positive), std::slice::from_ref(&negative)];
    let [four, sixteen] =
        [4, 16].map(|channels| run(&request(&zeros(1, channels), sides[0], sides[1])).unwrap().latent);
    assert_eq!(four.dims(), [1, 16, 1, 4, 6]);
    assert!(difference(&four, &sixteen) <= 0.0);
}

#[test]
fn a_latent_of_another_model_is_refused_with_both_channel_counts() {
    let [positive, _] = prompts();
    let latent = (zeros(1, 4) + 1.0).unwrap();
    let error = run(&request(&latent, &[positive], &[])).unwrap_err();
    assert!(matches!(error, Error::Channels { found: 4, expected: 16 }), "{error}");
    assert!(error.to_string().contains("VAE"), "{error}");
}

#[test]
fn without_sigmas_the_latent_comes_back_as_it_is() {
    let [positive, _] = prompts();
    let latent = (zeros(2, 16) + 0.3).unwrap();
    let sampled = run(&Request { sigmas: &[], ..request(&latent, &[positive], &[]) }).unwrap();
    assert!(difference(&sampled.latent, &latent.unsqueeze(2).unwrap()) <= 0.0);
    assert!(sampled.denoised.is_none());
}

#[test]
fn a_raised_stop_flag_ends_the_run_as_interrupted() {
    let [positive, negative] = prompts();
    let (latent, sides) = (zeros(1, 16), [[positive], [negative]]);
    let stop = Stop::new();
    let mut steps = 0;
    let mut watch = |_: Watched<'_>| {
        steps += 1;
        stop.request();
        Ok(())
    };
    let result = sample(&model(), &request(&latent, &sides[0], &sides[1]), &mut watch, &stop);
    assert!(matches!(result, Err(Error::Stopped(Stopped))));
    assert_eq!(steps, 1);
}

#[test]
fn an_error_of_the_watcher_ends_the_run() {
    let [positive, _] = prompts();
    let mut steps = 0;
    let mut watch = |_: Watched<'_>| {
        steps += 1;
        Err(Error::Watch("the disk is full".into()))
    };
    let latent = zeros(1, 16);
    let result = sample(&model(), &request(&latent, &[positive], &[]), &mut watch, &Stop::new());
    assert_eq!(result.unwrap_err().to_string(), "the disk is full");
    assert_eq!(steps, 1);
}

#[test]
fn a_schedule_that_is_not_a_number_is_refused() {
    let [positive, _] = prompts();
    let sigmas = schedule::find("kl_optimal").unwrap()(model().flow(), 1);
    let latent = zeros(1, 16);
    let error = run(&Request { sigmas: &sigmas, ..request(&latent, &[positive], &[]) }).unwrap_err();
    assert!(matches!(error, Error::BadSigma { index: 0 }), "{error}");
}

#[test]
fn predictions_that_are_not_numbers_are_an_error_at_once() {
    let [positive, negative] = prompts();
    let broken = [Entry { text: (positive.text / 0.0).unwrap(), ..negative }];
    let latent = zeros(1, 16);
    let error = run(&request(&latent, &broken, &broken)).unwrap_err();
    assert!(matches!(error, Error::BadPrediction { sigma } if sigma >= 1.0), "{error}");
}

#[test]
fn prompts_take_turns_in_their_parts_of_the_run() {
    let [first, second] = prompts();
    let middle = 0.5;
    // Half the way of this schedule is sigma 0.75, where both count in ComfyUI; just below it only one.
    let part = |entry: &Entry, span| Entry { span: Some(span), ..entry.clone() };
    let turns = [part(&first, [0.0, middle - 1e-6]), part(&second, [middle - 1e-6, 1.0])];
    let latent = zeros(1, 16);
    let guidance = Guidance::Positive(&turns);
    let whole = run(&Request { guidance, ..request(&latent, &[], &[]) }).unwrap().latent;
    let guidance = Guidance::Positive(std::slice::from_ref(&first));
    let begin =
        run(&Request { guidance, sigmas: &SIGMAS[..2], ..request(&latent, &[], &[]) }).unwrap().latent;
    let end = run(&Request {
        guidance: Guidance::Positive(std::slice::from_ref(&second)),
        sigmas: &SIGMAS[1..],
        noise: InitialNoise::Absent,
        ..request(&begin, &[], &[])
    });
    assert!(difference(&whole, &end.unwrap().latent) < 1e-3);
}

#[test]
fn a_prompt_beside_itself_changes_nothing() {
    let [positive, negative] = prompts();
    let latent = zeros(1, 16);
    let doubled = [Entry { strength: 0.3, ..positive.clone() }, Entry { strength: 0.9, ..positive.clone() }];
    let negative = [negative];
    let once = run(&request(&latent, &[positive], &negative)).unwrap().latent;
    let twice = run(&request(&latent, &doubled, &negative)).unwrap().latent;
    assert!(difference(&once, &twice) < 1e-3);
}

#[test]
fn a_mask_of_ones_is_no_mask_and_one_of_zeros_keeps_everything() {
    let [positive, negative] = prompts();
    let sides = [[positive], [negative]];
    let latent = (zeros(1, 16) + 0.3).unwrap();
    let plain = request(&latent, &sides[0], &sides[1]);
    let ones = Tensor::ones((1, 32, 48), DType::F32, &Device::Cpu).unwrap();
    let open = run(&Request { mask: Some(&ones), ..plain }).unwrap().latent;
    assert!(difference(&open, &run(&plain).unwrap().latent) < 1e-4);
    let closed = run(&Request { mask: Some(&ones.zeros_like().unwrap()), ..plain }).unwrap().latent;
    assert!(difference(&closed, &latent.unsqueeze(2).unwrap()) < 1e-5);
}

#[test]
fn an_item_of_a_batch_is_what_its_index_gives_alone() {
    let [positive, negative] = prompts();
    let sides = [[positive], [negative]];
    let (pair, single) = (zeros(2, 16), zeros(1, 16));
    let batch = Request { noise: InitialNoise::Items(&[3, 1]), ..request(&pair, &sides[0], &sides[1]) };
    let alone = Request { noise: InitialNoise::Items(&[1]), ..request(&single, &sides[0], &sides[1]) };
    let second = run(&batch).unwrap().latent.narrow(0, 1, 1).unwrap();
    assert!(difference(&second, &run(&alone).unwrap().latent) < 1e-4);
}

#[test]
fn the_last_clean_estimate_is_given_beside_the_latent() {
    let [positive, negative] = prompts();
    let latent = zeros(1, 16);
    // Euler ends at the clean estimate of its last step.
    let sampled = run(&request(&latent, &[positive], &[negative])).unwrap();
    assert!(difference(&sampled.latent, &sampled.denoised.unwrap()) < 1e-4);
}
