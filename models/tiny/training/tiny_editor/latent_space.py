"""The autoencoder's latents, made white and turned so that live previews show the picture."""

import numpy as np
import torch
import torch.nn.functional as F

from . import paths
from .autoencoder import LATENT, Autoencoder

# The server's fixed preview of a normalised latent of this kind: channels -> red, green, blue.
PREVIEW = torch.tensor([
    [-0.1299, -0.1692, 0.2932], [0.0671, 0.0406, 0.0442], [0.3568, 0.2548, 0.1747], [0.0372, 0.2344, 0.1420],
    [0.0313, 0.0189, -0.0328], [0.0296, -0.0956, -0.0665], [-0.3477, -0.4059, -0.2925], [0.0166, 0.1902, 0.1975],
    [-0.0412, 0.0267, -0.1364], [-0.1293, 0.0740, 0.1636], [0.0680, 0.3019, 0.1128], [0.0032, 0.0581, 0.0639],
    [-0.1251, 0.0927, 0.1699], [0.0060, -0.0633, 0.0005], [0.3477, 0.2275, 0.2950], [0.1984, 0.0913, 0.1861]])


def pixels(pictures):
    """8-bit pictures of one size -> network input in -1..1"""
    stacked = np.stack([np.asarray(p, np.uint8) for p in pictures])
    batch = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)


class LatentSpace:
    def __init__(self, matrix=None, mean=None):
        self.autoencoder = Autoencoder()
        refined = paths.RUNS / "decoder.pt"
        state = torch.load(refined if refined.exists() else paths.RUNS / "autoencoder.pt", weights_only=False)
        self.autoencoder.load_state_dict(state["model"])
        self.autoencoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.matrix, self.mean = matrix, mean
        if matrix is not None:
            self.inverse = torch.linalg.inv(matrix)

    def state_dict(self):
        return dict(matrix=self.matrix, mean=self.mean)

    def load_state_dict(self, state):
        self.matrix, self.mean = state["matrix"], state["mean"]
        self.inverse = torch.linalg.inv(self.matrix)

    @torch.no_grad()
    def raw(self, pictures):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.cat([self.autoencoder.encode(part).float() for part in pixels(pictures).split(16)])

    def fit(self, pictures):
        """White channels; the rotation that this leaves free is the one that agrees best with PREVIEW."""
        flat = self.raw(pictures).permute(0, 2, 3, 1).reshape(-1, LATENT)
        self.mean = flat.mean(0)
        centred = flat - self.mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
        # A direction that the autoencoder left unused must not be blown up.
        whiten = vectors @ torch.diag(values.clamp_min(values.max() * 1e-4).rsqrt()) @ vectors.T
        white = centred @ whiten.T
        seen = F.avg_pool2d(pixels(pictures), 8).permute(0, 2, 3, 1).reshape(-1, 3)
        tells = torch.linalg.lstsq(white, seen - seen.mean(0)).solution
        left, _, right = torch.linalg.svd(PREVIEW @ tells.T)
        self.load_state_dict(dict(matrix=left @ right @ whiten, mean=self.mean))
        shown = (white @ (left @ right).T) @ PREVIEW
        return [round(float(torch.corrcoef(torch.stack([shown[:, i], seen[:, i]]))[0, 1]), 3) for i in range(3)]

    def visibility(self, pictures, chroma=1.7, step=0.3):
        """How an error of a latent [LATENT] must be turned for its length to say how much one sees of it."""
        latent = self.encode(pictures)
        noise = step * torch.randn(len(latent), 1, *latent.shape[2:], generator=torch.Generator().manual_seed(0))
        before, seen = torch.from_numpy(self.decode(latent)), []
        for channel in range(LATENT):
            changed = latent.clone()
            changed[:, channel:channel + 1] += noise
            change = torch.from_numpy(self.decode(changed)) - before
            luma = change @ torch.tensor([0.299, 0.587, 0.114])
            seen.append(torch.cat([luma[..., None], chroma * (change - luma[..., None])], -1).flatten())
        together = torch.stack(seen) @ torch.stack(seen).T
        # Less than half the weight is the same for all, or what hardly shows would never be learned.
        together = 0.65 * together / together.diag().mean() + 0.35 * torch.eye(LATENT)
        return torch.linalg.cholesky(together)

    def encode(self, pictures):
        return torch.einsum("oc,bchw->bohw", self.matrix, self.raw(pictures) - self.mean.view(1, -1, 1, 1))

    @torch.no_grad()
    def decode(self, latent):
        """-> pictures as floats in 0..1"""
        raw = torch.einsum("oc,bchw->bohw", self.inverse, latent) + self.mean.view(1, -1, 1, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = torch.cat([self.autoencoder.decode(part).float() for part in raw.split(16)])
        return ((made + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
