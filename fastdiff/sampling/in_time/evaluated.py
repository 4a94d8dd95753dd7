"""What the model has said so far, row by row, and what a row reads of it while its state moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .calls import Asked, TimeCalls, on
from .held import Held
from .rows import Outputs


class Evaluation(NamedTuple):
    """Of a row: its outputs, and the states x [B, ...] that they were made at. known: [B] bool, whose there are."""

    outputs: Outputs
    x: Tensor
    known: np.ndarray


class Evaluated:
    """The latest evaluations of each row; for those that are not there yet stands the last x0. x: a state [B, ...]."""

    def __init__(self, calls: TimeCalls, held: Sequence[Held], x: Tensor) -> None:
        self._calls, self._held = calls, held
        self._x0 = torch.zeros_like(x)
        self._rows: dict[int, Evaluation] = {}

    def evaluate(self, points: Mapping[int, Tensor], begin: np.ndarray, end: np.ndarray) -> None:
        """Evaluate, for each sample, the rows from `begin` to the one before `end` [B], at the points [B, ...]."""
        asked = []
        for j in range(int(begin.min()), int(end.max())):
            here = (begin <= j) & (j < end)
            if here.any():
                places, x = np.flatnonzero(here), points[j]
                asked.append(Asked(j, places, x if here.all() else x[on(places, x)]))
        found = self._calls.outputs(asked)
        finite = torch.cat([outputs.m.flatten(1).isfinite().all(1) for outputs in found]).cpu().numpy()
        parts = np.split(finite, np.cumsum([len(each.places) for each in asked])[:-1])
        for each, outputs, known in zip(asked, found, parts, strict=True):
            # The run itself stands at its first row that is not done: there it reads whatever the model says.
            self._keep(each, outputs, known | (begin[each.places] == each.i))
            self._predict(each, outputs, known & (end[each.places] == each.i + 1))

    def forget(self, end: int) -> None:
        """Drop the rows before `end`."""
        self._rows = {j: row for j, row in self._rows.items() if j >= end}

    def at(self, j: int, x: Tensor) -> Outputs:
        """What row j reads at x: its outputs moved there, and where there are none those that the last x0 would be."""
        held, row = self._held[j], self._rows.get(j)
        if row is None:
            guess = held.guessed(x, self._x0)
            return Outputs(guess, guess if self._calls.guided else None)
        moved = row.outputs.each(lambda m: held.moved(m, x, row.x))
        if row.known.all():
            return moved
        known, guess = on(row.known, x).view(-1, *[1] * (x.ndim - 1)), held.guessed(x, self._x0)
        return moved.each(lambda m: torch.where(known, m.to(x.dtype), guess))

    def _keep(self, asked: Asked, outputs: Outputs, known: np.ndarray) -> None:
        old = self._rows.get(asked.i)
        if len(known) == len(self._x0):
            self._rows[asked.i] = Evaluation(outputs, asked.x, known)
            return
        if old is None:
            empty = outputs.each(lambda m: m.new_zeros(self._x0.shape))
            old = Evaluation(empty, torch.zeros_like(self._x0), np.zeros(len(self._x0), dtype=bool))
        places, all_known = on(asked.places, asked.x), old.known.copy()
        all_known[asked.places] = known
        kept = old.outputs.with_some(places, outputs)
        self._rows[asked.i] = Evaluation(kept, old.x.index_copy(0, places, asked.x), all_known)

    def _predict(self, asked: Asked, outputs: Outputs, last: np.ndarray) -> None:
        """Take over the x0 of those of the samples asked whose last evaluation this is."""
        if last.any():
            x0 = self._held[asked.i].data(asked.x, self._calls.combined(outputs, asked.places))
            chosen = np.flatnonzero(last)
            self._x0 = self._x0.index_copy(0, on(asked.places[chosen], x0), x0[on(chosen, x0)])
