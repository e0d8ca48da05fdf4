use candle_core::{Device, Tensor};
use comfyd::model::Flow;
use comfyd::sampling::samplers::{Adaptive, Correction, ErSde, NoiseScale, Stochastic, StochasticAdams};
use comfyd::sampling::samplers::{Denoise, Estimates, Sampling};
use comfyd::sampling::{Noise, Result, SAMPLERS, Sampler, schedule};

/// The deviation of the pictures of [`Gaussian`].
const DEVIATION: f64 = 0.5;

/// The perfect denoiser for pictures of independent normal pixels. The way from noise to picture is
/// known: x keeps its direction and changes its length to `sqrt((1 - sigma)^2 c^2 + sigma^2)`.
struct Gaussian {
    calls: usize,
    /// How much of an estimate there is without guidance.
    unguided: f64,
}

impl Denoise for Gaussian {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.calls += 1;
        let (signal, noise) = ((1.0 - sigma) * DEVIATION, sigma);
        Ok((x * (signal * DEVIATION / (signal * signal + noise * noise)))?)
    }

    /// Without guidance a share of it.
    fn denoise_both(&mut self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let guided = self.denoise(x, sigma)?;
        Ok(Estimates { unguided: (&guided * self.unguided)?, guided })
    }

    fn flow(&self) -> Flow {
        Flow::Discrete { shift: 3.0, multiplier: 1.0 }
    }
}

struct Finished {
    start: Vec<f64>,
    end: Vec<f64>,
    calls: usize,
    reports: Vec<usize>,
}

fn run(sampler: &Sampler, steps: usize, cells: usize) -> Finished {
    let mut model = Gaussian { calls: 0, unguided: 1.0 };
    let simple = schedule::find("simple").unwrap();
    let sigmas: Vec<f64> =
        sampler.sigmas(model.flow(), simple, steps, 1.0).into_iter().map(f64::from).collect();
    let start = Noise::new(11).draw(&[1, 1, 1, 1, cells], &Device::Cpu).unwrap();
    let mut reports = Vec::new();
    let mut watch = |watched: comfyd::sampling::Watched<'_>| {
        assert_eq!(watched.total, steps);
        reports.push(watched.index);
        Ok(())
    };
    let mut sampling = Sampling { model: &mut model, sigmas: &sigmas, seed: 12, watch: &mut watch };
    let end = sampler.run(&mut sampling, start.clone()).unwrap();
    let values = |x: &Tensor| -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    Finished { start: values(&start), end: values(&end), calls: model.calls, reports }
}

/// How far the end is from the known solution, relative to it.
fn error(sampler: &Sampler, steps: usize) -> f64 {
    let Finished { start, end, .. } = run(sampler, steps, 16);
    let distance: f64 = start.iter().zip(&end).map(|(a, b)| (DEVIATION * a - b).powi(2)).sum();
    let length: f64 = start.iter().map(|a| (DEVIATION * a).powi(2)).sum();
    (distance / length).sqrt()
}

#[test]
fn the_list_has_comfyui_s_42_words_in_its_order() {
    let names: Vec<&str> = SAMPLERS.iter().map(|sampler| sampler.name).collect();
    assert_eq!(names.len(), 42);
    assert_eq!(names[..4], ["euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp"]);
    assert_eq!(names[39..], ["ddim", "uni_pc", "uni_pc_bh2"]);
}

#[test]
fn deterministic_samplers_find_the_known_solution() {
    let noise_free = [
        "euler",
        "euler_cfg_pp",
        "heun",
        "heunpp2",
        "dpm_2",
        "lms",
        "dpm_fast",
        "dpm_adaptive",
        "dpmpp_2m",
        "dpmpp_2m_cfg_pp",
        "ipndm",
        "ipndm_v",
        "deis",
        "res_multistep",
        "res_multistep_cfg_pp",
        "gradient_estimation",
        "gradient_estimation_cfg_pp",
        "ddim",
        "uni_pc",
        "uni_pc_bh2",
    ];
    for name in noise_free {
        let error = error(&Sampler::find(name).unwrap(), 80);
        assert!(error < 0.04, "{name} ends {error:.4} away");
    }
}

#[test]
fn twice_the_steps_quarter_the_error_of_second_order_samplers() {
    for name in ["heun", "dpm_2", "lms", "ipndm", "ipndm_v", "deis", "uni_pc", "uni_pc_bh2"] {
        let sampler = Sampler::find(name).unwrap();
        let ratio = error(&sampler, 20) / error(&sampler, 40);
        assert!(ratio > 3.5, "{name}: {ratio:.2}");
    }
}

/// A right amount of noise keeps the spread of the pictures, whatever noise it is. (ddpm, lcm, and the
/// samplers whose noise is not that of a flow change it, in ComfyUI too.)
#[test]
fn stochastic_samplers_keep_the_spread_of_the_pictures() {
    let noisy = [
        "dpm_2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_heun",
        "dpmpp_3m_sde",
        "er_sde",
        "seeds_2",
        "seeds_3",
        "sa_solver",
        "sa_solver_pece",
    ];
    for name in noisy {
        let cells = 8192;
        let end = run(&Sampler::find(name).unwrap(), 80, cells).end;
        let deviation = (end.iter().map(|value| value * value).sum::<f64>() / cells as f64).sqrt();
        assert!((deviation / DEVIATION - 1.0).abs() < 0.07, "{name}: {deviation:.3}");
    }
}

