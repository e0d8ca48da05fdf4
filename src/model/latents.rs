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

/// The space of the autoencoder of Qwen-Image 2.1.
///
/// The constants are published with the autoencoder. No matrix and no small decoder for previews is known.
#[expect(clippy::approx_constant, reason = "a mean that happens to be near a sixth of pi")]
pub static QWEN_IMAGE_2_1: LatentFormat = LatentFormat {
    channels: 64,
    scale: 16,
    video: true,
    mean: &[
        0.5126, 0.7721, -0.0631, 1.3506, -0.7855, -2.1025, -0.3458, 1.3722, 1.8873, -1.7177, -0.6510, 0.2732,
        0.7562, -0.6163, -1.0277, 3.8363, 2.0210, 0.0472, 0.9320, 2.0087, 2.4954, -0.1391, -1.4249, 1.8464,
        -0.5236, 1.2826, 3.7046, -1.3035, 2.7286, -1.4518, -1.9036, -1.9955, -0.0342, -1.0265, -0.7636,
        3.0555, 0.0746, -3.0751, -0.1076, 1.7376, -1.0914, -1.9435, -0.2784, -1.3680, 0.4809, -0.4433,
        0.3764, 0.5729, -2.0595, 1.0960, -1.3260, -2.0211, -5.0179, 0.5275, 4.0162, 1.8505, 0.3026, 1.9373,
        1.4937, 0.2632, 0.5547, -1.7121, -0.1562, 0.0304,
    ],
    std: &[
        3.2001, 3.2936, 3.4321, 3.0091, 3.1061, 4.0379, 4.0705, 3.7910, 3.0785, 3.6500, 3.9308, 3.0904,
        2.8778, 3.7675, 3.7320, 5.0756, 3.2864, 4.0397, 3.1317, 4.0443, 2.9249, 3.9454, 3.0988, 4.2489,
        3.4896, 3.8513, 3.9323, 3.4719, 3.7498, 4.2830, 3.5694, 4.2467, 3.9037, 3.2947, 5.0770, 3.5075,
        3.2700, 3.4767, 2.8063, 5.1125, 3.5327, 4.7833, 3.1286, 4.1819, 3.8527, 3.8312, 3.5605, 4.3875,
        3.9624, 4.0168, 3.5643, 4.0550, 5.5614, 4.2963, 4.4080, 3.4959, 3.8747, 3.7608, 3.5735, 3.1490,
        3.7662, 3.6746, 3.4563, 3.8161,
    ],
    preview: &[],
    preview_bias: [0.0; 3],
    preview_decoders: &[],
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
