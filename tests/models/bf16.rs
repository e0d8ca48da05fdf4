//! BF16 arithmetic, as graphics cards have it, against what ComfyUI recorded with it.
//!
//! Two correct implementations round at different places, so their results are as far from each other as two
//! independent errors are: the square root of two times what either is from the F32 result.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd::model::diffusion::Options;
use comfyd::model::{Compute, Diffusion as _, ReferenceMethod, Vae, vae};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::golden::{Case, relative_l2};
use crate::{qwen_image, tiny_qwen};

/// One recorded run under both arithmetics.
struct Pair {
    bf16: Case,
    f32: Case,
}

impl Pair {
    fn open(name: &str) -> Self {
        Self { bf16: Case::under("bf16", name), f32: Case::open(name) }
    }

    /// Asserts that `found` differs from the recorded BF16 result by roundings alone.
    fn assert_rounded(&self, name: &str, found: &Tensor) {
        let [bf16, f32] = [&self.bf16, &self.f32].map(|case| case.kept_values(name).unwrap());
        let reach = std::f64::consts::SQRT_2 * relative_l2(&bf16, &f32);
        assert!(self.bf16.assert_close(name, found, reach), "{}: {name} in BF16", self.bf16.name);
    }
}

#[test]
fn velocities_differ_from_the_recorded_bf16_ones_by_roundings_alone() {
    let options = Options { compute: Compute::Bf16, ..Options::default() };
    let network = qwen_image::network(tiny_qwen::DIFFUSION_FP8, options);
    for name in ["t2i_basic", "t2i_cfg1", "user_graph", "ref_1img"] {
        let pair = Pair::open(name);
        for call in 0..2 {
            let (x, t, cond) = qwen_image::inputs(&pair.f32, call, ReferenceMethod::Index).unwrap();
            let out = network.forward(&x, t, &[&cond], &Stop::new()).unwrap();
            pair.assert_rounded(&format!("dit{call}.out"), &out[0]);
        }
    }
}

#[test]
fn pictures_differ_from_the_recorded_bf16_ones_by_roundings_alone() {
    let file = File::open(tiny_qwen::models().join(tiny_qwen::VAE)).unwrap();
    let vae: Arc<dyn Vae> = vae::load(file, Compute::Bf16).unwrap();
    for name in ["t2i_basic", "t2i_cfg1", "user_graph", "ref_1img", "i2i_060"] {
        let pair = Pair::open(name);
        let latent = pair.bf16.whole("latent_out.0").unwrap_or_else(|| panic!("{name}: the final latent"));
        let image = vae.decode(&latent, &Stop::new()).unwrap().reshape(pair.f32.shape("image.0")).unwrap();
        pair.assert_rounded("image.0", &image);
    }
}
