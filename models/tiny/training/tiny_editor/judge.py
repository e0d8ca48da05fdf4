"""Measurable rules for each family: did the picture become what was asked?"""

import colorsys

import numpy as np

from . import edits

# "Well above": the result must be so many decibels nearer to the true edit than to the untouched photo,
GAIN = 2.0
# and near enough to be taken for the edit at all.
ENOUGH = 17.0


def psnr(a, b):
    return float(10 * np.log10(1 / max(float(((a - b) ** 2).mean()), 1e-9)))


def saturation(pixels):
    most, least = pixels.max(2), pixels.min(2)
    return float(((most - least) / (most + 1e-6)).mean())


def hue_distance(pixels, colour):
    hue = lambda rgb: colorsys.rgb_to_hsv(*(float(c) for c in rgb))[0] * 360
    apart = abs(hue(pixels.mean((0, 1))) - hue(edits.TINTS[colour])) % 360
    return min(apart, 360 - apart)


def sharpness(pixels):
    grey = edits.luma(pixels)[..., 0]
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def judge(family, words, before, after):
    """Floats in 0..1 of one size -> (passed, the figures that decided)"""
    true = edits.apply(family, words, before)
    near, input_near = psnr(after, true), psnr(after, before)
    figures = {"psnr": near, "to input": input_near}
    if family == "unchanged":
        return near > 24, dict(psnr=near)
    if family == "grey":
        figures["saturation"] = saturation(after)
        return figures["saturation"] < 0.08 and near > 20, figures
    if family == "tint":
        figures["hue"] = hue_distance(after, *words)
        return figures["hue"] < 20 and near > ENOUGH, figures
    if family == "blur":
        figures["sharpness"] = sharpness(after) / (sharpness(before) + 1e-6)
        return figures["sharpness"] < 0.7 and near > 20, figures
    return near > max(input_near + GAIN, ENOUGH), figures


def judge_scene(family, words, scene, other, after, size):
    """The named thing has its new colour, and the rest is kept."""
    true, half = np.asarray(other.draw(size), np.float32) / 255, max(2, size // 24)
    if family == "background":
        spot = (slice(0, 2 * half), slice(0, 2 * half))
    else:
        kind, _, x, y, radius = next(item for item in other.items if item[0] == words[0])
        x, y, half = int(x * size), int(y * size), max(2, int(radius * size * 0.4))
        spot = (slice(y - half, y + half), slice(x - half, x + half))
    off = float(np.abs(after[spot].mean((0, 1)) - true[spot].mean((0, 1))).max())
    near = psnr(after, true)
    return off < 0.13 and near > 18, dict(psnr=near, off=off)
