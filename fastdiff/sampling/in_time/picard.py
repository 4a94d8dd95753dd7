"""Picard iteration over a plan's rows in a sliding window (ParaDiGMS, Shih et al. 2023, arXiv 2305.16317).

A round evaluates the rows of the window at the states X_j that there are, all at once, and runs the rows in order on
those outputs: new states Y_j. Up to the first whose residual |Y_j - X_j| is above the tolerance they are done, and the
window begins there. The first of a window follows from what is done, so that each round ends a row at least, and after
as many rounds as there are rows the states are those of the run row after row. Residuals are held against the noise
level of their state; the paper's measure, the noise that an ancestral step would add, is 0 between stages of a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..registers import Registers
from .anderson import Anderson, Pair
from .evaluated import Evaluated
from .rows import Rows


class Picard:
    """The states of one run; each sample has a window of its own, so that no sample depends on its neighbours.

    x: the start [B, ...]. scales: [rows] what the root mean square of a residual is divided by, before it is held
    against the tolerance. mixing: how the next states are made of several rounds', None for those of the last.
    begin: [B] the first rows that are not done. residuals: of each round the largest that ended a sample's window.
    """

    def __init__(
        self,
        rows: Rows,
        evaluated: Evaluated,
        scales: Sequence[float],
        x: Tensor,
        window: int,
        tolerance: float,
        mixing: Anderson | None,
    ) -> None:
        self._rows, self._evaluated, self._scales = rows, evaluated, scales
        self._window, self._tolerance, self._mixing = window, tolerance, mixing
        self.n, self.begin = len(scales), np.zeros(len(x), dtype=int)
        self._states = {0: Registers(x, x)}  # before each row
        self._points = {0: x}  # where each row is evaluated next
        self.residuals: list[float] = []

    @property
    def done(self) -> bool:
        """Whether all rows of all samples are."""
        return bool((self.begin == self.n).all())

    def result(self) -> Tensor:
        """[B, ...] the end of the run, by what there is."""
        self._run_rows(self.n)
        return self._states[self.n].x

    def round(self) -> None:
        """Evaluate the window, run its rows and move it on. The first round is only the first row: all else follows."""
        ends = self._ends(self._window if self.residuals else 1)
        self._evaluated.evaluate(self._points, self.begin, ends)
        low, high = int(self.begin.min()), int(ends.max())
        self._states = {low: self._states[low]}
        self._run_rows(high)
        pairs = {
            j: Pair(self._states[j].x, self._states[j].x - self._points[j], (self.begin < j) & (j < ends))
            for j in range(low + 1, high)
        }
        self._advance(pairs, ends)
        self._run_rows(int(self._ends(self._window).max()))
        mixed = {} if self._mixing is None else self._mixing.mixed(pairs, self.begin)
        self._points = {j: mixed.get(j, state.x) for j, state in self._states.items()}
        self._evaluated.forget(int(self.begin.min()))

    def _ends(self, width: int) -> np.ndarray:
        return np.minimum(self.begin + width, self.n)

    def _run_rows(self, end: int) -> None:
        """Run rows in order, from the last state that there is to the one before row `end`."""
        for j in range(max(self._states), end):
            state = self._states[j]
            self._states[j + 1] = self._rows.run(j, state, self._evaluated.at(j, state.x))

    def _advance(self, pairs: dict[int, Pair], ends: np.ndarray) -> None:
        """Move the beginnings to the first rows whose residuals are too large."""
        low = int(self.begin.min())
        sizes = [pairs[j].residual.flatten(1).square().mean(1).sqrt() / self._scales[j] for j in pairs]
        residuals = torch.stack(sizes).double().cpu().numpy() if sizes else np.zeros((0, len(ends)))
        stopped = [0.0]
        for b, (begin, end) in enumerate(zip(self.begin, ends, strict=True)):
            j = min(begin + 1, end)
            while j < end and residuals[j - low - 1, b] <= self._tolerance:
                j += 1
            if j < end:
                stopped.append(float(residuals[j - low - 1, b]))
            self.begin[b] = j
        self.residuals.append(max(stopped))
