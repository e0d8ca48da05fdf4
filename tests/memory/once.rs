//! What need not be computed again is not: a stop that was asked for shows it, since all work looks at that.

use candle_core::{DType, Device, Tensor};
use comfyd::model::diffusion::{self, Options, QwenImage};
use comfyd::model::text::qwen2_5_vl::Encoder;
use comfyd::model::{Compute, Cond, vae};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};

use crate::tiny_qwen;

fn open(name: &str) -> std::sync::Arc<File> {
    File::open(tiny_qwen::models().join(name)).unwrap()
}

fn stopped() -> Stop {
    let stop = Stop::new();
    stop.request();
    stop
}

fn picture(side: usize) -> Tensor {
    Tensor::rand(0f32, 1.0, (1, side, side, 3), &Device::Cpu).unwrap()
}

#[test]
fn a_picture_is_encoded_once_however_often_it_is_referred_to() {
    let vae = vae::load(open(tiny_qwen::VAE), Compute::F32).unwrap();
    let (known, other) = (picture(32), picture(32));
    let first = vae.encode(&known, &Stop::new()).unwrap();
    // The same pixels in another tensor.
    let again = vae.encode(&known.copy().unwrap(), &stopped()).unwrap();
    assert_eq!(
        first.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        again.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    );
    assert!(vae.encode(&other, &stopped()).is_err());
}

#[test]
fn a_picture_is_looked_at_once() {
    let encoder = Encoder::load(Weights::new(open(tiny_qwen::TEXT_ENCODER), "")).unwrap();
    let (known, other) = (picture(56), picture(56));
    encoder.look(&known, &Stop::new()).unwrap();
    encoder.look(&known.copy().unwrap(), &stopped()).unwrap();
    assert!(encoder.look(&other, &stopped()).is_err());
}

#[test]
fn what_depends_on_the_timestep_alone_is_computed_once_for_both_prompts() {
    let (_, weights) = diffusion::detect(&open(tiny_qwen::DIFFUSION_FP8)).unwrap();
    let blocks = weights.count("transformer_blocks");
    let width = weights.shape("txt_norm.weight").unwrap()[0];
    let network = QwenImage::load(weights, Options::default()).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let [one, other] = [5, 9].map(|tokens| Cond::new(zeros(&[1, tokens, width])));
    let mut seen = Vec::new();
    let latent = zeros(&[1, 16, 1, 8, 8]);
    let mut watch = |name: &str, _: &Tensor| seen.push(name.to_owned());
    network.forward_watched(&latent, 0.5, &[&one, &other], &Stop::new(), &mut watch).unwrap();
    let count = |start: &str| seen.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((count("modulation."), count("temb.")), (blocks, 1));
}
