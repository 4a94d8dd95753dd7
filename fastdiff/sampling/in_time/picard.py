"""Picard iteration over a plan's rows in a sliding window (ParaDiGMS, Shih et al. 2023, arXiv 2305.16317).

A round evaluates the rows of the window at the states X_j that there are, all at once, and runs the rows in order on
those outputs: new states Y_j. Up to the first whose residual |Y_j - X_j| is above the tolerance they are done, and the
window begins there. The first of a window follows from what is done, so that each round ends a row at least, and after as
many rounds as there are rows the states are those of the run row after row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..registers import Registers
from .anderson import Anderson, Pair
from .calls import Asked, TimeCalls
from .held import Held
from .rows import Outputs, Rows


class Picard:
    """The states of one run; each sample has a window of its own, so that no sample depends on its neighbours.

    x: the start [B, ...]. tolerance: of the root mean square of a residual over its row's `scales`. mixing: how the next
    states are made of several rounds', None for those of the last. begin: [B] the first rows that are not done.
    """

    def __init__(
        self,
        rows: Rows,
        calls: TimeCalls,
        held: Sequence[Held],
        scales: Sequence[float],
        x: Tensor,
        window: int,
        tolerance: float,
        mixing: Anderson | None,
    ) -> None:
        self._rows, self._calls, self._held, self._scales = rows, calls, held, scales
        self._window, self._tolerance, self._mixing = window, tolerance, mixing
        self.n, self.begin = len(held), np.zeros(len(x), dtype=int)
        self._states = {0: Registers(x, x)}
        self._points = {0: x}
        self._outputs: dict[int, Outputs] = {}
        self._known: dict[int, np.ndarray] = {}  # [B] bool, whose outputs there are
        self._x0 = torch.zeros_like(x)
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
        """Evaluate the window, run its rows and move it on. The first one is only the first row: all else follows."""
        width = self._window if self.residuals else 1
        ends = np.minimum(self.begin + width, self.n)
        self._evaluate(ends)
        low, high = int(self.begin.min()), int(ends.max())
        self._states = {low: self._states[low]}
        self._run_rows(high)
        made = {j: (self.begin < j) & (j < ends) for j in range(low + 1, high)}
        pairs = {j: Pair(self._states[j].x, self._states[j].x - self._points[j], made[j]) for j in made}
        self._advance(pairs, ends)
        self._run_rows(int(np.minimum(self.begin + self._window, self.n).max()))
        self._move(pairs, low)

    def _evaluate(self, ends: np.ndarray) -> None:
        asked, device = [], self._x0.device
        for j in range(int(self.begin.min()), int(ends.max())):
            here = (self.begin <= j) & (j < ends)
            if here.any():
                samples, x = torch.from_numpy(np.flatnonzero(here)).to(device), self._points[j]
                asked.append(Asked(j, samples, x if here.all() else x[samples]))
        found = self._calls.outputs(asked)
        finite = torch.cat([outputs.m.flatten(1).isfinite().all(1) for outputs in found]).cpu().numpy()
        for each, outputs in zip(asked, found, strict=True):
            here, finite = finite[: len(each.x)], finite[len(each.x) :]
            self._store(each, outputs, here)
            self._predict(each, outputs, here, ends)

    def _store(self, asked: Asked, outputs: Outputs, finite: np.ndarray) -> None:
        """Keep the outputs of a row. What is not finite counts as unknown, but where the run itself is at that row."""
        i, places = asked.i, asked.samples.cpu().numpy()
        known = self._known.setdefault(i, np.zeros(len(self.begin), dtype=bool))
        known[places] = finite | (self.begin[places] == i)
        if len(places) == len(known):
            self._outputs[i] = outputs
            return
        kept = self._outputs.get(i)
        if kept is None:
            kept = Outputs(*(None if m is None else m.new_zeros(self._x0.shape) for m in outputs))
        self._outputs[i] = Outputs(
            *(m if m is None else old.index_copy(0, asked.samples, m) for old, m in zip(kept, outputs, strict=True))
        )

    def _predict(self, asked: Asked, outputs: Outputs, finite: np.ndarray, ends: np.ndarray) -> None:
        """Take over x0 from the samples' last evaluations in the window."""
        last = finite & (ends[asked.samples.cpu().numpy()] == asked.i + 1)
        if last.any():
            x0 = self._held[asked.i].data(asked.x, self._calls.combined(outputs, asked.samples))
            chosen = torch.from_numpy(np.flatnonzero(last)).to(x0.device)
            self._x0 = self._x0.index_copy(0, asked.samples[chosen], x0[chosen])

    def _run_rows(self, end: int) -> None:
        """Run rows in order, from the last state that there is to the one before row `end`."""
        for j in range(max(self._states), end):
            self._states[j + 1] = self._rows.run(j, self._states[j], self._at(j, self._states[j].x))

    def _at(self, j: int, x: Tensor) -> Outputs:
        """What row j reads at x: its outputs moved there, and where there are none those of the last x0."""
        held, known = self._held[j], self._known.get(j)
        guess = None if known is not None and known.all() else held.guessed(x, self._x0)
        if known is None:
            assert guess is not None
            return Outputs(guess, guess if self._calls.guided else None)
        moved = [None if m is None else held.moved(m, x, self._points[j]) for m in self._outputs[j]]
        if guess is not None:
            here = torch.from_numpy(known).to(x.device).view(-1, *[1] * (x.ndim - 1))
            moved = [None if m is None else torch.where(here, m.to(x.dtype), guess) for m in moved]
        m, m_uncond = moved
        assert m is not None
        return Outputs(m, m_uncond)

    def _advance(self, pairs: dict[int, Pair], ends: np.ndarray) -> None:
        """Move the beginnings to the first rows whose residuals are too large."""
        low = int(self.begin.min())
        sizes = [pairs[j].residual.flatten(1).square().mean(1).sqrt() / self._scales[j] for j in pairs]
        residuals = torch.stack(sizes).cpu().double().numpy() if sizes else np.zeros((0, len(self.begin)))
        stopped = [0.0]
        for b, (begin, end) in enumerate(zip(self.begin, ends, strict=True)):
            j = min(begin + 1, end)
            while j < end and residuals[j - low - 1, b] <= self._tolerance:
                j += 1
            if j < end:
                stopped.append(float(residuals[j - low - 1, b]))
            self.begin[b] = j
        self.residuals.append(max(stopped))

    def _move(self, pairs: dict[int, Pair], low: int) -> None:
        """The points that the next round evaluates. Those of rows that are done stay where their outputs are from."""
        mixed = {} if self._mixing is None else self._mixing.mixed(pairs, self.begin)
        points = {}
        for j in range(int(self.begin.min()), max(self._states) + 1):
            new, old = mixed.get(j, self._states[j].x), self._points.get(j)
            ahead = j >= self.begin
            if old is None or ahead.all():
                points[j] = new
            else:
                where = torch.from_numpy(ahead).to(new.device).view(-1, *[1] * (new.ndim - 1))
                points[j] = torch.where(where, new, old)
        self._points = points
        for kept in (self._outputs, self._known):
            for j in [j for j in kept if j < int(self.begin.min())]:
                del kept[j]