#[test]
fn every_sampler_reports_its_steps_in_order_and_has_no_trouble_with_a_single_one() {
    for sampler in SAMPLERS {
        for steps in [1, 2, 3, 7] {
            let finished = run(sampler, steps, 16);
            let count = finished.reports.len();
            assert_eq!(finished.reports, (0..count).collect::<Vec<_>>(), "{}", sampler.name);
            // These two choose their own steps.
            if !sampler.name.starts_with("dpm_fast") && !sampler.name.starts_with("dpm_adaptive") {
                assert_eq!(count, steps, "{}", sampler.name);
            }
            assert!(finished.calls >= count, "{}", sampler.name);
            assert!(finished.end.iter().all(|value| value.is_finite()), "{} {steps}", sampler.name);
        }
    }
}

/// The samplers with settings, and the same settings in ComfyUI: each from the same noise over nine steps,
/// with two thirds of each estimate as the one without guidance.
#[test]
fn tuned_samplers_end_where_they_end_in_comfyui() {
    let file =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/values/tuned_samplers.json");
    let recorded: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let tuned = tuned();
    let mut wrong = Vec::new();
    assert_eq!(recorded.len(), tuned.len());
    for (case, (name, sampler)) in recorded.iter().zip(tuned) {
        assert_eq!(case["name"], name);
        let mut model = Gaussian { calls: 0, unguided: 2.0 / 3.0 };
        let simple = schedule::find("simple").unwrap()(model.flow(), 9);
        let sigmas: Vec<f64> = simple.into_iter().map(f64::from).collect();
        let start = Noise::new(11).draw(&[1, 1, 1, 1, 32], &Device::Cpu).unwrap();
        let mut watch = |_: comfyd::sampling::Watched<'_>| Ok(());
        let mut sampling = Sampling { model: &mut model, sigmas: &sigmas, seed: 12, watch: &mut watch };
        let end = sampler.run(&mut sampling, start).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f64> =
            case["end"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        let distance: f64 =
            end.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
        let length: f64 = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
        if distance / length > 2e-4 {
            wrong.push(format!("{name} ends {:.1e} away", distance / length));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join(", "));
}

/// The settings of the recorded cases.
fn tuned() -> Vec<(&'static str, Sampler)> {
    let noise = |eta, s_noise| Stochastic { eta, s_noise };
    let adams = StochasticAdams {
        noisy: [0.1, 0.9].map(|percent| Gaussian { calls: 0, unguided: 1.0 }.flow().at_percent(percent)),
        stochastic: noise(0.7, 0.9),
        predictor_order: 2,
        corrector_order: 3,
        evaluates_again: false,
        simple_order_2: false,
    };
    let er_sde = |scale, s_noise, stages| Sampler::er_sde(ErSde { scale, s_noise, stages });
    let adaptive = Adaptive::DEFAULT;
    vec![
        ("euler_ancestral", Sampler::euler_ancestral(noise(0.4, 0.9))),
        ("euler_ancestral_eta0", Sampler::euler_ancestral(noise(0.0, 1.0))),
        ("euler_ancestral_cfg_pp", Sampler::euler_ancestral_cfg_pp(noise(0.5, 1.1))),
        ("lms_2", Sampler::lms(2)),
        ("lms_6", Sampler::lms(6)),
        ("dpmpp_3m_sde", Sampler::dpmpp_3m_sde(noise(0.3, 0.8))),
        ("dpmpp_2m_sde_heun", Sampler::dpmpp_2m_sde(noise(0.3, 0.8), Correction::Heun)),
        ("dpmpp_2m_sde_eta0", Sampler::dpmpp_2m_sde(noise(0.0, 1.0), Correction::Midpoint)),
        ("dpmpp_sde", Sampler::dpmpp_sde(noise(0.6, 0.8), 0.4)),
        ("dpmpp_sde_eta0", Sampler::dpmpp_sde(noise(0.0, 1.0), 0.5)),
        ("dpmpp_2s_ancestral", Sampler::dpmpp_2s_ancestral(noise(0.5, 0.9))),
        ("dpm_adaptive_2", Sampler::dpm_adaptive(Adaptive { order: 2, ..adaptive })),
        (
            "dpm_adaptive_pid",
            Sampler::dpm_adaptive(Adaptive { coefficients: [0.2, 0.7, 0.1], relative: 0.02, ..adaptive }),
        ),
        ("dpm_adaptive_eta", Sampler::dpm_adaptive(Adaptive { stochastic: noise(0.5, 0.9), ..adaptive })),
        ("er_sde_ER-SDE", er_sde(NoiseScale::Extended, 0.9, 2)),
        ("er_sde_Reverse-time SDE", er_sde(NoiseScale::Power(1.7), 0.9, 3)),
        ("er_sde_ODE", er_sde(NoiseScale::Power(1.0), 0.0, 3)),
        ("sa_solver", Sampler::sa_solver(adams)),
        (
            "sa_solver_pece",
            Sampler::sa_solver(StochasticAdams { evaluates_again: true, predictor_order: 4, ..adams }),
        ),
        (
            "sa_solver_simple",
            Sampler::sa_solver(StochasticAdams { simple_order_2: true, corrector_order: 2, ..adams }),
        ),
        ("sa_solver_no_corrector", Sampler::sa_solver(StochasticAdams { corrector_order: 0, ..adams })),
        ("euler_pp", Sampler::euler_alternative_cfg_pp()),
    ]
}
