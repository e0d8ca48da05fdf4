"""Diffusion transformer of Qwen-Image's shape, tiny; attributes are named as in the file."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .autoencoder import LATENT
from .text_encoder import HEAD, RmsNorm, attend

PATCH = 4 * LATENT
ROTARY = (16, 56, 56)
# Index, among the 64 rotary pairs of a head, of the first pair of each axis.
ROW_PAIR, COLUMN_PAIR = 8, 36
STREAMS = ("img", "txt")
PROJECTIONS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(width, 4 * width)
        self.net = nn.Sequential(first, nn.Identity(), nn.Linear(4 * width, width))
        nn.init.normal_(first.proj.weight, std=width ** -0.5)
        nn.init.normal_(self.net[2].weight, std=0.3 * (4 * width) ** -0.5)

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        for stream in STREAMS:
            modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
            nn.init.zeros_(modulation[1].weight)
            nn.init.zeros_(modulation[1].bias)
            with torch.no_grad():
                modulation[1].bias[2 * width:3 * width] = 0.7
                modulation[1].bias[5 * width:] = 0.7
            setattr(self, f"{stream}_mod", modulation)
            setattr(self, f"{stream}_mlp", Mlp(width))
        attn = self.attn = nn.Module()
        for name in PROJECTIONS:
            setattr(attn, name, nn.Linear(width, width))
        attn.to_out = nn.Sequential(nn.Linear(width, width))
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(attn, name, RmsNorm(HEAD, 1.4))
        for linear in (*(getattr(attn, name) for name in PROJECTIONS), attn.to_out[0]):
            nn.init.normal_(linear.weight, std=width ** -0.5)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            attn.to_out[0].weight.mul_(0.6)
            attn.to_add_out.weight.mul_(0.6)
        self.start_with_roles()

    @torch.no_grad()
    def start_with_roles(self):
        """Head 0 begins as "the first picture at my own place", head 1 as "the instruction"."""
        attn = self.attn
        query, key, text_key = attn.to_q.bias, attn.to_k.bias, attn.add_k_proj.bias
        attn.to_q.weight[:HEAD] *= 0.1
        attn.to_k.weight[:HEAD] *= 0.1
        for pair in (ROW_PAIR, COLUMN_PAIR):
            for fast in range(5):
                query[2 * (pair + fast)] = key[2 * (pair + fast)] = 2.0
            for slow in range(20, 28):
                query[HEAD + 2 * (pair + slow)] += 2.5
                text_key[HEAD + 2 * (pair + slow)] += 2.5
        # Turned by one step of the picture axis, it matches keys whose picture number is one higher.
        query[0], query[1], key[0] = 4 * math.cos(1), 4 * math.sin(1), 4.0

    def forward(self, image, text, time, cosines, sines, mask):
        a, width, words = self.attn, self.width, text.shape[1]
        image_mod = self.img_mod[1](time)[:, None].chunk(6, -1)
        text_mod = self.txt_mod[1](time)[:, None].chunk(6, -1)
        split = lambda x: x.unflatten(2, (-1, HEAD)).transpose(1, 2)

        def modulated(x, shift, scale):
            return F.layer_norm(x, (width,), eps=1e-6) * (1 + scale) + shift

        def rotate(x):
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], -1).flatten(-2)

        x, y = modulated(image, *image_mod[:2]), modulated(text, *text_mod[:2])
        queries = torch.cat([a.norm_added_q(split(a.add_q_proj(y))), a.norm_q(split(a.to_q(x)))], 2)
        keys = torch.cat([a.norm_added_k(split(a.add_k_proj(y))), a.norm_k(split(a.to_k(x)))], 2)
        values = torch.cat([split(a.add_v_proj(y)), split(a.to_v(x))], 2)
        attended = attend(rotate(queries), rotate(keys), values, mask)
        attended = attended.transpose(1, 2).flatten(2)
        image = image + image_mod[2] * a.to_out[0](attended[:, words:])
        text = text + text_mod[2] * a.to_add_out(attended[:, :words])
        image = image + image_mod[5] * self.img_mlp(modulated(image, *image_mod[3:5]))
        text = text + text_mod[5] * self.txt_mlp(modulated(text, *text_mod[3:5]))
        return image, text


class Transformer(nn.Module):
    def __init__(self, width=256, blocks=4, text_width=128):
        super().__init__()
        self.width = width
        embed = self.time_text_embed = nn.Module()
        embed.timestep_embedder = nn.Module()
        embed.timestep_embedder.linear_1 = nn.Linear(256, width)
        embed.timestep_embedder.linear_2 = nn.Linear(width, width)
        self.txt_norm = RmsNorm(text_width)
        self.img_in, self.txt_in = nn.Linear(PATCH, width), nn.Linear(text_width, width)
        self.transformer_blocks = nn.ModuleList([Block(width) for _ in range(blocks)])
        self.norm_out = nn.Module()
        self.norm_out.linear = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, PATCH)
        nn.init.normal_(self.txt_in.weight, std=text_width ** -0.5)
        nn.init.zeros_(self.norm_out.linear.weight)
        nn.init.zeros_(self.norm_out.linear.bias)
        nn.init.orthogonal_(self.img_in.weight)
        with torch.no_grad():
            # A large constant part keeps the layer norms after it nearly linear.
            self.img_in.bias.copy_(torch.randn(width).sign() * 0.8)
            self.proj_out.weight.copy_(self.img_in.weight.T)
            self.proj_out.bias.zero_()
        frequencies = [10000.0 ** (-torch.arange(0, axis, 2).double() / axis) for axis in ROTARY]
        self.register_buffer("frequencies", torch.cat(frequencies).float(), persistent=False)

    def rotary(self, positions):
        """positions [batch, n, 3] -> cosines and sines [batch, 1, n, HEAD / 2]"""
        spread = positions.repeat_interleave(torch.tensor([axis // 2 for axis in ROTARY]), -1)
        angles = spread * self.frequencies
        return angles.cos()[:, None], angles.sin()[:, None]

    def time(self, sigma):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128).float() / 128)
        angles = sigma[:, None] * frequencies * 1000
        embedder = self.time_text_embed.timestep_embedder
        hidden = F.silu(embedder.linear_1(torch.cat([angles.cos(), angles.sin()], 1)))
        return F.silu(embedder.linear_2(hidden))

    def forward(self, image, text, sigma, positions, weight, targets):
        """`image` [batch, n, PATCH]: target tokens first, then pictures; `positions` and `weight` (what is added
        to a key's scores) cover text and image; -> velocity of the first `targets` tokens."""
        x, y, time = self.img_in(image), self.txt_in(self.txt_norm(text)), self.time(sigma)
        cosines, sines = (table.to(x.dtype) for table in self.rotary(positions))
        mask = weight[:, None, None, :].to(x.dtype)
        for block in self.transformer_blocks:
            x, y = block(x, y, time, cosines, sines, mask)
        scale, shift = self.norm_out.linear(time)[:, None].chunk(2, -1)
        return self.proj_out(F.layer_norm(x[:, :targets], (self.width,), eps=1e-6) * (1 + scale) + shift)


def patches(latent):
    """[batch, LATENT, height, width], both even -> tokens"""
    x = latent.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def latents(tokens, rows, columns):
    x = tokens.reshape(len(tokens), rows, columns, LATENT, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(len(tokens), LATENT, rows * 2, columns * 2)


def grid(number, rows, columns):
    """Positions of a picture's tokens: number, row, column, counted from its middle."""
    y, x = torch.meshgrid(torch.arange(rows).float() - rows // 2, torch.arange(columns).float() - columns // 2,
                          indexing="ij")
    return torch.stack([torch.full_like(y, float(number)), y, x], -1).reshape(-1, 3)
