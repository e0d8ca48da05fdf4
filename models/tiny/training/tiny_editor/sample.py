"""The sampler of the server, in small: Euler steps, guidance and CFGNorm, for quick checks while training."""

import random

import torch

from . import tokens
from .lessons import normed
from .transformer import grid, latents, patches


def schedule(steps, shift=3.0):
    """The simple scheduler on a shifted flow."""
    times = [1 - int(i * 1000 / steps) / 1000 for i in range(steps)] + [0]
    return [shift * t / (1 + (shift - 1) * t) for t in times]


class Editor:
    def __init__(self, space, vocabulary, encoder, transformer):
        self.space, self.vocabulary, self.encoder, self.transformer = space, vocabulary, encoder, transformer
        self.system = torch.tensor(vocabulary.words(tokens.ids(tokens.EDIT_SYSTEM)))

    def condition(self, prompts, picture, emphasis, keep):
        """Texts with one reference -> context, positions and key weights of everything."""
        count, _, height, width = picture.shape
        rows, columns = height // 2, width // 2
        reads = [tokens.read(self.vocabulary, prompt, random.Random(1), keep=keep) for prompt in prompts]
        text = tokens.collate(reads, self.vocabulary.unknown)
        context = self.encoder(self.system, text, emphasis)
        at = (text.index + max(rows // 2, columns // 2))[..., None].expand(-1, -1, 3)
        places = [grid(number, rows, columns).expand(count, -1, -1) for number in (0, 1)]
        weight = torch.where(text.weight.isinf(), text.weight, text.weight * emphasis)
        weight = torch.cat([weight, torch.zeros(count, 2 * rows * columns)], 1)
        return context, torch.cat([at, *places], 1), weight

    @torch.no_grad()
    def edit(self, picture, prompts, steps=4, cfg=1.0, seed=0, negative="", emphasis=1.0, keep=None):
        """`picture`: latents; -> latents"""
        count, _, height, width = picture.shape
        rows, columns = height // 2, width // 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            conditions = [self.condition(prompts, picture, emphasis, keep)]
            if cfg != 1:
                conditions.append(self.condition([negative] * count, picture, emphasis, keep))
            reference = patches(picture)
            x = patches(torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed)))
            sigmas = schedule(steps)
            for now, then in zip(sigmas, sigmas[1:]):
                sigma = torch.full((count,), now)
                clean = [x - now * self.transformer(torch.cat([x, reference], 1), context, sigma, positions, weight,
                                                    rows * columns).float() for context, positions, weight in conditions]
                guided = clean[0]
                if cfg != 1:
                    guided = normed(clean[1] + cfg * (clean[0] - clean[1]), clean[0])
                x = guided + (x - guided) * (then / now)
        return latents(x, rows, columns)
