//! Samplers with other settings than those of the list. Knows no formulas: they are beside their methods.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    Adaptive, Correction, ErSde, Growth, Method, Sampler, Sampling, Stochastic, StochasticAdams, dpm_solver,
    dpmpp, dpmpp_sde, euler, multistep, sa_solver, seeds,
};
use crate::sampling::Result;

impl Sampler {
    fn tuned(
        name: &'static str,
        method: impl Fn(&mut Sampling<'_>, Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        let method = Method::Tuned(Arc::new(method));
        Self { name, method, skips_second_to_last: false, fresh_mask_noise: false }
    }

    pub fn euler_ancestral(stochastic: Stochastic) -> Self {
        Self::tuned("euler_ancestral", move |run, x| euler::euler_ancestral(run, x, stochastic))
    }

    pub fn euler_ancestral_cfg_pp(stochastic: Stochastic) -> Self {
        Self::tuned("euler_ancestral_cfg_pp", move |run, x| euler::euler_cfg_pp(run, x, stochastic))
    }

    /// CFG++ as it was first tried, outside of the list.
    pub fn euler_alternative_cfg_pp() -> Self {
        Self::tuned("euler_pp", euler::euler_alternative_cfg_pp)
    }

    pub fn dpmpp_2s_ancestral(stochastic: Stochastic) -> Self {
        Self::tuned("dpmpp_2s_ancestral", move |run, x| dpmpp::dpmpp_2s_ancestral(run, x, stochastic))
    }

    pub fn lcm_upscale(growth: Growth) -> Self {
        Self::tuned("lcm_upscale", move |run, x| euler::lcm_upscale(run, x, &growth))
    }

    /// `r`: the share of a step at which the model is asked a second time.
    pub fn dpmpp_sde(stochastic: Stochastic, r: f64) -> Self {
        Self::tuned("dpmpp_sde", move |run, x| dpmpp_sde::dpmpp_sde(run, x, stochastic, r))
    }

    pub fn dpmpp_2m_sde(stochastic: Stochastic, correction: Correction) -> Self {
        Self::tuned("dpmpp_2m_sde", move |run, x| dpmpp_sde::dpmpp_2m_sde(run, x, stochastic, correction))
    }

    pub fn dpmpp_3m_sde(stochastic: Stochastic) -> Self {
        Self::tuned("dpmpp_3m_sde", move |run, x| dpmpp_sde::dpmpp_3m_sde(run, x, stochastic))
    }

    pub fn lms(order: usize) -> Self {
        Self::tuned("lms", move |run, x| multistep::lms(run, x, order))
    }

    pub fn dpm_adaptive(settings: Adaptive) -> Self {
        Self::tuned("dpm_adaptive", move |run, x| dpm_solver::dpm_adaptive(run, x, settings))
    }

    pub fn er_sde(settings: ErSde) -> Self {
        Self::tuned("er_sde", move |run, x| seeds::er_sde(run, x, settings))
    }

    pub fn sa_solver(settings: StochasticAdams) -> Self {
        Self::tuned("sa_solver", move |run, x| sa_solver::sa_solver(run, x, &settings))
    }
}
