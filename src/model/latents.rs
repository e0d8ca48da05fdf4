//! The latent spaces networks work in. A diffusion model and its autoencoder name the same one.

use candle_core::Tensor;

use super::{Error, LatentFormat, Result};

/// The space of the Wan 2.1 autoencoder, which Qwen-Image works in.
///
/// The constants are published with the autoencoder; the preview matrix is ComfyUI's.
pub static WAN_2_1: LatentFormat = LatentFormat {
    channels: 16,
    scale: 8,
    video: true,
    mean: &[
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
        -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ],
    std: &[
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
        1.6382, 1.1253, 2.8251, 1.9160,
    ],
    preview: &[
        [-0.1299, -0.1692, 0.2932],
        [0.0671, 0.0406, 0.0442],
        [0.3568, 0.2548, 0.1747],
        [0.0372, 0.2344, 0.1420],
        [0.0313, 0.0189, -0.0328],
        [0.0296, -0.0956, -0.0665],
        [-0.3477, -0.4059, -0.2925],
        [0.0166, 0.1902, 0.1975],
        [-0.0412, 0.0267, -0.1364],
        [-0.1293, 0.0740, 0.1636],
        [0.0680, 0.3019, 0.1128],
        [0.0032, 0.0581, 0.0639],
        [-0.1251, 0.0927, 0.1699],
        [0.0060, -0.0633, 0.0005],
        [0.3477, 0.2275, 0.2950],
        [0.1984, 0.0913, 0.1861],
    ],
    preview_bias: [-0.1835, -0.0868, -0.3360],
    preview_decoders: &["lighttaew2_1", "taew2_1"],
};

impl LatentFormat {
    /// (z - mean) / std per channel; (batch, channels, frames, h, w).
    pub fn normalise(&self, latent: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.constants(latent)?;
        Ok(latent.broadcast_sub(&mean)?.broadcast_div(&std)?)
    }

    /// x std + mean per channel: the way back.
    pub fn denormalise(&self, latent: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.constants(latent)?;
        Ok(latent.broadcast_mul(&std)?.broadcast_add(&mean)?)
    }

    fn constants(&self, latent: &Tensor) -> Result<(Tensor, Tensor)> {
        let (found, expected) = (latent.dim(1)?, self.channels);
        if found != expected {
            return Err(Error::Channels { found, expected });
        }
        let column = |values| Tensor::new(values, latent.device())?.reshape((1, expected, 1, 1, 1));
        Ok((column(self.mean)?, column(self.std)?))
    }
}
