//! The published files on cards of 24 to 8 GB, simulated: tensor by tensor, with the work they would do.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd::device::residency::{Count, Full, Network, Residency, Simulated, Store as _};
use comfyd::model::diffusion::{self, Options};
use comfyd::model::estimate::Estimate;
use comfyd::model::layouts::PUBLISHED;
use comfyd::model::{Compute, Cond, TextPrompt, text, vae};
use comfyd::weights::File;

/// What an edit of one megapixel with one reference does: estimates of the text encoder, the VAE, and one step of the
/// diffusion model for both prompts.
pub struct Job {
    pub entries: Vec<(Arc<Network<()>>, Estimate)>,
}

impl Job {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = |index: usize| {
            let path = folder.path().join(PUBLISHED[index].name);
            PUBLISHED[index].layout().unwrap().write_empty(&path).unwrap();
            File::open(path).unwrap()
        };
        let model =
            diffusion::load(open(0), Options { compute: Compute::Bf16, ..Options::default() }).unwrap();
        let encoder = text::load(open(1), "", Compute::F32).unwrap();
        let vae = vae::load(open(2), Compute::Bf16).unwrap();
        let picture = Tensor::zeros((1, 384, 384, 3), DType::F32, &Device::Cpu).unwrap();
        let prompt = TextPrompt { text: "a ".repeat(40), images: vec![picture], template: None };
        let text = encoder.estimate(&prompt).unwrap();
        let latent = Tensor::zeros((1, 16, 1, 128, 128), DType::F32, &Device::Cpu).unwrap();
        let hidden = Tensor::zeros((1, 300, 3584), DType::F32, &Device::Cpu).unwrap();
        let cond = Cond { references: vec![latent.clone()], ..Cond::new(hidden) };
        let step = model.estimate(latent.dims(), &[&cond, &cond]).unwrap();
        let all = [vae.estimate_encoding(1024, 1024), text.looks[0].clone(), text.reading, step];
        let all = all.into_iter().chain([vae.estimate_decoding(128, 128)]);
        let mut entries: Vec<(Arc<Network<()>>, Estimate)> = Vec::new();
        for estimate in all {
            let known = entries.iter().find(|(_, other)| Arc::ptr_eq(&other.network, &estimate.network));
            let network = known
                .map_or_else(|| Arc::new(estimate.network.without_sources()), |(known, _)| known.clone());
            entries.push((network, estimate));
        }
        Self { entries }
    }

    fn step(&self) -> &(Arc<Network<()>>, Estimate) {
        &self.entries[3]
    }

    /// The whole edit, of so many steps.
    pub fn run(&self, device: &Residency<Simulated>, steps: usize) -> Result<(), Full> {
        for (index, entry) in self.entries.iter().enumerate() {
            for _ in 0..if index == 3 { steps } else { 1 } {
                use_once(device, entry)?;
            }
        }
        Ok(())
    }
}

/// Operations per second, and bytes per second to the card.
pub const SPEED: f64 = 0.6 * 71e12;
pub const WAY: f64 = 25e9;
pub const OVERHEAD: u64 = 500_000_000;

/// BF16 takes half of what estimates count in F32.
pub fn working_bytes(estimate: &Estimate) -> u64 {
    estimate.working_bytes / 2
}

fn use_once(
    device: &Residency<Simulated>,
    (network, estimate): &(Arc<Network<()>>, Estimate),
) -> Result<(), Full> {
    let visit = device.visit(network, working_bytes(estimate))?;
    let _kept = (0..network.kept).map(|part| visit.part(part)).collect::<Result<Vec<_>, _>>()?;
    for (part, work) in &estimate.parts {
        let _lease = visit.part(*part)?;
        device.with_store(|store| store.work(work.operations() / SPEED));
        let taken = count(device).held + OVERHEAD + working_bytes(estimate);
        assert!(
            taken <= device.with_store(|store| store.budget()),
            "{taken} for part {part} of {}",
            network.name
        );
    }
    Ok(())
}

pub fn card(bytes: u64) -> Residency<Simulated> {
    Residency::new(Simulated::new(bytes, OVERHEAD, WAY))
}

pub fn count(device: &Residency<Simulated>) -> Count {
    device.with_store(|store| store.count())
}

pub fn near(found: f64, expected: f64, share: f64) -> bool {
    (found - expected).abs() <= share * expected
}

