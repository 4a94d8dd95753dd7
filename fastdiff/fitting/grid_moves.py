"""Grids and times of settings moved by Gauss-Newton steps; the weights of rows follow from them by regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from .forward import Fitted, Forward, Setting
from .found import Found
from .gauss_newton import RIDGES, GaussNewton, Outcome

MOVED = 3  # of the settings that the model is asked about; each time the better half goes on
MAX_ITERATIONS = 12
LEAST_GAIN = 0.01  # of the mean distance in an iteration, below which the grid stays
KINDS = ("grid", "time")


def most_moves(settings: int, numbers: int) -> int:
    """Runs that `moved` makes at most. numbers: of each setting, that are moved."""
    iterations = settings + (MAX_ITERATIONS - 1) * max(1, settings // 2)
    return settings + iterations * (numbers + len(RIDGES))  # differences, then candidates


def setting_of(found: Found, p: np.ndarray | None = None) -> Setting:
    """Where a place is fitted. p: other numbers."""
    return Setting(found.space, found.p if p is None else p, found.calls)


class Moving:
    """A setting whose grid and times are moved.

    noise: by how much rounding in the model moves a sample. offer: what is told of each better setting.
    """

    def __init__(self, model: Forward, found: Found, noise: float, offer: Callable[[Found, Fitted], None]) -> None:
        self.found, self.offer, space = found, offer, found.space
        free = np.flatnonzero(np.isin(space.kinds, KINDS))
        goal = model.trajectory.end
        self.newton = GaussNewton(_Fits(model, found), goal, free, space.widths, noise, space.reaches)
        (self.here,) = self.newton.problem.run([found.p])

    def gained(self) -> bool:
        """Take one step, if it leads on; whether it was worth another one."""
        p, there = self.newton.advance(self.found.p, self.here)
        gain = 1 - self.newton.mean(there) / self.newton.mean(self.here)
        if gain > 0:
            self.here, self.found = there, replace(self.found, p=p, each=there.each)
            self.offer(self.found, there.source)
        return gain >= LEAST_GAIN


def moved(every: Sequence[Moving]) -> Found:
    """The best after steps of them all, of which the better half makes another each time."""
    running = list(every)
    for _ in range(MAX_ITERATIONS):
        running = sorted((m for m in running if m.gained()), key=lambda m: m.found.mean)
        running = running[: max(1, len(running) // 2)]
    return min((m.found for m in every), key=lambda f: f.mean)


class _Fits:
    """The samples of a plan space whose weights follow from the other numbers."""

    def __init__(self, model: Forward, found: Found) -> None:
        self.model, self.found = model, found

    def run(self, numbers: Sequence[np.ndarray]) -> list[Outcome]:
        runs = self.model.run([setting_of(self.found, p) for p in numbers])
        return [Outcome(r.x, r.each, r) for r in runs]

    def near(self, numbers: Sequence[np.ndarray], here: Outcome) -> list[Tensor]:
        runs = self.model.run([setting_of(self.found, p) for p in numbers], choices=here.source.choices)
        return [r.x for r in runs]
