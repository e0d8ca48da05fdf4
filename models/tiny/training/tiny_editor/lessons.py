"""What the editor is shown: encoded pictures with their edits, and batches made of parts of them.

The server works on up to 1 MP with hundreds of vision tokens; training on that is far too slow. So a lesson shows a
small window of a picture at its place in a large imagined grid, and a few tokens stand for all others, with the
logarithm of how many they stand for added to their attention scores.
"""

import math
import random
from dataclasses import dataclass

import torch

from . import edits, phrases, tokens
from .autoencoder import LATENT
from .pictures import Pictures, floats, image
from .scenes import Scene
from .train_text import random_read
from .transformer import grid, patches

SIDE = 96                 # pixels of an encoded picture
CELLS = SIDE // 16        # its patches along a side
WINDOW = 4                # patches along a side that a lesson shows whole
FILLERS = 6               # more patches of it, each for a share of the imagined rest
LARGEST = 80              # patches along a side of the imagined picture
EMPTY = 0.16              # share of lessons without an instruction, for classifier-free guidance
UNTOUCHED = 0.6           # share of windows with one lesson in leaving the picture alone
LOWEST = 0.08             # noise level
GROUPS, SCENE_GROUPS, DRAWINGS = 12, 6, 20    # pictures in a batch
SCENES_SHARE, DRAWINGS_EVERY = 0.6, 40          # of batches
# The part of a scene that an edit changes is small, and learning to keep the rest is easy: it counts more.
CHANGED, CHANGED_WEIGHT = 0.05, 6.0
# Another background is learnt in a tenth of the time that another colour for one of several shapes takes.
BACKGROUND_SHARE = 0.15
OTHER_WORDS = {"unchanged": ("unchanged", "unchanged", "unknown")}


class Pool:
    """Groups of one picture and its edits, encoded; the oldest make room for new ones."""

    def __init__(self, make, most):
        self.make, self.most, self.groups = make, most, []

    def grow(self, count, space):
        made = [self.make() for _ in range(count)]
        shown = [picture for before, after in made for picture in (before, *(p for p, _, _ in after))]
        encoded = patches(space.encode(shown)).bfloat16()
        at = 0
        for _, after in made:
            self.groups.append((encoded[at:at + 1 + len(after)], [(family, words) for _, family, words in after]))
            at += 1 + len(after)
        self.groups = self.groups[-self.most:]


def photo_group(pictures, rng, count=4):
    before = floats(pictures.any(SIDE))
    after, seen = [], set()
    while len(after) < count:
        family, words = edits.random_edit(rng)
        if family != "unchanged" and (family, words) not in seen:
            seen.add((family, words))
            after.append((image(edits.apply(family, words, before)), family, words))
    return image(before), after


def scene_group(rng, count=4):
    scene = Scene(rng)
    after = []
    for _ in range(count):
        family, words, other = scene.edit(rng, BACKGROUND_SHARE)
        after.append((other.draw(SIDE), family, words))
    return scene.draw(SIDE), after


def drawing_group(rng):
    """A scene of one shape, which a text without a picture can describe."""
    scene = Scene(rng)
    scene = scene.with_parts(items=scene.items[:1])
    kind, colour, *_ = scene.items[0]
    drawn = scene.draw(SIDE)
    return drawn, [(drawn, "scene", (kind, colour, scene.background))]


@dataclass
class Batch:
    image: torch.Tensor       # noisy target tokens, then the pictures'
    wanted: torch.Tensor      # velocity
    counts: torch.Tensor      # how much each token's velocity counts
    sigma: torch.Tensor
    text: tokens.TextBatch
    system: torch.Tensor
    positions: torch.Tensor
    weight: torch.Tensor      # of the image tokens
    targets: int