#[test]
fn the_work_is_that_of_the_published_networks() {
    let job = Job::new();
    let step = job.step().1.work() * 0.5;
    // One forward of 8192 picture and 300 text tokens: 12 matrices of 3072 x 3072 and the attention, in 60 blocks.
    assert!(near(step.products, 115.4e12, 0.005), "{step:?}");
    assert!(near(step.attention, 53.2e12, 0.005), "{step:?}");
    // As measured when every convolution over time had all its taps skipped but one.
    let [encode, look, _, _, decode] = [0, 1, 2, 3, 4].map(|index| job.entries[index].1.work());
    assert!(near(encode.convolutions, 2.4e12, 0.05), "{encode:?}");
    assert!(near(decode.convolutions, 4.3e12, 0.05), "{decode:?}");
    assert!(near(look.operations(), 1.0e12, 0.1), "{look:?}");
    // 13.05 GFLOP per token.
    let rows = job.entries[2].1.work().products / 13.05e9;
    assert!((280.0..350.0).contains(&rows), "{rows}");
    let bytes = |index: usize| job.entries[index].0.bytes();
    assert_eq!(bytes(3), 20_430_401_088);
    assert_eq!(bytes(0), 2 * 126_892_531);
}

#[test]
fn every_card_keeps_its_budget_and_moves_no_more_than_it_must() {
    let job = Job::new();
    let (_, step) = job.step();
    let floor = step.work().operations() / SPEED;
    for gigabytes in [24, 16, 12, 8] {
        let budget = gigabytes << 30;
        let device = card(budget);
        job.run(&device, 3).unwrap();
        let held = device.held();
        let model = held.iter().find(|held| held.network == "the diffusion model").unwrap();
        let most = budget - OVERHEAD - working_bytes(step);
        assert!(model.here <= most, "{gigabytes} GiB: {model:?}");
        // Decoding has taken some of its room.
        use_once(&device, job.step()).unwrap();
        let before = count(&device);
        use_once(&device, job.step()).unwrap();
        let after = count(&device);
        let (moved, seconds) = (after.moved - before.moved, after.seconds - before.seconds);
        // What does not fit comes once in a step; two blocks more than that are on the way.
        let missing = model.whole.saturating_sub(most);
        let slack = 3 * 341_000_000;
        assert!(
            moved <= missing + if missing > 0 { slack } else { 0 },
            "{gigabytes} GiB: {moved} for {missing}"
        );
        // All of it hides behind the work.
        assert!(seconds <= 1.01 * floor + 0.02, "{gigabytes} GiB: {seconds} s, not {floor} s");
        println!(
            "{gigabytes:>2} GiB: {:>2} of 61 parts stay, {:>5.2} GB come in a step of {seconds:.2} s",
            model.staying,
            moved as f64 / 1e9,
        );
    }
}

#[test]
fn the_text_encoder_leaves_before_the_diffusion_model_needs_its_room() {
    let job = Job::new();
    let device = card(24 << 30);
    for entry in &job.entries[..3] {
        use_once(&device, entry).unwrap();
    }
    let here = |device: &Residency<Simulated>, name: &str| {
        device.held().iter().find(|held| held.network == name).map_or(0, |held| held.here)
    };
    assert!(here(&device, "the text encoder") > 7_000_000_000);
    use_once(&device, job.step()).unwrap();
    assert_eq!(here(&device, "the diffusion model"), 20_430_401_088);
    assert!(here(&device, "the text encoder") < 4_000_000_000);
    // A card with room for both keeps both.
    let large = card(48 << 30);
    job.run(&large, 1).unwrap();
    let moved = count(&large).moved;
    job.run(&large, 1).unwrap();
    assert_eq!(count(&large).moved, moved);
}

#[test]
fn whichever_allocation_fails_the_job_ends_well_or_says_why() {
    let job = Job::new();
    let mut failures = 0;
    for gigabytes in [24, 8] {
        let whole = card(gigabytes << 30);
        job.run(&whole, 2).unwrap();
        for number in 0..count(&whole).allocations {
            let device = card(gigabytes << 30);
            device.with_store(|store| store.fail_allocation(number));
            if let Err(full) = job.run(&device, 2) {
                failures += 1;
                assert!(full.to_string().contains("out of memory"), "{full}");
            }
            device.clear();
            assert_eq!(count(&device).held, 0, "lost after allocation {number} failed");
        }
    }
    // Only the very first has nothing that could leave.
    assert!(failures <= 4, "{failures}");
}
