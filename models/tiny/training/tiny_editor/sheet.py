"""The before and after pictures of docs/: a shipped photo through a shipped graph, as the README runs it."""

import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from . import paths

ROOT = paths.MODELS.parent.parent
INSTRUCTIONS = ("make it black and white", "turn this picture into a negative", "make it a sepia photo",
                "make it brighter", "make it darker", "warm up the colors", "give it a cold winter mood",
                "increase the contrast", "make it look faded", "more vivid colours please", "blur the photo",
                "pixelate it", "tint it red", "give the photo a green tint", "make everything blue",
                "keep the photo as it is")
WIDE = 240


def edited(binary, instruction):
    with tempfile.TemporaryDirectory() as output:
        words = [binary, "run", ROOT / "workflows/edit_photo_quick.json", "--output", output,
                 "--set", f"111.prompt={instruction}"]
        subprocess.run(words, check=True, capture_output=True)
        return Image.open(next(Path(output).glob("*.png"))).convert("RGB")


def small(picture):
    return picture.resize((WIDE, round(picture.height * WIDE / picture.width)), Image.LANCZOS)


def make(binary, target=ROOT / "docs/tiny-editor"):
    target.mkdir(parents=True, exist_ok=True)
    for instruction in INSTRUCTIONS:
        small(edited(binary, instruction)).save(target / f"{instruction.replace(' ', '-')}.jpg", quality=85)
    small(Image.open(ROOT / "workflows/input/coffee.jpg")).save(target / "before.jpg", quality=85)