class Lessons:
    def __init__(self, space, vocabulary, seed):
        self.space, self.vocabulary = space, vocabulary
        self.rng = random.Random(seed)
        pictures, rng = Pictures(held_out=False, seed=seed), self.rng
        self.photos = Pool(lambda: photo_group(pictures, rng), 1500)
        self.scenes = Pool(lambda: scene_group(rng), 700)
        self.drawings = Pool(lambda: drawing_group(rng), 400)
        self.photos.grow(250, space)
        self.scenes.grow(200, space)
        self.drawings.grow(60, space)
        self.systems = {name: torch.tensor(vocabulary.words(tokens.ids(text)))
                        for name, text in (("edit", tokens.EDIT_SYSTEM), ("text", tokens.TEXT_SYSTEM))}

    def next(self, step, noise_share):
        """-> (kind, batch); now and then with new pictures"""
        for pool, every, at, count in ((self.photos, 6, 5, 3), (self.scenes, 16, 7, 4), (self.drawings, 80, 9, 3)):
            if step % every == at:
                pool.grow(count, self.space)
        if step % DRAWINGS_EVERY == 3:
            return "drawings", self.drawing_batch(DRAWINGS, noise_share)
        if self.rng.random() < SCENES_SHARE:
            return "scenes", self.scene_batch(SCENE_GROUPS, noise_share)
        return "photos", self.photo_batch(GROUPS, noise_share)

    def photo_batch(self, groups, noise_share):
        """Windows of photos, four edits each."""
        rng, chosen, windows = self.rng, [], []
        for encoded, meta in rng.choices(self.photos.groups, k=groups):
            y, x = rng.randint(0, CELLS - WINDOW), rng.randint(0, CELLS - WINDOW)
            inside = [(y + r) * CELLS + x + c for r in range(WINDOW) for c in range(WINDOW)]
            outside = rng.sample([i for i in range(CELLS * CELLS) if i not in inside], FILLERS)
            windows.append(encoded[:, inside + outside].float())
            kept = [*meta]
            if rng.random() < UNTOUCHED:
                at = rng.randrange(len(kept))
                kept[at] = ("unchanged", ())
                windows[-1][1 + at] = windows[-1][0]
            chosen.append(kept)
        edited = torch.cat([w[1:] for w in windows])
        before = torch.cat([w[:1].expand(len(w) - 1, -1, -1) for w in windows])
        other = torch.cat([w[1:].roll(1, 0) for w in windows])
        meta = [m for kept in chosen for m in kept]
        pictures = 2 if rng.random() < 0.15 else 1
        return self.batch(before, edited, other, meta, WINDOW, FILLERS, noise_share, pictures)

    def scene_batch(self, groups, noise_share):
        """Whole scenes, four edits each."""
        rng = self.rng
        drawn = rng.choices(self.scenes.groups, k=groups)
        edited = torch.cat([encoded[1:] for encoded, _ in drawn]).float()
        before = torch.cat([encoded[:1].expand(len(encoded) - 1, -1, -1) for encoded, _ in drawn]).float()
        other = torch.cat([encoded[1:].roll(1, 0) for encoded, _ in drawn]).float()
        meta = [m for _, kept in drawn for m in kept]
        changed = (edited - before).pow(2).mean(-1) > CHANGED
        return self.batch(before, edited, other, meta, CELLS, 0, noise_share, 1, 1 + (CHANGED_WEIGHT - 1) * changed)

    def drawing_batch(self, count, noise_share):
        """Pictures out of text alone."""
        drawn = self.rng.choices(self.drawings.groups, k=count)
        target = torch.stack([encoded[1] for encoded, _ in drawn]).float()
        nothing = torch.zeros_like(target)
        return self.batch(nothing, target, target.roll(1, 0), [kept[0] for _, kept in drawn], CELLS, 0, noise_share, 0)

    def instruction(self, family, words, sigma):
        """-> (prompt, whether the picture must stay as it is whatever the prompt)"""
        if self.rng.random() < EMPTY:
            # Pure noise tells nothing, so nothing should change. Later the noise shows an edit: go on with it.
            return "", sigma >= 1 or self.rng.random() < 0.4
        family = self.rng.choice(OTHER_WORDS.get(family, (family,)))
        return phrases.say(self.rng, family, words), False

    def batch(self, before, edited, other, meta, side, fillers, noise_share, pictures, importance=1.0):
        count, shown = before.shape[:2]
        sigma = torch.rand(count)
        sigma = torch.where(torch.rand(count) < noise_share, torch.ones(count), 3 * sigma / (1 + 2 * sigma))
        sigma = sigma.clamp(LOWEST, 1)
        asked = [self.instruction(*m, float(s)) for m, s in zip(meta, sigma)]
        stay = torch.tensor([s and pictures > 0 for _, s in asked])[:, None, None]
        target = torch.where(stay, before, edited)
        told = torch.tensor([bool(prompt) for prompt, _ in asked])
        level = sigma[:, None, None]
        noisy = (1 - level) * misled(target, before, other, told, sigma) + level * torch.randn_like(target)
        system = self.rng.choice(list(self.systems)) if not pictures else "edit"
        reads = [random_read(self.vocabulary, prompt, self.rng, 0.15, 0 if self.rng.random() < 0.05 else pictures,
                             len(self.systems[system])) for prompt, _ in asked]
        text = tokens.collate(reads, self.vocabulary.unknown)
        places, weight, starts = self.places(count, side, fillers)
        counts = torch.isfinite(weight).float() * importance
        parts, positions, weights = [noisy], [places], [weight]
        for number in range(1, pictures + 1):
            parts.append(before if number == 1 else before.roll(len(before) // 2, 0))
            positions.append(places + torch.tensor([float(number), 0, 0]))
            weights.append(self.torn(weight, side) if number == 1 else weight)
        text_places = (text.index + starts[:, None])[..., None].expand(-1, -1, 3)
        return Batch(torch.cat(parts, 1), (noisy - target) / level, counts, sigma, text, self.systems[system],
                     torch.cat([text_places, *positions], 1), torch.cat(weights, 1), shown)

    def places(self, count, side, fillers):
        """Where in an imagined larger picture the window lies, and how many others each filler stands for."""
        rng, all_places, all_weights, starts = self.rng, [], [], []
        window = grid(0, side, side) + torch.tensor([0.0, side // 2, side // 2])
        for _ in range(count):
            rows = columns = side
            if fillers and rng.random() < 0.75:
                rows, columns = (round(side * (LARGEST / side) ** rng.random()) for _ in range(2))
            middle = torch.tensor([0.0, rows // 2, columns // 2])
            corner = torch.tensor([0.0, rng.randint(0, rows - side), rng.randint(0, columns - side)])
            spread = torch.tensor([[0.0, rng.randrange(rows), rng.randrange(columns)] for _ in range(fillers)])
            all_places.append(torch.cat([window + corner, spread.reshape(-1, 3)]) - middle)
            left = rows * columns - side * side
            each = math.log(left / fillers) if fillers and left >= fillers else -math.inf
            all_weights.append(torch.cat([torch.zeros(side * side), torch.full((fillers,), each)]))
            starts.append(max(rows // 2, columns // 2))
        return torch.stack(all_places), torch.stack(all_weights), torch.tensor(starts).float()

    def torn(self, weight, side):
        """The encode node's own reference can be a row or column short of the target."""
        weight = weight.clone()
        for row in range(len(weight)):
            if self.rng.random() < 0.06:
                cells = weight[row, :side * side].view(side, side)
                if self.rng.random() < 0.5:
                    cells[-1] = -math.inf
                else:
                    cells[:, -1] = -math.inf
        return weight


def misled(target, before, other, told, sigma):
    """What the noise is mixed with: mostly the target, else something off it that has to be pulled back.

    Guidance overdrives every edit, and steps repeat earlier mistakes; lessons from clean targets alone
    never show how to recover from either.
    """
    count = len(target)
    kind, uniform = torch.rand(count), lambda low, high: (low + (high - low) * torch.rand(count))[:, None, None]
    only = lambda chosen, offset: torch.where(chosen[:, None, None], offset, torch.zeros(()))
    guided = normed(before + uniform(0.4, 4) * (target - before), target)
    offset = (only(kind < 0.35, guided - target)
              + only((kind >= 0.35) & (kind < 0.45) & told, uniform(-0.5, 0.9) * (other - target))
              + only((kind >= 0.45) & (kind < 0.6), uniform(0, 0.4) * torch.randn_like(target)))
    return target + (1.5 * sigma).clamp(max=1)[:, None, None] * offset


def normed(guided, conditional):
    """CFGNorm of strength 1 on tokens: at no place longer, over the channels, than the conditional prediction."""
    apart = lambda tokens_: tokens_.unflatten(-1, (LATENT, -1))
    scale = apart(conditional).norm(dim=-2, keepdim=True) / (apart(guided).norm(dim=-2, keepdim=True) + 1e-8)
    return (apart(guided) * scale.clamp(max=1)).flatten(-2)
