"""Stage 3: the transformer, and the text encoder with it."""

import random
import time

import numpy as np
import torch

from . import edits, judge, paths, phrases, tokens
from .autoencoder import LATENT
from .exchange import Exchange
from .latent_space import LatentSpace
from .lessons import Lessons, scene_group
from .muon import Muon
from .pictures import Pictures, floats, image
from .progress import Stage, seed_all, set_rate
from .sample import Editor
from .scenes import Scene
from .text_encoder import TextEncoder
from .transformer import Transformer

GROUPS, SCENE_GROUPS, DRAWINGS = 12, 7, 20
SCENES_EVERY, DRAWINGS_EVERY = 8, 40
RATE = 2e-3
SETTINGS = {"4 steps cfg 1": dict(steps=4), "20 steps cfg 2.5": dict(steps=20, cfg=2.5),
            "20 steps cfg 4": dict(steps=20, cfg=4.0)}


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


class Examination:
    """Held-out photos and wordings, judged by rule, at several settings of the sampler."""

    def __init__(self, space, size=96, photos=3):
        pictures = Pictures(held_out=True, seed=123)
        self.photos = [floats(pictures.photo(size)) for _ in range(photos)]
        self.latents = space.encode([image(p) for p in self.photos])
        self.space, self.size = space, size

    def families(self):
        for family in edits.GLOBAL:
            yield family, ()
        for colour in ("red", "green", "blue"):
            yield "tint", (colour,)

    def take(self, editor, **settings):
        rng, scores, wins = random.Random(7), {}, []
        for family, words in self.families():
            prompts = [rng.choice(phrases.STRANGERS[family]).format(*words) for _ in self.photos]
            made = self.space.decode(editor.edit(self.latents, prompts, **settings))
            results = [judge.judge(family, words, b, a) for b, a in zip(self.photos, made)]
            wins += [passed for passed, _ in results]
            name = " ".join((family, *words))
            scores[name] = f"{sum(p for p, _ in results)}/{len(results)} {np.mean([f['psnr'] for _, f in results]):.1f}"
        return round(float(np.mean(wins)), 3), scores

    def scenes(self, editor, count=24, **settings):
        rng, scores = random.Random(42), {}
        tasks = []
        for _ in range(count):
            scene = Scene(rng)
            tasks.append((scene, *scene.edit(rng)))
        latents = self.space.encode([scene.draw(self.size) for scene, *_ in tasks])
        prompts = [rng.choice(phrases.STRANGERS[family]).format(*words) for _, family, words, _ in tasks]
        made = self.space.decode(editor.edit(latents, prompts, **settings))
        for (scene, family, words, other), after in zip(tasks, made):
            passed, _ = judge.judge_scene(family, words, scene, other, after, self.size)
            scores.setdefault(family, []).append(passed)
        return {family: f"{sum(won)}/{len(won)}" for family, won in scores.items()}


def train(minutes, rank=0, log_seconds=60, save_minutes=4):
    seed_all(100 + rank)
    stage = Stage("editor", minutes, rank)
    vocabulary = tokens.Vocabulary()
    encoder, transformer = models(vocabulary)
    encoder.load_state_dict(torch.load(paths.RUNS / "text.pt", weights_only=False)["encoder"])
    space = LatentSpace()
    everything = [*transformer.parameters(), *encoder.parameters()]
    matrices = [p for name, p in transformer.transformer_blocks.named_parameters() if p.dim() == 2 and "_mod" not in name]
    chosen = set(map(id, matrices))
    rest = [p for p in everything if id(p) not in chosen]
    muon, adam = Muon(matrices, RATE), torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.98), weight_decay=0, fused=True)
    parts = dict(encoder=encoder, transformer=transformer, muon=muon, adam=adam, space=space)
    space_pictures = Pictures(held_out=False, seed=11)
    if not stage.resume(**parts):
        stage.log(preview_correlation=space.fit([space_pictures.any(64) for _ in range(400)]))
        stage.save(**parts)
    visibility = space.visibility([space_pictures.any(64) for _ in range(32)])
    exchange = Exchange(everything, leader=rank == 0)
    lessons = Lessons(space, vocabulary, seed=31 + rank)
    lessons.photos.grow(250, space)
    lessons.scenes.grow(100, space)
    lessons.drawings.grow(60, space)
    for block in transformer.transformer_blocks:
        block.forward = torch.compile(block.forward, dynamic=True)
    stage.restart_clock()
    last_log, last_save, losses = stage.elapsed(), stage.elapsed(), {}
    part = stage.part()
    while part < 1:
        if rank:
            part = exchange.fetch()
        else:
            part = stage.part()
            exchange.publish(part)
        emphasis, noise_share = pace(part)
        set_rate([muon, adam], part, stage.steps, warm_up=80)
        kind, batch = next_batch(lessons, stage.steps, noise_share, space)
        loss = loss_of(encoder, transformer, batch, emphasis, visibility)
        muon.zero_grad()
        adam.zero_grad()
        loss.backward()
        samples = len(batch.sigma)
        losses[kind] = [*losses.get(kind, [])[-39:], loss.item()]
        stage.steps += 1
        if rank:
            while not exchange.offer(samples) and exchange.state[0] < 1:
                time.sleep(0.005)
            continue
        stage.samples += samples + exchange.merge()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step()
        adam.step()
        if stage.elapsed() - last_log > log_seconds:
            last_log = stage.elapsed()
            stage.log(**{f"loss_{k}": round(float(np.mean(v)), 4) for k, v in losses.items()}, emphasis=round(emphasis, 2))
        if stage.elapsed() - last_save > save_minutes * 60:
            last_save = stage.elapsed()
            stage.save(**parts)
    if not rank:
        exchange.publish(1)
        stage.save(**parts)


def next_batch(lessons, step, noise_share, space):
    if step % 6 == 5:
        lessons.photos.grow(3, space)
    if step % 40 == 7:
        lessons.scenes.grow(4, space)
    if step % 80 == 9:
        lessons.drawings.grow(3, space)
    if step % DRAWINGS_EVERY == 3:
        return "drawings", lessons.drawing_batch(DRAWINGS, noise_share)
    if step % SCENES_EVERY == 2:
        return "scenes", lessons.scene_batch(SCENE_GROUPS, noise_share)
    return "photos", lessons.photo_batch(GROUPS, noise_share)


def examine(photos=3, size=96):
    """Judges the last checkpoint."""
    stage, vocabulary = Stage("editor", 1), tokens.Vocabulary()
    encoder, transformer = models(vocabulary)
    space = LatentSpace()
    stage.resume(encoder=encoder, transformer=transformer, space=space)
    editor, exam = Editor(space, vocabulary, encoder, transformer), Examination(space, size, photos)
    for name, settings in SETTINGS.items():
        share, scores = exam.take(editor, **settings)
        stage.log(exam=name, passed=share, scores=scores)
    stage.log(exam="scenes, 4 steps cfg 1", scores=exam.scenes(editor))
