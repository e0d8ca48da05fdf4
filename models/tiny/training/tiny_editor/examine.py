"""A quick judgement of the editor's checkpoint, without comfyd."""

import random

import numpy as np

from . import edits, judge, phrases, tokens
from .latent_space import LatentSpace
from .pictures import Pictures, floats, image
from .progress import Stage
from .sample import Editor
from .scenes import Scene
from .train_editor import models

SETTINGS = {"4 steps cfg 1": dict(steps=4), "20 steps cfg 2.5": dict(steps=20, cfg=2.5),
            "20 steps cfg 4": dict(steps=20, cfg=4.0)}


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
