"""Simple scenes: one to three coloured shapes on a plain background, and edits of their parts."""

import math

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (45, 80, 220), "yellow": (245, 215, 50),
    "orange": (245, 140, 30), "purple": (140, 60, 180), "pink": (245, 130, 180), "white": (245, 245, 245),
    "black": (20, 20, 20), "gray": (128, 128, 128), "brown": (125, 80, 45), "cyan": (50, 200, 220),
}
SHAPES = ("circle", "square", "triangle", "star")


def outline(kind, x, y, radius):
    if kind == "square":
        half = radius * 0.88
        return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
    if kind == "triangle":
        corners = [(-math.pi / 2 + 2 * math.pi * i / 3, 1.1) for i in range(3)]
        y += 0.15 * radius
    else:
        corners = [(-math.pi / 2 + math.pi * i / 5, 0.48 if i % 2 else 1.15) for i in range(10)]
    return [(x + far * radius * math.cos(a), y + far * radius * math.sin(a)) for a, far in corners]


class Scene:
    def __init__(self, rng):
        self.background = rng.choice(list(COLOURS))
        self.slope = rng.uniform(20, 60) if rng.random() < 0.4 else 0
        self.angle = rng.uniform(0, 2 * math.pi)
        count = rng.choice((1, 2, 2, 3))
        kinds = rng.sample(SHAPES, count)
        colours = rng.sample([c for c in COLOURS if c != self.background], count)
        cells = rng.sample([(x, y) for x in (0, 1) for y in (0, 1)], count)
        place = lambda cell: 0.25 + 0.5 * cell + rng.uniform(-0.04, 0.04)
        self.items = [(kind, colour, place(x), place(y), rng.uniform(0.13, 0.19))
                      for kind, colour, (x, y) in zip(kinds, colours, cells)]

    def with_parts(self, background=None, items=None):
        other = Scene.__new__(Scene)
        other.__dict__.update(self.__dict__, background=background or self.background, items=items or self.items)
        return other

    def draw(self, size, oversample=4):
        big = size * oversample
        y, x = np.mgrid[0:big, 0:big].astype(np.float32) / big - 0.5
        rise = (x * math.cos(self.angle) + y * math.sin(self.angle)) * self.slope
        field = np.clip(np.array(COLOURS[self.background], np.float32) + rise[..., None], 0, 255)
        canvas = Image.fromarray(field.astype(np.uint8))
        pen = ImageDraw.Draw(canvas)
        for kind, colour, cx, cy, radius in self.items:
            cx, cy, radius = cx * big, cy * big, radius * big
            if kind == "circle":
                pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=COLOURS[colour])
            else:
                pen.polygon(outline(kind, cx, cy, radius), fill=COLOURS[colour])
        return canvas.resize((size, size), Image.BOX)

    def edit(self, rng, background_share=0.4):
        """A random edit -> (family, words of the instruction, the scene after it)."""
        used = {self.background, *(item[1] for item in self.items)}
        new = rng.choice([c for c in COLOURS if c not in used])
        if rng.random() < background_share:
            return "background", (new,), self.with_parts(background=new)
        at = rng.randrange(len(self.items))
        kind, old, *where = self.items[at]
        items = [*self.items]
        items[at] = (kind, new, *where)
        return "recolour", (kind, old, new), self.with_parts(items=items)
