"""Text encoder of Qwen2.5-VL's shape, tiny; attributes are named as in the file."""

import torch
import torch.nn.functional as F
from torch import nn

HEAD = 128
KEY_VALUE = 512   # the layout fixes four key heads
SECTIONS = (16, 24, 24, 16, 24, 24)


class RmsNorm(nn.Module):
    def __init__(self, width, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), gain))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-6)


def attend(queries, keys, values, mask):
    """Plain attention: at these lengths its backward pass is several times faster than the fused one's."""
    scores = queries @ keys.transpose(-1, -2) * HEAD ** -0.5 + mask
    return scores.float().softmax(-1).to(values.dtype) @ values


class Layer(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(width), RmsNorm(width)
        attn, mlp = nn.Module(), nn.Module()
        attn.q_proj, attn.o_proj = nn.Linear(width, heads * HEAD), nn.Linear(heads * HEAD, width, bias=False)
        attn.k_proj, attn.v_proj = nn.Linear(width, KEY_VALUE), nn.Linear(width, KEY_VALUE)
        mlp.gate_proj, mlp.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        mlp.down_proj = nn.Linear(hidden, width, bias=False)
        for linear in (attn.q_proj, attn.k_proj, attn.v_proj, mlp.gate_proj, mlp.up_proj):
            nn.init.normal_(linear.weight, std=width ** -0.5)
        nn.init.normal_(attn.o_proj.weight, std=0.5 * (heads * HEAD) ** -0.5)
        nn.init.normal_(mlp.down_proj.weight, std=0.5 * hidden ** -0.5)
        self.self_attn, self.mlp = attn, mlp

    def queries_keys_values(self, x):
        a, y = self.self_attn, self.input_layernorm(x)
        split = lambda t: t.reshape(*t.shape[:2], -1, HEAD).transpose(1, 2)
        return split(a.q_proj(y)), split(a.k_proj(y)), split(a.v_proj(y))

    def finish(self, x, attended):
        x = x + self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


def rotary(positions):
    """positions [batch, 3, n] -> cosines and sines [batch, 1, n, HEAD]"""
    frequencies = 1e6 ** (-torch.arange(0, HEAD, 2).float() / HEAD)
    angles = (positions[..., None].float() * frequencies).repeat(1, 1, 1, 2)
    angles = torch.cat([part[:, i % 3] for i, part in enumerate(angles.split(SECTIONS, -1))], -1)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x, table):
    cosines, sines = table
    half = HEAD // 2
    return x * cosines + torch.cat([-x[..., half:], x[..., :half]], -1) * sines


class TextEncoder(nn.Module):
    def __init__(self, words, width=128, layers=2, heads=4, hidden=256):
        super().__init__()
        self.embed = nn.Embedding(words + 1, width, padding_idx=words)
        nn.init.normal_(self.embed.weight, std=0.7)
        with torch.no_grad():
            self.embed.weight[words].zero_()
        # The vision tower is a constant: this vector stands in each of its tokens.
        self.picture = nn.Parameter(torch.randn(width) * 0.5)
        self.layers = nn.ModuleList([Layer(width, heads, hidden) for _ in range(layers)])
        self.norm = RmsNorm(width)

    def forward(self, system, batch, emphasis=1.0):
        """`system` [n]: the constant words before every instruction, computed once for the whole batch."""
        count, length = batch.words.shape
        x = torch.where(batch.vision[..., None], self.picture, self.embed(batch.words))
        before = self.embed(system)[None]
        ahead = before.shape[1]
        table_before, table = rotary(torch.arange(ahead).expand(1, 3, ahead)), rotary(batch.positions)
        causal = torch.full((length, length), float("-inf")).triu(1)
        weight = torch.where(batch.weight.isinf(), batch.weight, batch.weight * emphasis)
        mask = torch.cat([torch.zeros(count, 1, length, ahead), causal + weight[:, None, None, :]], -1)
        own = torch.arange(length)
        mask[:, 0, own, ahead + own] = mask[:, 0, own, ahead + own].clamp_min(-1e4)   # padding reads itself
        for i, layer in enumerate(self.layers):
            queries, keys, values = layer.queries_keys_values(x)
            queries_before, keys_before, values_before = layer.queries_keys_values(before)
            keys_before = rotate(keys_before, table_before)
            attended = attend(
                rotate(queries, table).to(values.dtype),
                torch.cat([keys_before.expand(count, -1, -1, -1), rotate(keys, table)], 2).to(values.dtype),
                torch.cat([values_before.expand(count, -1, -1, -1), values], 2), mask.to(values.dtype))
            x = layer.finish(x, attended)
            if i + 1 < len(self.layers):
                attended = F.scaled_dot_product_attention(
                    rotate(queries_before, table_before).to(values.dtype), keys_before.to(values.dtype),
                    values_before, is_causal=True)
                before = layer.finish(before, attended)
        return self.norm(x)
