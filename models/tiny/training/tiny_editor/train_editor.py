"""Stage 3: the transformer, and the text encoder with it."""

import time

import numpy as np
import torch

from . import paths, tokens
from .autoencoder import LATENT
from .exchange import Exchange
from .latent_space import LatentSpace
from .lessons import Lessons
from .muon import Muon
from .pictures import Pictures
from .progress import Stage, seed_all, set_rate
from .text_encoder import TextEncoder
from .transformer import Transformer

RATE = 2e-3
LOG_SECONDS, SAVE_SECONDS = 60, 240


def models(vocabulary):
    return TextEncoder(vocabulary.unknown), Transformer()


def loss_of(encoder, transformer, batch, emphasis, visibility):
    """`emphasis` 0..1: how far a token that stands for many counts as many."""
    weight = torch.where(batch.weight.isinf(), batch.weight, batch.weight * emphasis)
    text_weight = torch.where(batch.text.weight.isinf(), batch.text.weight, batch.text.weight * emphasis)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = encoder(batch.system, batch.text, emphasis)
        velocity = transformer(batch.image, context, batch.sigma, batch.positions,
                               torch.cat([text_weight, weight], 1), batch.targets)
    error = (velocity.float() - batch.wanted).unflatten(-1, (LATENT, -1))
    error = torch.einsum("bncp,cd->bndp", error, visibility).pow(2).mean((-1, -2))
    return (error * batch.counts).sum() / batch.counts.sum()


def pace(part):
    """-> (emphasis, share of lessons from pure noise). Text is heard before many tokens drown it."""
    return min(1.0, max(0.0, (part - 0.08) / 0.3)), 0.65 if part < 0.4 else 0.4


class Run:
    """One process of the stage: the leader, or a helper that only lends gradients."""

    def __init__(self, minutes, helper):
        seed_all(101 if helper else 100)
        self.stage = Stage("editor", minutes, rank=int(helper))
        vocabulary, space = tokens.Vocabulary(), LatentSpace()
        self.encoder, self.transformer = models(vocabulary)
        self.encoder.load_state_dict(torch.load(paths.RUNS / "text.pt", weights_only=False)["encoder"])
        everything = [*self.transformer.parameters(), *self.encoder.parameters()]
        matrices = [p for name, p in self.transformer.transformer_blocks.named_parameters()
                    if p.dim() == 2 and "_mod" not in name]
        chosen = set(map(id, matrices))
        self.rest = [p for p in everything if id(p) not in chosen]
        self.muon = Muon(matrices, RATE)
        self.adam = torch.optim.AdamW(self.rest, lr=RATE, betas=(0.9, 0.98), weight_decay=0, fused=True)
        self.parts = dict(encoder=self.encoder, transformer=self.transformer, muon=self.muon, adam=self.adam,
                          space=space)
        pictures = Pictures(held_out=False, seed=11)
        if not self.stage.resume(**self.parts):
            self.stage.log(preview_correlation=space.fit([pictures.any(64) for _ in range(400)]))
            self.stage.save(**self.parts)
        self.visibility = space.visibility([pictures.any(64) for _ in range(32)])
        self.exchange = Exchange(everything, leader=not helper)
        self.lessons = Lessons(space, vocabulary, seed=32 if helper else 31)
        self.losses = {}
        for block in self.transformer.transformer_blocks:
            block.forward = torch.compile(block.forward, dynamic=True)

    def gradients(self, part):
        """Of one batch -> how many lessons it had."""
        emphasis, noise_share = pace(part)
        kind, batch = self.lessons.next(self.stage.steps, noise_share)
        loss = loss_of(self.encoder, self.transformer, batch, emphasis, self.visibility)
        self.muon.zero_grad()
        self.adam.zero_grad()
        loss.backward()
        self.losses[kind] = [*self.losses.get(kind, [])[-39:], loss.item()]
        self.stage.steps += 1
        return len(batch.sigma)

    def lead(self):
        stage = self.stage
        stage.restart_clock()
        logged = saved = stage.elapsed()
        while (part := stage.part()) < 1:
            self.exchange.publish(part)
            set_rate([self.muon, self.adam], part, stage.steps, warm_up=80)
            stage.samples += self.gradients(part) + self.exchange.merge()
            torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
            self.muon.step()
            self.adam.step()
            if stage.elapsed() - logged > LOG_SECONDS:
                logged = stage.elapsed()
                stage.log(**{f"loss_{kind}": round(float(np.mean(last)), 4) for kind, last in self.losses.items()})
            if stage.elapsed() - saved > SAVE_SECONDS:
                saved = stage.elapsed()
                stage.save(**self.parts)
        self.exchange.publish(1)
        stage.save(**self.parts)

    def help(self):
        while (part := self.exchange.fetch()) < 1:
            samples = self.gradients(part)
            while not self.exchange.offer(samples) and self.exchange.state[0] < 1:
                time.sleep(0.005)


def train(minutes, helper=False):
    run = Run(minutes, helper)
    run.help() if helper else run.lead()
