"""The seeds of a job, which may be a billion: runs of neighbours, cut into shards by their numbers."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import pairwise
from numbers import Integral


class Seeds:
    """Seeds in rising order. runs: ranges that are disjoint, rise and do not touch.

    Shard k of a size has those from k size to (k + 1) size - 1. So what is in a shard depends on the shard's number and
    not on the seeds before it.
    Raises TypeError or ValueError naming `seeds`.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.runs = [seeds] if isinstance(seeds, range) and seeds.step == 1 and seeds else _runs(seeds)
        if self.runs[0].start < 0 or self.runs[-1].stop > 2**63:
            raise ValueError(f"seeds: expected numbers from 0 to 2^63 - 1, got {self}")

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def __iter__(self) -> Iterator[int]:
        return (seed for run in self.runs for seed in run)

    def __str__(self) -> str:
        """ "0-3,7"."""
        return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in self.runs)

    def shards(self, size: int) -> list[int]:
        """The numbers of the shards that have any."""
        found: list[int] = []
        for run in self.runs:
            first = max(run.start // size, found[-1] + 1 if found else 0)
            found.extend(range(first, run[-1] // size + 1))
        return found

    def before(self, first: int) -> int:
        """How many are smaller."""
        return sum(len(run) if run.stop <= first else max(0, first - run.start) for run in self.runs)

    def within(self, first: int, last: int) -> list[int]:
        """Those from first to last - 1."""
        found: list[int] = []
        start = bisect.bisect_right(self.runs, first, key=lambda run: run[-1] + 1)
        for run in self.runs[start:]:
            if run.start >= last:
                break
            found.extend(range(max(run.start, first), min(run.stop, last)))
        return found


def _runs(seeds: Sequence[int]) -> list[range]:
    every = seeds.tolist() if hasattr(seeds, "tolist") else list(seeds)  # of tensors and arrays
    if not every:
        raise ValueError("seeds: expected at least one")
    if not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in every):
        raise TypeError("seeds: expected whole numbers")
    every = sorted(map(int, every))
    twice = next((a for a, b in pairwise(every) if a == b), None)
    if twice is not None:
        raise ValueError(f"seeds: expected each once, got {twice} again")
    ends = [0, *(i for i in range(1, len(every)) if every[i] != every[i - 1] + 1), len(every)]
    return [range(every[a], every[b - 1] + 1) for a, b in pairwise(ends)]
