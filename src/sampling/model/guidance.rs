//! How positive and negative estimates become one.

use candle_core::Tensor;

use crate::sampling::Result;

/// Ho and Salimans (2022): away from the negative, `cfg` times as far as the positive.
pub fn classifier_free(positive: &Tensor, negative: &Tensor, cfg: f64) -> Result<Tensor> {
    Ok((negative + ((positive - negative)? * cfg)?)?)
}

/// Lin et al. (2023): guidance on v-predictions, scaled back to the deviation of the positive one.
/// Like ComfyUI's, the deviation is taken over channels, frames and rows, one for each column.
pub fn rescaled(
    x: &Tensor,
    sigma: f64,
    [positive, negative]: [&Tensor; 2],
    cfg: f64,
    multiplier: f64,
) -> Result<Tensor> {
    let spread = sigma * sigma + 1.0;
    let scaled = (x / spread)?;
    let to_v = |estimate: &Tensor| (&scaled - estimate)? * (spread.sqrt() / sigma);
    let (positive, negative) = (to_v(positive)?, to_v(negative)?);
    let guided = classifier_free(&positive, &negative, cfg)?;
    let ratio = (deviation(&positive)? / deviation(&guided)?)?;
    let rescaled = guided.broadcast_mul(&ratio)?;
    let mixed = ((rescaled * multiplier)? + (guided * (1.0 - multiplier))?)?;
    Ok((scaled - (mixed * (sigma / spread.sqrt()))?)?)
}

/// The deviation over all axes but the first and the last, kept for broadcasting.
fn deviation(x: &Tensor) -> Result<Tensor> {
    let axes: Vec<usize> = (1..x.rank() - 1).collect();
    let count: usize = x.dims()[1..x.rank() - 1].iter().product();
    let centred = x.broadcast_sub(&x.mean_keepdim(axes.as_slice())?)?;
    let variance = (centred.sqr()?.sum_keepdim(axes.as_slice())? / (count as f64 - 1.0))?;
    Ok(variance.sqrt()?)
}

/// What happens to a guided estimate.
#[derive(Clone, Copy, Debug)]
pub enum Adjustment {
    Norm { strength: f64 },
}

impl Adjustment {
    /// `positive`: the estimate before guidance.
    pub fn apply(self, guided: &Tensor, positive: &Tensor) -> Result<Tensor> {
        let Self::Norm { strength } = self;
        let length = |x: &Tensor| x.sqr()?.sum_keepdim(1)?.sqrt();
        let ratio = (length(positive)? / (length(guided)? + 1e-8)?)?.clamp(0f32, 1f32)?;
        Ok((guided.broadcast_mul(&ratio)? * strength)?)
    }
}
