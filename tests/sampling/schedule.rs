use std::collections::BTreeMap;

use comfyd::model::Flow;
use comfyd::sampling::{Sampler, schedule};

use crate::golden;

/// Steps of f32 between two positive numbers.
fn distance(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

fn flow(name: &str) -> Flow {
    match name {
        "default_flux_shift_1.15" => Flow::Exponential { mu: 1.15 },
        "auraflow_3.0" => Flow::Discrete { shift: 3.0, multiplier: 1.0 },
        "auraflow_3.1" => Flow::Discrete { shift: 3.1, multiplier: 1.0 },
        "sd3_3.0" => Flow::Discrete { shift: 3.0, multiplier: 1000.0 },
        other => panic!("unknown flow {other}"),
    }
}

fn made(flow: Flow, name: &str) -> Vec<f32> {
    if let Some(ksampler) = name.strip_prefix("ksampler:") {
        let [sampler, scheduler, steps, denoise] = ksampler.split('/').collect::<Vec<_>>()[..] else {
            panic!("{name}")
        };
        let denoise = denoise.strip_prefix("denoise=").unwrap().parse().unwrap();
        let (sampler, schedule) = (Sampler::find(sampler).unwrap(), schedule::find(scheduler).unwrap());
        return sampler.sigmas(flow, schedule, steps.parse().unwrap(), denoise);
    }
    let (scheduler, steps) = name.split_once('/').unwrap();
    schedule::find(scheduler).unwrap()(flow, steps.parse().unwrap())
}

#[test]
fn every_schedule_visits_the_sigmas_comfyui_visits() {
    let text = std::fs::read_to_string(golden::path("tables/sigmas.json")).unwrap();
    let tables: BTreeMap<String, BTreeMap<String, Vec<Option<f32>>>> = serde_json::from_str(&text).unwrap();
    assert_eq!(tables.values().map(BTreeMap::len).collect::<Vec<_>>(), [50; 4]);
    for (flow_name, table) in tables {
        for (name, expected) in table {
            let sigmas = made(flow(&flow_name), &name);
            assert_eq!(sigmas.len(), expected.len(), "{flow_name} {name}");
            for (step, (sigma, expected)) in sigmas.iter().zip(expected).enumerate() {
                let same =
                    expected.map_or(sigma.is_nan(), |expected| distance(*sigma, expected) <= allowed(&name));
                assert!(same, "{flow_name} {name} step {step}: {sigma} and not {expected:?}");
            }
        }
    }
}

/// Schedules are equal to the last bit where they only add, multiply and divide. For powers, exp and
/// tan torch has its own approximations.
fn allowed(name: &str) -> u32 {
    u32::from(["karras/", "exponential/", "kl_optimal/"].iter().any(|prefix| name.starts_with(prefix)))
}

#[test]
fn percents_run_from_noise_to_picture() {
    for flow in [Flow::Exponential { mu: 3.0_f64.ln() }, Flow::Discrete { shift: 3.0, multiplier: 1.0 }] {
        for (percent, sigma) in [(0.0, 1.0), (0.5, 0.75), (1.0, 0.0)] {
            assert!((flow.at_percent(percent) - sigma).abs() < 1e-12, "{percent}");
        }
        assert!((flow.sigma(0.5) - 0.75).abs() < 1e-6);
    }
}

#[test]
fn a_schedule_that_reaches_zero_by_itself_gets_no_second_zero() {
    let flow = Flow::Discrete { shift: 0.001, multiplier: 1.0 };
    for (name, count) in [("normal", 5), ("ddim_uniform", 5)] {
        let sigmas = schedule::find(name).unwrap()(flow, 4);
        assert_eq!(sigmas.len(), count, "{name}");
        assert!(sigmas.iter().all(|sigma| *sigma > 0.0), "{name}");
    }
}

#[test]
fn a_window_of_steps_shares_its_border_sigma_with_the_next() {
    let sigmas = [1.0, 0.75, 0.5, 0.25, 0.0];
    assert_eq!(schedule::window(&sigmas, 0, 2, false), [1.0, 0.75, 0.5]);
    assert_eq!(schedule::window(&sigmas, 2, 10_000, false), [0.5, 0.25, 0.0]);
    assert_eq!(schedule::window(&sigmas, 0, 2, true), [1.0, 0.75, 0.0]);
    assert!(schedule::window(&sigmas, 4, 10_000, false).is_empty());
}

#[test]
fn no_denoise_means_no_sigmas() {
    let flow = Flow::Discrete { shift: 3.0, multiplier: 1.0 };
    let (euler, simple) = (Sampler::find("euler").unwrap(), schedule::find("simple").unwrap());
    assert!(euler.sigmas(flow, simple, 4, 0.0).is_empty());
    assert_eq!(euler.sigmas(flow, simple, 4, 0.5).len(), 5);
}
