//! The VAE on a card that is acted out, beside the same VAE on the processor.

use std::sync::{Arc, LazyLock};

use candle_core::{Device, Tensor};
use comfyd::model::card::Card;
use comfyd::model::vae::{self, Tiling};
use comfyd::model::{Compute, Vae};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::host::{Against, Host};
use crate::network::{PLENTY, distance};
use crate::streams::Streams;
use crate::tiny_qwen;

/// How far the card may be from the network in `f32`, in parts of how far the processor is that rounds to BF16 after each
/// step: a card rounds products, again what is added to them, and the weights of its attention.
const AS_CLOSE: f64 = 2.0;

fn load(compute: Compute) -> Arc<dyn Vae> {
    vae::load(File::open(tiny_qwen::models().join(tiny_qwen::VAE)).unwrap(), compute).unwrap()
}

static EXACT: LazyLock<Arc<dyn Vae>> = LazyLock::new(|| load(Compute::F32));
static BF16: LazyLock<Arc<dyn Vae>> = LazyLock::new(|| load(Compute::Bf16));

fn on_card(host: Host) -> Arc<dyn Vae> {
    EXACT.on_card(&Card::new(host, PLENTY)).unwrap()
}

fn tensor(shape: &[usize], of: impl Fn(f32) -> f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|index| of(index as f32)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn pixels(frames: usize, h: usize, w: usize) -> Tensor {
    tensor(&[frames, h, w, 3], |index| (index * 0.013).sin().abs())
}

fn latents(batch: usize, frames: usize, h: usize, w: usize) -> Tensor {
    tensor(&[batch, 16, frames, h, w], |index| (index * 0.71).sin() * 1.5)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn compare(name: &str, there: &Arc<dyn Vae>, work: impl Fn(&Arc<dyn Vae>) -> Tensor) {
    let exact = work(&EXACT);
    let [ours, theirs] = [there, &BF16].map(|vae| distance(&work(vae), &exact));
    assert!(ours > 0.0 && ours <= AS_CLOSE * theirs, "{name}: card {ours:.2e}, processor {theirs:.2e}");
}

#[test]
fn pictures_on_a_card_are_those_of_the_processor() {
    let (there, stop) = (on_card(Host::new(Against::End, 3)), Stop::new());
    for (h, w) in [(16, 16), (40, 24)] {
        let picture = pixels(1, h, w);
        compare(&format!("encoding {h} x {w}"), &there, |vae| vae.encode(&picture, &stop).unwrap());
    }
    let latent = latents(2, 1, 3, 5);
    compare("decoding two", &there, |vae| vae.decode(&latent, &stop).unwrap());
    let tiling = Tiling::square(3, 1);
    let latent = latents(1, 1, 4, 3);
    compare("decoding in tiles", &there, |vae| vae.decode_tiled(&latent, &tiling, &stop).unwrap());
}

#[test]
fn videos_are_left_to_the_processor() {
    let (there, stop) = (on_card(Host::new(Against::End, 0)), Stop::new());
    let (video, latent) = (pixels(5, 16, 16), latents(1, 2, 2, 2));
    let [ours, theirs] = [&there, &EXACT].map(|vae| values(&vae.encode(&video, &stop).unwrap()));
    assert_eq!(ours, theirs);
    let [ours, theirs] = [&there, &EXACT].map(|vae| values(&vae.decode(&latent, &stop).unwrap()));
    assert_eq!(ours, theirs);
}

#[test]
fn whatever_is_refused_nothing_is_lost() {
    let (latent, stop) = (latents(1, 1, 1, 2), Stop::new());
    let streams = Streams::new(1 << 40, 1e9);
    let there = on_card(Host::accounted(streams.clone()));
    let wanted = values(&there.decode(&latent, &stop).unwrap());
    let asked = streams.count().asked;
    drop(there);
    assert_eq!(streams.count().rooms, 0);
    for number in 0..asked {
        let there = on_card(Host::accounted(streams.clone()));
        streams.refuse(number);
        match there.decode(&latent, &stop) {
            Ok(found) => assert_eq!(values(&found), wanted, "piece {number}"),
            Err(error) => assert!(error.to_string().contains("out of memory"), "{error}"),
        }
        assert_eq!(values(&there.decode(&latent, &stop).unwrap()), wanted, "after piece {number}");
        drop(there);
        assert_eq!(streams.count().rooms, 0, "lost after piece {number}");
    }
}
