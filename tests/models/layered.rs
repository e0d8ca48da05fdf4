//! Layered pictures, and ControlNets that use layers of the model they steer. `values/layered.safetensors` holds what
//! the networks of ComfyUI of February 2026 make of the same weights and draws.

use std::sync::{Arc, LazyLock};

use candle_core::{Device, Tensor};
use comfyd::model::control::{self, Control, Seen, Steering};
use comfyd::model::diffusion::{Options, QwenImage};
use comfyd::model::{self, Compute, Cond, Diffusion, Hint, ReferenceMethod, Result, Vae, vae};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};

use crate::golden::{self, relative_l2};
use crate::tiny_kin::{self, Tensors, draw};
use crate::tiny_qwen;

static EXPECTED: LazyLock<Tensors> = LazyLock::new(|| {
    candle_core::safetensors::load(golden::path("../values/layered.safetensors"), &Device::Cpu).unwrap()
});

fn assert_close(name: &str, found: &Tensor) {
    let expected = &EXPECTED[name];
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let values = |x: &Tensor| -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    let error = relative_l2(&values(found), &values(expected));
    golden::record("layers and VideoX-Fun's controls", error, 2e-5);
    assert!(error < 2e-5, "{name} is off by {error:.1e}");
}

fn file(tensors: &Tensors) -> Arc<File> {
    let folder = tempfile::tempdir().unwrap();
    File::open(tiny_kin::save(folder.path(), "tiny.safetensors", tensors)).unwrap()
}

fn network(tensors: &Tensors) -> QwenImage {
    QwenImage::load(Weights::new(file(tensors), ""), Options::default()).unwrap()
}

fn model() -> Tensors {
    tiny_kin::read(tiny_qwen::DIFFUSION_BF16)
}

fn cond(references: Vec<Tensor>, method: Option<ReferenceMethod>) -> Cond {
    Cond { references, reference_method: method, ..Cond::new(draw(1, &[1, 7, 64], 1.0)) }
}

#[test]
fn layers_are_predicted_as_in_comfyui() {
    let network = network(&tiny_kin::layered(model()));
    let check = |name: &str, x: &Tensor, t: f64, cond: &Cond| {
        let found = network.forward(x, t, &[cond], &Stop::new()).unwrap().remove(0);
        assert_close(name, &found);
    };
    let latent = |seed, shape: &[usize]| draw(seed, shape, 1.0);
    let picture = latent(3, &[1, 16, 1, 6, 10]);
    let x = latent(2, &[1, 16, 4, 6, 10]);
    check("layers", &x, 0.8, &cond(Vec::new(), None));
    check("layers of a picture", &x, 0.8, &cond(vec![picture.clone()], None));
    let pictures = vec![latent(6, &[1, 16, 1, 4, 4]), latent(7, &[1, 16, 1, 5, 9])];
    let odd = Cond { text: draw(5, &[1, 3, 64], 1.0), ..cond(pictures, None) };
    check("layers with odd sides in a batch", &latent(4, &[2, 16, 3, 7, 5]), 0.45, &odd);
    let layers = latent(9, &[1, 16, 3, 4, 6]);
    check("a layered reference", &latent(8, &[1, 16, 1, 6, 6]), 0.3, &cond(vec![layers.clone()], None));
    let x = latent(8, &[1, 16, 2, 6, 6]);
    let offset = cond(vec![layers.clone(), picture], Some(ReferenceMethod::Offset));
    check("a layered reference by offset", &x, 0.3, &offset);
    let zero = cond(vec![layers], Some(ReferenceMethod::IndexTimestepZero));
    check("a layered reference at timestep zero", &x, 0.3, &zero);
}

#[test]
fn layers_have_a_fourth_channel() {
    let vae = tiny_kin::layered_vae(tiny_kin::read(tiny_qwen::VAE));
    let vae: Arc<dyn Vae> = vae::load(file(&vae), Compute::F32).unwrap();
    let pixels = |seed, channels| {
        let drawn = draw(seed, &[1, 16, 24, channels], 1.0);
        (drawn.neg().unwrap().exp().unwrap() + 1.0).unwrap().recip().unwrap()
    };
    assert_close("three colours encoded", &vae.encode(&pixels(93, 3), &Stop::new()).unwrap());
    assert_close("four colours encoded", &vae.encode(&pixels(94, 4), &Stop::new()).unwrap());
    let decode = |seed, shape: &[usize]| vae.decode(&draw(seed, shape, 1.0), &Stop::new()).unwrap();
    assert_close("layers decoded", &decode(95, &[3, 16, 1, 3, 2]));
    assert_close("frames decoded", &decode(96, &[1, 16, 2, 3, 2]));
}

/// A hint that is a latent already.
struct Drawn(Tensor);

impl Hint for Drawn {
    fn latent(&self, size: [usize; 2], mask_channels: usize, _stop: &Stop) -> Result<Tensor> {
        assert_eq!((size, mask_channels), ([self.0.dims()[3], self.0.dims()[4]], 0));
        Ok(self.0.clone())
    }
}

#[test]
fn a_control_that_begins_as_the_model_does_says_what_it_says_in_comfyui() {
    let model = model();
    let steered = network(&model);
    let control = control::load(file(&tiny_kin::fun_control_net(&model)), Compute::F32).unwrap();
    let cases = [("control", [6, 10], 1), ("control with odd sides in a batch", [7, 5], 2)];
    for (name, [h, w], batch) in cases {
        let (x, text) = (draw(10, &[batch, 16, 1, h, w], 1.0), draw(1, &[1, 7, 64], 1.0));
        let hint = draw(11, &[1, 16, 1, h, w], 1.0);
        let stop = Stop::new();
        let seen = Seen { network: &steered, x: &x, t: 0.6, text: &text, stop: &stop };
        let said = control.forward(&seen, &hint).unwrap();
        let heard = said.heard.iter().enumerate().filter_map(|(block, word)| Some((block, (*word)?)));
        let first: Vec<_> = heard.take(3).collect();
        assert_eq!(first, [(0, 0), (12, 1), (24, 2)]);
        for (word, tokens) in said.tokens.iter().enumerate() {
            assert_close(&format!("{name}, word {word}"), tokens);
        }
        let control = Arc::new(Control::new(control.clone(), Arc::new(Drawn(hint)), 0.7));
        let cond = Cond { controls: vec![Steering { control, from: 1.0, until: 0.0 }], ..Cond::new(text) };
        assert_close(name, &steered.forward(&x, 0.6, &[&cond], &stop).unwrap()[0]);
    }
}

#[test]
fn such_a_control_steers_its_own_family_only() {
    let control = control::load(file(&tiny_kin::fun_control_net(&model())), Compute::F32).unwrap();
    let (x, text) = (draw(10, &[1, 16, 1, 4, 4], 1.0), draw(1, &[1, 7, 64], 1.0));
    let stop = Stop::new();
    let refused = control.forward(&Seen { network: &(), x: &x, t: 0.6, text: &text, stop: &stop }, &x);
    assert!(matches!(refused, Err(model::Error::OtherFamily)));
}
