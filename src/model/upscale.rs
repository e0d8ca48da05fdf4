//! Networks that make pictures larger: which families there are, and how a file finds its own.

use std::sync::Arc;

use candle_core::Tensor;

use super::planes::Planes;
use super::vae::tiles::{Scaling, Tiling, blend};
use super::{Error, Result, recognise};
use crate::stop::Stop;
use crate::weights::{File, Weights};

mod compact;
mod rrdb;

/// Side of the tiles that a network sees at once, and by how much they overlap: ComfyUI's.
const TILE: usize = 512;
const OVERLAP: usize = 32;

/// A network that makes pictures larger by a whole factor.
pub trait Upscaler: Send + Sync {
    fn factor(&self) -> usize;

    /// Red, green and blue planes, 0..1.
    fn enlarge(&self, picture: &Planes, stop: &Stop) -> Result<Planes>;
}

/// Where networks lie in files of various origins.
const PLACES: &[&str] = &["", "params_ema", "params", "module"];

/// Loads the network of a file, whichever family it belongs to.
pub fn load(file: Arc<File>) -> Result<Arc<dyn Upscaler>> {
    for place in PLACES {
        let weights = Weights::new(file.clone(), place);
        if let Some(names) = rrdb::Names::of(&weights) {
            return Ok(Arc::new(rrdb::Rrdb::load(weights, names)?));
        }
        if compact::claims(&weights) {
            return Ok(Arc::new(compact::Compact::load(weights)?));
        }
    }
    Err(Error::OtherKind {
        file: file.name(),
        expected: "an upscale model",
        supported: vec!["ESRGAN", "Real-ESRGAN", "Real-ESRGAN Compact"],
        found: recognise::kind(file.header()),
    })
}

/// A picture enlarged in tiles: (h, w, 3), 0..1, becomes (h * factor, w * factor, 3). `done` is told after each tile
/// how many of how many are.
pub fn enlarge(
    network: &dyn Upscaler,
    picture: &Tensor,
    stop: &Stop,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Tensor> {
    let (h, w, _) = picture.dims3()?;
    let planes = picture.permute((2, 0, 1))?.contiguous()?;
    let tiling = Tiling::square(TILE, OVERLAP);
    let count = tiling.count([1, h, w]);
    let mut finished = 0;
    let larger = blend([1, h, w], &tiling, &Times(network.factor()), |[_, rows, columns]| {
        stop.check()?;
        let tile = planes.narrow(1, rows.start, rows.len())?.narrow(2, columns.start, columns.len())?;
        let tile = network.enlarge(&Planes::from_tensor(&tile)?, stop)?;
        finished += 1;
        done(finished, count);
        Ok(tile.to_tensor()?.clamp(0f32, 1f32)?.unsqueeze(1)?)
    })?;
    let larger = if larger.rank() == 4 { larger.squeeze(1)? } else { larger };
    Ok(larger.permute((1, 2, 0))?.contiguous()?.clamp(0f32, 1f32)?)
}

/// Rows and columns multiply; frames stay.
struct Times(usize);

impl Scaling for Times {
    fn length(&self, axis: usize, length: usize) -> usize {
        if axis == 0 { length } else { length * self.0 }
    }

    fn position(&self, axis: usize, position: usize) -> usize {
        self.length(axis, position)
    }
}
