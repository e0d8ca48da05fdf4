//! The VAE at its real width, with weights by chance: right beside the processor's, and how long a picture of one megapixel
//! takes.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::super::Result;
use super::super::report::Line;
use super::network::{AS_CLOSE, distance};
use crate::device::cuda::cases::Draw;
use crate::model::card::Card;
use crate::model::layouts::PUBLISHED;
use crate::model::{Compute, Vae, vae};
use crate::stop::Stop;
use crate::weights::File;

/// Decoding and encoding of a small picture, and of a large one in time.
pub(super) fn lines(card: &Card) -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vae.safetensors");
    let [_, _, published] = PUBLISHED;
    published.layout()?.write_random(&path, 1, &mut |_| Ok(()))?;
    let file = File::open(path)?;
    let [exact, rounded] = [Compute::F32, Compute::Bf16].map(|compute| vae::load(file.clone(), compute));
    let (exact, rounded) = (exact?, rounded?);
    let ours = exact.on_card(card)?;
    let all = [&ours, &exact, &rounded];
    let (latent, pixels) = (latent(12)?, pixels(88)?);
    let decoded = all.map(|vae| vae.decode(&latent, &Stop::new()));
    let encoded = all.map(|vae| vae.encode(&pixels, &Stop::new()));
    let mut lines = Vec::new();
    for (word, [ours, exact, rounded]) in [("decodes", decoded), ("encodes", encoded)] {
        let exact = exact?;
        let (error, allowed) = (distance(&ours?, &exact)?, AS_CLOSE * distance(&rounded?, &exact)?);
        let (place, told) =
            (format!("the VAE {word} a small picture"), format!("error {error:.2e}, allowed {allowed:.2e}"));
        lines.push(if error <= allowed {
            Line::ok(place, told)
        } else {
            Line::fail(place, told, "please send the report")
        });
    }
    for (word, seconds) in [("decodes", seconds(&ours, true)?), ("encodes", seconds(&ours, false)?)] {
        lines.push(Line::ok(format!("the VAE {word} 1024x1024"), format!("{seconds:.3} s")));
    }
    Ok(lines)
}

fn latent(side: usize) -> Result<Tensor> {
    let values = Draw::new(3).numbers(16 * side * side, 1.0);
    Ok(Tensor::from_vec(values, (1, 16, 1, side, side), &Device::Cpu)?)
}

fn pixels(side: usize) -> Result<Tensor> {
    let values = Draw::new(4).numbers(3 * side * side, 0.2).iter().map(|value| 0.5 + value).collect();
    Ok(Tensor::from_vec(values, (1, side, side, 3), &Device::Cpu)?)
}

/// The best time of decoding or encoding a picture of 1024x1024, in seconds.
fn seconds(vae: &Arc<dyn Vae>, decoding: bool) -> Result<f64> {
    let (latent, pixels) = (latent(128)?, pixels(1024)?);
    let mut best = f64::INFINITY;
    for round in 0..3 {
        // What was encoded before is known.
        let pixels = (&pixels + f64::from(round) / 100.0)?;
        let begin = Instant::now();
        if decoding {
            vae.decode(&latent, &Stop::new())?;
        } else {
            vae.encode(&pixels, &Stop::new())?;
        }
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}
