"""Where tokens are to be made: the blocks of a sequence, each with the window of its open positions."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """A block, and its part from the first position that is open in any sample to the last.

    counts: the different numbers of open positions that samples have in it.
    """

    block: tuple[int, int]
    start: int
    stop: int
    counts: frozenset[int]


def windows_of(open: Tensor, block: int | None, start: int) -> list[Window]:
    """The windows of the blocks that have anything open, in their order. open: [B, N]; read here, once a run.

    The first block ends `block` after `start`: what lies before `start`, such as a prompt, is part of it.
    """
    length = open.shape[1]
    if not open.numel():
        return []
    edges = [0, *range(start + block, length, block), length] if block else [0, length]
    reached = open.cumsum(1)[:, [edge - 1 for edge in edges[1:]]]
    counts = reached.diff(dim=1, prepend=reached.new_zeros(len(open), 1)).T.tolist()
    columns = open.any(0).tolist()
    found = []
    for (first, last), each in zip(itertools.pairwise(edges), counts, strict=True):
        places = [i for i in range(first, last) if columns[i]]
        if places:
            found.append(Window((first, last), places[0], places[-1] + 1, frozenset(each)))
    return found
