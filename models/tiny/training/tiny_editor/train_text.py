"""Stage 2: the text encoder alone, until an instruction's last tokens tell the family and words of its edit.

The heads that read them out are thrown away; stage 3 trains the encoder on.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from . import phrases, tokens
from .muon import Muon
from .progress import Stage, seed_all, set_rate
from .scenes import COLOURS, SHAPES
from .text_encoder import TextEncoder

BATCH = 96
# `unknown` and the empty prompt mean the same as `unchanged`.
FAMILIES = [family for family in phrases.PATTERNS if family != "unknown"]
NOUNS = ["-", *COLOURS, *SHAPES]
SHARE = {"tint": 3, "recolour": 3, "background": 2, "unknown": 2, "grey": 2, "unchanged": 2}
NOISE = 0.3
# How strongly wrong answers on each of: family, first, second and third word, count.
SLOTS = 4


def vision_grid(rng):
    """The two encode nodes read 14x14 tokens, or 37x37; their shape follows the photo's."""
    side = 14 if rng.random() < 0.7 else 37
    aspect = 2 ** rng.uniform(-0.8, 0.8)
    return max(1, round(side * aspect ** 0.5)), max(1, round(side / aspect ** 0.5))


def random_read(vocabulary, prompt, rng, noise, pictures=None, start=64):
    """An instruction as one of the server's nodes would present it, after a system text of `start` tokens."""
    count = rng.choice((0, 1, 1, 1, 1, 1, 1, 1, 1, 2)) if pictures is None else pictures
    named = count != 1 or rng.random() < 0.65
    grids = [vision_grid(rng) for _ in range(count)]
    return tokens.read(vocabulary, prompt, rng, grids, named, start, noise=noise)


def labels(family, words):
    family = "unchanged" if family == "unknown" else family
    named = [NOUNS.index(word) for word in words] if family in ("tint", "background", "recolour", "scene") else []
    return [FAMILIES.index(family), *named, *[0] * (SLOTS - 1 - len(named))]


class Task:
    def __init__(self, vocabulary, seed):
        self.vocabulary, self.rng = vocabulary, random.Random(seed)
        self.families = [f for f in phrases.PATTERNS for _ in range(SHARE.get(f, 1))]

    def batch(self, count, held_out=False, noise=NOISE):
        reads, wanted = [], []
        for _ in range(count):
            family = self.rng.choice(self.families)
            words = tokens.random_words(family, self.rng)
            prompt = phrases.say(self.rng, family, words, held_out)
            reads.append(random_read(self.vocabulary, prompt, self.rng, noise))
            wanted.append(labels(family, words))
        return tokens.collate(reads, self.vocabulary.unknown), torch.tensor(wanted)

    def strangers(self):
        reads, wanted, prompts = [], [], []
        for family, texts in phrases.STRANGERS.items():
            for text in texts:
                words = tokens.random_words(family, self.rng)
                prompts.append(text.format(*words))
                reads.append(random_read(self.vocabulary, prompts[-1], self.rng, 0, 1))
                wanted.append(labels(family, words))
        return tokens.collate(reads, self.vocabulary.unknown), torch.tensor(wanted), prompts


class Heads(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, n) for n in (len(FAMILIES), *[len(NOUNS)] * (SLOTS - 1))])

    def forward(self, encoded, length):
        at = length[:, None] - tokens.TAIL_LENGTH + torch.arange(tokens.TAIL_LENGTH)
        tail = torch.gather(encoded, 1, at[..., None].expand(-1, -1, encoded.shape[-1]))
        return [head(tail) for head in self.heads]


@torch.no_grad()
def accuracy(encoder, heads, system, batch, wanted):
    guesses = heads(encoder(system, batch), batch.length)
    right = torch.stack([guess[:, -1].argmax(-1) == wanted[:, i] for i, guess in enumerate(guesses)], 1)
    return right


def train(minutes):
    seed_all(0)
    stage = Stage("text", minutes)
    vocabulary = tokens.Vocabulary()
    task = Task(vocabulary, seed=8)
    system = torch.tensor(vocabulary.words(tokens.ids(tokens.EDIT_SYSTEM)))
    encoder, heads = TextEncoder(vocabulary.unknown), Heads()
    matrices = [p for p in encoder.layers.parameters() if p.dim() == 2]
    chosen = set(map(id, matrices))
    rest = [p for p in [*encoder.parameters(), *heads.parameters()] if id(p) not in chosen]
    muon, adam = Muon(matrices, 2e-3), torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0)
    parts = dict(encoder=encoder, heads=heads, muon=muon, adam=adam)
    stage.resume(**parts)
    stage.restart_clock()
    last_log = stage.elapsed()
    while stage.part() < 1:
        set_rate([muon, adam], stage.part(), stage.steps, warm_up=20)
        batch, wanted = task.batch(BATCH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guesses = heads(encoder(system, batch), batch.length)
        loss = sum(F.cross_entropy(guess.float().flatten(0, 1), wanted[:, i:i + 1].expand(-1, 5).flatten())
                   for i, guess in enumerate(guesses))
        stage.learn(loss, (muon, adam), BATCH)
        if stage.elapsed() - last_log > 45 or stage.part() >= 1:
            last_log = stage.elapsed()
            score = lambda *b: [round(x, 3) for x in accuracy(encoder, heads, system, *b).float().mean(0).tolist()]
            right = accuracy(encoder, heads, system, *task.strangers()[:2])[:, 0]
            stage.log(loss=round(loss.item(), 3), trained_wording=score(*task.batch(200, noise=0)),
                      held_out_wording=score(*task.batch(200, held_out=True, noise=0)),
                      strangers=round(right.float().mean().item(), 3))
            stage.save(**parts)
    batch, wanted, prompts = task.strangers()
    right = accuracy(encoder, heads, system, batch, wanted)[:, 0]
    stage.log(final=True, misread=[p for p, ok in zip(prompts, right) if not ok])
