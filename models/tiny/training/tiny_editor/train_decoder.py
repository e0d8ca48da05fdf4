"""Stage 4: the decoder once more, on latents as inexact as the transformer's, so that grey stays grey.

The encoder stays as it is, so the transformer can too.
"""

import random

import torch

from . import edits
from .latent_space import LatentSpace
from .muon import Muon
from .pictures import Pictures, floats, image
from .progress import Stage, seed_all, set_rate
from .train_autoencoder import BATCH, SIZE, held_out_scores, loss_of, tensor

# Share of grey pictures, and the largest error of a white latent.
GREY, ERROR = 0.3, 0.35


def pictures(source, rng):
    for _ in range(BATCH):
        picture = source.any(SIZE)
        family, words = ("grey", ()) if rng.random() < GREY else edits.random_edit(rng)
        yield image(edits.apply(family, words, floats(picture))) if rng.random() < 0.7 else picture


def train(minutes):
    seed_all(4)
    stage, editor = Stage("decoder", minutes), Stage("editor", 1)
    space = LatentSpace()
    editor.resume(space=space)
    model, source, rng = space.autoencoder, Pictures(held_out=False, seed=5), random.Random(6)
    learns = [p for name, p in model.named_parameters() if name.startswith(("decoder", "conv2"))]
    for p in learns:
        p.requires_grad_(True)
    kernels = [p for p in learns if p.dim() == 4 and min(p.shape[:2]) > 3]
    chosen = set(map(id, kernels))
    muon = Muon(kernels, lr=1e-3, weight_decay=0)
    adam = torch.optim.AdamW([p for p in learns if id(p) not in chosen], lr=7e-4, betas=(0.9, 0.98), weight_decay=0)
    parts = dict(model=model, muon=muon, adam=adam)
    stage.resume(**parts)
    held_out = Pictures(held_out=True, seed=2)
    photos = [held_out.photo(128) for _ in range(24)]
    sets = {"photos 128": tensor(photos), "grey 128": tensor([image(edits.apply("grey", (), floats(p))) for p in photos])}
    stage.log(**held_out_scores(model, sets))
    stage.restart_clock()
    last_log = stage.elapsed()
    while stage.part() < 1:
        set_rate([muon, adam], stage.part(), stage.steps, warm_up=10, flat=0.2)
        true = tensor(list(pictures(source, rng)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                latent = model.encode(true).float()
            size = ERROR * torch.rand(BATCH, 1, 1, 1)
            error = torch.einsum("oc,bchw->bohw", space.inverse, size * torch.randn_like(latent))
            made = model.decode(latent + error).float()
        loss = loss_of(made, true, latent)
        stage.learn(loss, (muon, adam), BATCH)
        if stage.elapsed() - last_log > 60:
            last_log = stage.elapsed()
            stage.log(loss=round(loss.item(), 4), **held_out_scores(model, sets))
    stage.save(**parts)
    stage.log(final=True, **held_out_scores(model, sets))
