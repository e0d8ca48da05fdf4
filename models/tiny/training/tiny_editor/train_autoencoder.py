"""Stage 1: the autoencoder, on small crops of photos and of edited photos."""

import math
import queue
import random
import threading

import numpy as np
import torch

from . import edits
from .autoencoder import Autoencoder
from .muon import Muon
from .pictures import Pictures, floats, image
from .progress import Stage, seed_all, set_rate

SIZE, BATCH = 64, 16
# The decoder must forgive what the transformer gets wrong.
LATENT_NOISE = 0.08


def tensor(pictures):
    """Pictures in 0..1 or 0..255 -> network input in -1..1."""
    stacked = np.stack([np.asarray(p, np.uint8) for p in pictures])
    batch = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)


def batches(pictures, rng):
    """Drawn by a second thread; half the pictures are shown as they look after an edit."""
    waiting = queue.Queue(24)

    def one():
        picture = pictures.any(SIZE)
        if rng.random() < 0.5:
            picture = image(edits.apply(*edits.random_edit(rng), floats(picture)))
        return picture

    def feed():
        while True:
            waiting.put(tensor([one() for _ in range(BATCH)]))

    threading.Thread(target=feed, daemon=True).start()
    return waiting


def chroma(x):
    """Blue and red minus luma: what a grey picture must not have."""
    luma = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    return x[:, ::2] - luma, luma


def loss_of(made, true, latent):
    error = made - true
    edges = ((error[..., 1:] - error[..., :-1]).abs().mean() + (error[:, :, 1:] - error[:, :, :-1]).abs().mean())
    wrong_colour, _ = chroma(error)
    # Saturation is chroma relative to brightness, so dark pixels count more.
    brightness = (true.amax(1, keepdim=True) + 1) / 2
    colour = (wrong_colour.abs() / (brightness + 0.15)).mean()
    return (error.abs().mean() + 2 * error.pow(2).mean() + 0.25 * edges + 0.35 * colour
            + 3e-4 * latent.float().pow(2).mean())


@torch.no_grad()
def psnr(model, pictures):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = torch.cat([model.decode(model.encode(part)).float() for part in pictures.split(8)]).clamp(-1, 1)
    decibel = (10 * torch.log10(4 / (made - pictures).pow(2).mean((1, 2, 3)))).mean().item()
    lightest, darkest = (made.amax(1) + 1) / 2, (made.amin(1) + 1) / 2
    return decibel, ((lightest - darkest) / (lightest + 1e-6)).mean().item()


def held_out_scores(model, sets):
    model.eval()
    scores = {name: round(psnr(model, pictures)[0], 2) for name, pictures in sets.items()}
    scores["grey saturation"] = round(psnr(model, sets["grey 128"])[1], 4)
    model.train()
    return scores


def train(minutes):
    seed_all(0)
    stage = Stage("autoencoder", minutes)
    held_out = Pictures(held_out=True, seed=2)
    photos = [held_out.photo(128) for _ in range(32)]
    sets = {
        "photos 128": tensor(photos),
        "photos 256": tensor([held_out.photo(256) for _ in range(12)]),
        "emoji 128": tensor([held_out.emoji_scene(128) for _ in range(16)]),
        "grey 128": tensor([image(edits.apply("grey", (), floats(p))) for p in photos]),
    }
    waiting = batches(Pictures(held_out=False, seed=1), random.Random(3))
    model = Autoencoder()
    model.start_from_principal_components(torch.cat([waiting.get() for _ in range(6)]))
    model = model.to(memory_format=torch.channels_last).train()
    kernels = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[:2]) > 3]
    chosen = set(map(id, kernels))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = Muon(kernels, lr=3e-3, weight_decay=1e-3)
    adam = torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0, fused=True)
    parts = dict(model=model, muon=muon, adam=adam)
    stage.resume(**parts)
    errors, last_log = [], stage.elapsed()
    while stage.part() < 1:
        set_rate([muon, adam], stage.part(), stage.steps)
        true = waiting.get()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latent = model.encode(true)
            made = model.decode(latent + LATENT_NOISE * torch.randn_like(latent)).float()
        loss = loss_of(made, true, latent)
        stage.learn(loss, (muon, adam), BATCH, clipped=list(model.parameters()))
        if stage.steps == 1:
            stage.restart_clock()
        errors = [*errors[-79:], (made.detach() - true).pow(2).mean().item()]
        if stage.elapsed() - last_log > 90:
            last_log = stage.elapsed()
            stage.log(loss=round(loss.item(), 4), train_psnr=round(10 * math.log10(4 / np.mean(errors)), 2),
                      **held_out_scores(model, sets))
            stage.save(**parts)
    stage.save(**parts)
    stage.log(final=True, **held_out_scores(model, sets))
