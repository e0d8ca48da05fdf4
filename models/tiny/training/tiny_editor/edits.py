"""What each instruction means, exactly: the edits that the model learns to imitate."""

import numpy as np
from PIL import ImageFilter

from .pictures import floats, image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
TINTS = {
    "red": (1.0, 0.3, 0.28), "green": (0.3, 1.0, 0.35), "blue": (0.3, 0.38, 1.0), "yellow": (1.0, 0.9, 0.3),
    "orange": (1.0, 0.62, 0.25), "purple": (0.68, 0.36, 1.0), "pink": (1.0, 0.5, 0.76), "cyan": (0.3, 0.93, 1.0),
}
# One patch of the transformer: blocks of this size look alike at every size of the picture.
BLOCK = 16
BLUR_RADIUS = 4


def luma(pixels):
    return (pixels @ LUMA)[..., None]


def gains(pixels, red, green, blue):
    return pixels * np.array([red, green, blue], np.float32)


def sepia(pixels):
    return gains(luma(pixels), 1.08, 0.86, 0.62) + np.array([0.06, 0.03, 0], np.float32)


def blur(pixels):
    return floats(image(pixels).filter(ImageFilter.GaussianBlur(BLUR_RADIUS)))


def pixelate(pixels):
    height, width = pixels.shape[:2]
    pad = ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0))
    padded = np.pad(pixels, pad, mode="edge")
    rows, columns = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    blocks = padded.reshape(rows, BLOCK, columns, BLOCK, 3).mean((1, 3))
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def tint(pixels, colour):
    return gains(0.15 * pixels + 0.85 * luma(pixels), *TINTS[colour]) * 1.08


GLOBAL = {
    "grey": lambda p: luma(p).repeat(3, 2),
    "invert": lambda p: 1 - p,
    "sepia": sepia,
    "brighter": lambda p: p * 1.3 + 0.1,
    "darker": lambda p: p * 0.5,
    "warmer": lambda p: gains(p, 1.18, 1.02, 0.7),
    "cooler": lambda p: gains(p, 0.72, 0.98, 1.2),
    "more contrast": lambda p: (p - 0.5) * 1.6 + 0.5,
    "less contrast": lambda p: (p - 0.5) * 0.5 + 0.5,
    "vivid": lambda p: luma(p) + (p - luma(p)) * 1.9,
    "blur": blur,
    "pixelate": pixelate,
    "unchanged": lambda p: p,
}


def apply(family, words, pixels):
    """The picture (floats in 0..1, height x width x 3) after the edit."""
    edited = tint(pixels, *words) if family == "tint" else GLOBAL[family](pixels)
    return np.clip(edited, 0, 1).astype(np.float32)


# The hardest to get right, or the most often asked for.
OFTEN = ("grey", "brighter", "more contrast", "vivid", "tint", "tint")


def random_edit(rng):
    """-> (family, words)"""
    family = rng.choice([*GLOBAL, "tint", *OFTEN])
    return family, ((rng.choice([*TINTS, "red", "green", "blue"]),) if family == "tint" else ())
