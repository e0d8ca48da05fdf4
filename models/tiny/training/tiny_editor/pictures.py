"""The pictures to learn from: free photos out of packages, emoji, and textures made here."""

import bz2
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import paths
from .scenes import Scene

LOMIRI = "lomiri-wallpapers-16.04/usr/share/backgrounds/"
SKIMAGE = "scikit_image/skimage/data/"
SKLEARN = "scikit_learn/sklearn/datasets/images/"
EMOJI_FONT = "fonts-noto-color-emoji/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"

# Credits and licences are in ../README.md. The held-out ones are never trained on.
TRAINING = (
    [LOMIRI + name for name in (
        "aitzgorri_by_Aitzol_Berasategi.jpg", "friends_by_Aitzol_Berasategi.jpg", "life_by_Aitzol_Berasategi.jpg",
        "picosdeeuropa_by_Aitzol_Berasategi.jpg", "sunset_by_Aitzol_Berasategi.jpg", "Picture_0B_by_freespace.jpg",
        "Picture_1A_by_freespace.jpg", "seeding_by_Clements_Engelhardt.jpg", "umang_by_Abhishek_Mudgal.jpg")]
    + [SKLEARN + "china.jpg"]
    + [SKIMAGE + name for name in (
        "chelsea.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg", "brick.png", "grass.png", "gravel.png",
        "coins.png", "camera.png")]
)
HELD_OUT = [SKIMAGE + "astronaut.png", SKIMAGE + "coffee.png", SKIMAGE + "rocket.jpg", SKLEARN + "flower.jpg",
            "scipy/scipy/misc/face.dat", LOMIRI + "Wine_by_Jakkub_Mede.jpg"]
# Textures and grey pictures come less often than the photos before them in the list.
PLAIN_FROM, PLAIN_WEIGHT = 11, 0.35


def floats(image):
    return np.asarray(image, np.float32) / 255


def image(array):
    return Image.fromarray((np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8))


def load(name, longest=1600):
    path = paths.DATA / name
    if path.suffix == ".dat":
        raw = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8)
        picture = Image.fromarray(raw.reshape(768, 1024, 3))
    else:
        picture = Image.open(path).convert("RGB")
    scale = min(1, longest / max(picture.size))
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS)


def emoji():
    """All the font's pictures with enough in them, 128 px, RGBA; drawn once."""
    cache = paths.DATA / "emoji.npy"
    if not cache.exists():
        font = ImageFont.truetype(str(paths.DATA / EMOJI_FONT), 109)
        kept = []
        for first, last in ((0x1F300, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF), (0x1FA70, 0x1FAFF)):
            for code in range(first, last + 1):
                canvas = Image.new("RGBA", (136, 128))
                ImageDraw.Draw(canvas).text((0, 0), chr(code), font=font, embedded_color=True)
                pixels = np.asarray(canvas)
                if (pixels[..., 3] > 128).mean() > 0.15 and len(np.unique(pixels[::4, ::4, :3])) > 11:
                    kept.append(np.asarray(canvas.crop((4, 0, 132, 128))))
        np.save(cache, np.stack(kept))
    return np.load(cache)


def gradient(rng, size):
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    along = (x * math.cos(angle) + y * math.sin(angle)) * rng.uniform(0.6, 1.6) + 0.5
    if rng.random() < 0.3:
        along = np.hypot(x - rng.uniform(-0.4, 0.4), y - rng.uniform(-0.4, 0.4)) * rng.uniform(0.8, 2)
    along = np.clip(along, 0, 1)[..., None]
    start, end = (np.array([rng.random() for _ in range(3)]) for _ in range(2))
    return image(start * (1 - along) + end * along)


def cloud(rng, size):
    """Coloured noise in octaves."""
    total = np.zeros((size, size, 3), np.float32)
    noise = np.random.default_rng(rng.getrandbits(32))
    weight, cells, fall = 1.0, rng.choice((2, 3, 4)), rng.uniform(0.35, 0.7)
    while cells <= size:
        octave = noise.random((cells, cells, 3), dtype=np.float32)
        if rng.random() < 0.5:
            octave = octave.mean(2, keepdims=True).repeat(3, 2)
        total += weight * floats(image(octave).resize((size, size), Image.BICUBIC))
        weight, cells = weight * fall, cells * 2
    total -= total.min()
    return image(total / max(total.max(), 1e-3))


class Pictures:
    """An endless supply of square pictures of one split."""

    def __init__(self, held_out, seed):
        self.rng = random.Random(seed)
        self.photos = [load(name) for name in (HELD_OUT if held_out else TRAINING)]
        self.weights = [min(photo.size) ** 0.5 * (1 if held_out or i < PLAIN_FROM else PLAIN_WEIGHT)
                        for i, photo in enumerate(self.photos)]
        drawn = emoji()
        every_tenth = np.arange(len(drawn)) % 10 == 0
        self.emoji = drawn[every_tenth == held_out]

    def photo(self, size):
        """A random square of a photo, from `size` pixels up to the whole, with its colours varied."""
        rng = self.rng
        photo = rng.choices(self.photos, self.weights)[0]
        shortest = min(photo.size)
        side = int(size * math.exp(rng.uniform(0, math.log(max(shortest / size, 1.01)))))
        side = min(max(side, size), shortest)
        x, y = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
        way = Image.BILINEAR if side < size * 1.2 else Image.BOX if side > 2.5 * size else Image.LANCZOS
        crop = photo.resize((size, size), way, box=(x, y, x + side, y + side))
        if rng.random() < 0.5:
            crop = crop.transpose(Image.FLIP_LEFT_RIGHT)
        return self.varied(crop) if rng.random() < 0.6 else crop

    def varied(self, picture):
        rng = self.rng
        pixels = floats(picture)
        grey = pixels.mean(2, keepdims=True)
        pixels = grey + (pixels - grey) * rng.uniform(0.6, 1.5)
        gains = np.array([rng.uniform(0.85, 1.15) for _ in range(3)], np.float32)
        pixels = pixels * gains * rng.uniform(0.8, 1.15) + rng.uniform(-0.06, 0.06)
        if rng.random() < 0.12:
            pixels = pixels[..., rng.sample(range(3), 3)]
        return image(pixels)

    def background(self, size):
        kind = self.rng.random()
        if kind < 0.35:
            return self.photo(size)
        if kind < 0.7:
            return gradient(self.rng, size)
        if kind < 0.85:
            return cloud(self.rng, size)
        return Image.new("RGB", (size, size), tuple(self.rng.randint(0, 255) for _ in range(3)))

    def emoji_scene(self, size):
        rng, canvas = self.rng, self.background(size)
        for _ in range(rng.choice((1, 1, 2, 3))):
            side = int(size * rng.uniform(0.3, 0.85))
            sticker = Image.fromarray(self.emoji[rng.randrange(len(self.emoji))]).resize((side, side), Image.LANCZOS)
            low, high = -side // 5, size - side + side // 5
            canvas.paste(sticker, (rng.randint(low, high), rng.randint(low, high)), sticker)
        return canvas

    def any(self, size):
        kind = self.rng.random()
        if kind < 0.7:
            return self.photo(size)
        if kind < 0.88:
            return self.emoji_scene(size)
        if kind < 0.94:
            return cloud(self.rng, size)
        return Scene(self.rng).draw(size)
