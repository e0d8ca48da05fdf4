"""From an instruction and its pictures to what the text encoder reads: tokens, positions, key weights.

Builds the tokenizer from the list of merges that the server embeds, and follows the server's templates.
"""

import math
import random
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import torch
import zstandard
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from . import edits, paths, phrases
from .scenes import COLOURS, SHAPES

MERGES = paths.MODELS.parent.parent / "src/model/text/qwen_vl/merges.txt.zst"
ROWS = 152064
VISION_START, VISION_END = 151652, 151653
PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
ADDED = ("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end",
         "quad_start", "quad_end", "vision_start", "vision_end")

TEXT_SYSTEM = ("<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
               "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n")
EDIT_SYSTEM = ("<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, "
               "objects, background), then explain how the user's text instruction should alter or modify the image. "
               "Generate a new image that meets the user's requirements while maintaining consistency with the "
               "original input where appropriate.<|im_end|>\n<|im_start|>user\n")
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
# So many tokens at the end are the same for every instruction; the encoder gathers its meaning there.
TAIL_LENGTH = 5


@lru_cache
def tokenizer():
    lines = zstandard.ZstdDecompressor().stream_reader(MERGES.open("rb")).read().decode().splitlines()
    merges = [tuple(line.split(" ")) for line in lines if " " in line]
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in ADDED])
    return made


@lru_cache(200_000)
def ids(text):
    return tuple(tokenizer().encode(text, add_special_tokens=False).ids)


def word_of(token):
    """Tokens that differ in capitals or a leading space alone share one row: what is learned of one holds for all."""
    text = tokenizer().decode([token], skip_special_tokens=False)
    return unicodedata.normalize("NFC", text).strip().lower() or text


WORDS = {"tint": lambda r: (r.choice(list(edits.TINTS)),), "background": lambda r: (r.choice(list(COLOURS)),),
         "recolour": lambda r: (r.choice(SHAPES), *r.sample(list(COLOURS), 2)),
         "scene": lambda r: (r.choice(SHAPES), *r.sample(list(COLOURS), 2))}


def random_words(family, rng):
    return WORDS[family](rng) if family in WORDS else ()


class Vocabulary:
    """The words of the phrases and templates; any other token is unknown, a row of zeros."""

    def __init__(self):
        rng = random.Random(9)
        seen = {VISION_START, VISION_END}
        for text in (TEXT_SYSTEM, EDIT_SYSTEM, TAIL, "Picture 1: Picture 2: Picture 3: "):
            seen |= set(ids(text))
        for family in phrases.PATTERNS:
            for _ in range(6000):
                text = phrases.say(rng, family, random_words(family, rng))
                seen |= {i for part in text.split(phrases.UNKNOWN) for i in ids(part)}
        # Sorted by name, so that the same words give the same numbers on every run.
        names = sorted({word_of(i) for i in seen})
        number = {name: i for i, name in enumerate(names)}
        self.unknown = len(names)
        self.of_token = {i: number[word_of(i)] for i in range(ROWS) if i < 151643 and word_of(i) in number}
        self.of_token |= {i: number[word_of(i)] for i in seen}

    def words(self, tokens):
        return [self.of_token.get(i, self.unknown) for i in tokens]


@dataclass
class Read:
    """One instruction as the encoder reads it, after the constant system text."""

    words: list
    vision: list
    positions: list   # time, row, column of each for the encoder
    index: list       # place in the full sequence, for the transformer
    weight: list      # logarithm of how many tokens this one stands for


def read(vocabulary, prompt, rng, pictures=((14, 14),), named=True, start=64, keep=4, noise=0.0):
    """`pictures` are grids of vision tokens, of which only `keep` are read, each for its share of the others."""
    out = Read([], [], [], [], [])
    place, position = 0, start

    def put(words):
        nonlocal place, position
        for word in words:
            append(word, False, (position,) * 3, place, 0.0)
            place, position = place + 1, position + 1

    def append(word, vision, where, at, weight):
        for values, value in zip((out.words, out.vision, out.positions, out.index, out.weight),
                                 (word, vision, where, at, weight)):
            values.append(value)

    for number, (rows, columns) in enumerate(pictures, 1):
        put(vocabulary.words((*(ids(f"Picture {number}: ") if named else ()), VISION_START)))
        count = rows * columns
        kept = range(count) if keep is None or keep >= count else sorted(rng.sample(range(count), keep))
        for cell in kept:
            where = (position, position + cell // columns, position + cell % columns)
            append(vocabulary.unknown, True, where, place + cell, math.log(count / len(kept)))
        place, position = place + count, position + max(rows, columns)
        put(vocabulary.words((VISION_END,)))
    put([*spoken(vocabulary, prompt, rng, noise), *vocabulary.words(ids(TAIL))])
    return out


def spoken(vocabulary, prompt, rng, noise):
    """The prompt's words; with chance `noise` strange words stand before, after or inside it."""
    words = []
    for i, part in enumerate(prompt.split(phrases.UNKNOWN)):
        if i:
            words += [vocabulary.unknown] * rng.choice((1, 1, 2, 3))
        words += vocabulary.words(ids(part))
    if rng.random() < noise:
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.choice((0, len(words), rng.randint(0, len(words))))
            words[at:at] = [vocabulary.unknown] * rng.choice((1, 1, 2, 3, 5))
    return words


@dataclass
class TextBatch:
    words: torch.Tensor
    vision: torch.Tensor
    positions: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor
    length: torch.Tensor


def collate(reads, unknown):
    count, longest = len(reads), max(len(r.words) for r in reads)
    batch = TextBatch(torch.full((count, longest), unknown), torch.zeros(count, longest, dtype=torch.bool),
                      torch.zeros(count, 3, longest), torch.zeros(count, longest),
                      torch.full((count, longest), float("-inf")), torch.tensor([len(r.words) for r in reads]))
    for row, r in enumerate(reads):
        n = len(r.words)
        batch.words[row, :n] = torch.tensor(r.words)
        batch.vision[row, :n] = torch.tensor(r.vision)
        batch.positions[row, :, :n] = torch.tensor(r.positions).T.float()
        batch.index[row, :n] = torch.tensor(r.index).float()
        batch.weight[row, :n] = torch.tensor(r.weight)
    return batch
