"""Autoencoder of Wan 2.1's shape for one frame: two-dimensional kernels under the file's names."""

import torch
import torch.nn.functional as F
from torch import nn

LATENT = 16
# The normalisation that the server applies to latents of this kind.
MEAN = torch.tensor([-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                     0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921])
STD = torch.tensor([2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160])


def norm_silu(x, gamma):
    """RMS norm over the last axis and SiLU; compiled into one loop, or norms cost more than convolutions."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-8) * gamma
    return (y * torch.sigmoid(y)).to(x.dtype)


fused_norm_silu = torch.compile(norm_silu, dynamic=True)


class NormSilu(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        norm = fused_norm_silu if self.training else norm_silu
        return norm(x.permute(0, 2, 3, 1), self.gamma.flatten()).permute(0, 3, 1, 2)


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.residual = nn.Sequential(
            NormSilu(inputs), nn.Identity(), nn.Conv2d(inputs, outputs, 3, padding=1),
            NormSilu(outputs), nn.Identity(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        nn.init.normal_(self.residual[2].weight, std=(9 * inputs) ** -0.5)
        nn.init.normal_(self.residual[6].weight, std=0.3 * (9 * outputs) ** -0.5)
        if self.shortcut is not None:
            nn.init.orthogonal_(self.shortcut.weight)

    def forward(self, x):
        return self.residual(x) + (x if self.shortcut is None else self.shortcut(x))


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x):
        return self.resample(x)


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"),
                                      nn.Conv2d(inputs, outputs, 3, padding=1))

    def forward(self, x):
        return self.resample(x)


def middle(channels):
    # The layout has attention here; it stays off (export.py writes zeros), so that every size of picture works.
    return nn.Sequential(Residual(channels, channels), nn.Identity(), Residual(channels, channels))


class Autoencoder(nn.Module):
    def __init__(self, width=16, multiples=(1, 2, 4, 4), blocks=2):
        super().__init__()
        widths = [width * m for m in multiples]
        top, stages = widths[-1], len(widths)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        encoder, decoder = self.encoder, self.decoder

        encoder.conv1 = nn.Conv2d(3, width, 3, padding=1)
        layers, inputs = [], width
        for stage, outputs in enumerate(widths):
            for _ in range(blocks):
                layers.append(Residual(inputs, outputs))
                inputs = outputs
            if stage < stages - 1:
                layers.append(Down(outputs))
        encoder.downsamples = nn.Sequential(*layers)
        encoder.middle = middle(top)
        encoder.head = nn.Sequential(NormSilu(top), nn.Identity(), nn.Conv2d(top, 2 * LATENT, 3, padding=1))
        self.conv1 = nn.Conv2d(2 * LATENT, 2 * LATENT, 1)

        self.conv2 = nn.Conv2d(LATENT, LATENT, 1)
        decoder.conv1 = nn.Conv2d(LATENT, top, 3, padding=1)
        decoder.middle = middle(top)
        layers, inputs = [], top
        for stage, outputs in enumerate(reversed(widths)):
            for _ in range(blocks + 1):
                layers.append(Residual(inputs, outputs))
                inputs = outputs
            if stage < stages - 1:
                layers.append(Up(outputs, outputs // 2))
                inputs = outputs // 2
        decoder.upsamples = nn.Sequential(*layers)
        decoder.head = nn.Sequential(NormSilu(width), nn.Identity(), nn.Conv2d(width, 3, 3, padding=1))

    def encode(self, pixels):
        """Pixels in -1..1 -> the mean half of the latent."""
        e = self.encoder
        return self.conv1(e.head(e.middle(e.downsamples(e.conv1(pixels)))))[:, :LATENT]

    def decode(self, latent):
        d = self.decoder
        return d.head(d.upsamples(d.middle(d.conv1(self.conv2(latent)))))

    @torch.no_grad()
    def start_from_principal_components(self, pixels):
        """Strided kernels begin as the leading principal components of their 2x2 inputs."""
        first = self.encoder.conv1.weight
        first.mul_(0.3)
        first[:, :, 1, 1] += 2 * torch.linalg.qr(torch.randn(first.shape[0], 3))[0]
        x = self.encoder.conv1(pixels)
        for layer in self.encoder.downsamples:
            if isinstance(layer, Down):
                channels = x.shape[1]
                blocks = F.unfold(F.pad(x, (0, 1, 0, 1)), 2, stride=2).movedim(1, -1).reshape(-1, channels * 4)
                mean = blocks.mean(0)
                values, vectors = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
                scale = values[-channels:].clamp_min(values[-1] * 1e-3) ** 0.25
                kernel = vectors[:, -channels:].T / scale[:, None]
                layer.resample[1].weight.mul_(0.1)
                layer.resample[1].weight[:, :, :2, :2] += kernel.reshape(channels, channels, 2, 2)
                layer.resample[1].bias.copy_(-(kernel @ mean))
            x = layer(x)
