"""Where tokens are to be made: the blocks of a sequence, each with the window of its open positions."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """A block, and its part from the first position that is open in any sample to the last. masks: the most of one."""

    block: tuple[int, int]
    start: int
    stop: int
    masks: int


def windows_of(open: Tensor, block: int | None, start: int) -> list[Window]:
    """The windows of the blocks that have anything open, in their order. open: [B, N]; read here, once a run.

    The first block begins at `start`; what lies before it is part of it.
    """
    length = open.shape[1]
    edges = [0, *range(start + block, length, block), length] if block else [0, length]
    columns = open.any(0).tolist() if open.numel() else []
    found = []
    for first, last in itertools.pairwise(edges):
        places = [i for i in range(first, last) if columns and columns[i]]
        if places:
            masks = int(open[:, first:last].sum(-1).amax())
            found.append(Window((first, last), places[0], places[-1] + 1, masks))
    return found
