"""The regressions of one forward fit: which settings are tried, which are best, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise, zip_longest
from typing import TypeVar

import numpy as np
import torch

from .forward import Fitted, Forward, Setting
from .found import Fit, Found
from .gauss_newton import noise_floor
from .grid_moves import Moving, moved, setting_of
from .sources import LinearSource, ModelSource

FOLDS = 4
TRIED = 24  # settings that the model is asked about
FIRST_TRIED = (2, 6)  # of those, so that a small budget has a plan soon
Kind = TypeVar("Kind", bound=Hashable)


def folds_of(count: int) -> np.ndarray:
    """[count] the fold of each sample."""
    return np.arange(count) % min(FOLDS, count)


class Search:
    """The regressions of one fit.

    Distances are those of samples that the rows were fitted without; the plans are then fitted to all samples.
    stage: what it is called in reports.
    """

    model: Forward

    def __init__(self, fit: Fit, stage: str = "forward") -> None:
        self.fit, self.stage = fit, stage
        count = len(fit.trajectory)
        folds = folds_of(count)
        self.model = Forward(ModelSource(fit.target, torch.arange(count)), fit.trajectory, fit.starts, folds)
        self.linear = Forward(LinearSource(fit.trajectory), fit.trajectory, fit.starts, folds)

    @cached_property
    def noise(self) -> float:
        """By how much rounding in the model moves a sample."""
        return noise_floor(self.fit, len(self.fit.trajectory))

    def ranked(self, starts: Sequence[Found]) -> list[Found]:
        """The settings that are best after their regression, of each grid the best one before a second one.

        A linear model tells the solvers on a grid from one another, but is a poor judge of grids where the model is
        rough in t. So the model is asked about the best guess on each grid, then about another one on the better half
        of the grids, on the better half of those, and so on.
        """
        left = _apart(self.by_guess(starts), _grid_of)
        few: list[Found] = []
        fitted: list[Fitted] = []
        grids = list(left)
        while grids and len(few) < TRIED:
            turn = [left[grid].pop(0) for grid in grids[: TRIED - len(few)]]
            for first, last in pairwise((0, *(FIRST_TRIED if not few else ()), TRIED)):
                if part := turn[first:last]:
                    few += part
                    fitted += self.model.run([setting_of(f) for f in part])
                    self._keep(few, fitted)
            order = sorted(range(len(few)), key=lambda i: fitted[i].mean)
            best = [grid for grid in dict.fromkeys(_grid_of(few[i]) for i in order) if left[grid]]
            grids = best[: max(1, len(grids) // 2)]
        return _in_turn(self._sorted(few, fitted), _grid_of)

    def guessed(self, starts: Sequence[Found]) -> list[Found]:
        """The settings in order of what the linear model says of them, each level in turn where they begin."""
        return _in_turn(self.by_guess(starts), _level_of)

    def by_guess(self, starts: Sequence[Found]) -> list[Found]:
        """The settings in order of what the linear model says of them."""
        guesses = self.linear.run([setting_of(f) for f in starts])
        return [starts[i] for i in sorted(range(len(starts)), key=lambda i: guesses[i].mean)]

    def judged(self, found: Sequence[Found]) -> list[Found]:
        """The settings in order of their distances after their regression, no two of one grid and shape."""
        fitted = self.model.run([setting_of(f) for f in found])
        self._keep(found, fitted)
        return self._sorted(found, fitted)

    def moved(self, found: Sequence[Found]) -> Found:
        """The best after steps of their grids and times, of which the better half makes another each time."""
        return moved([Moving(self.model, f, self.noise, self.offer) for f in found])

    def keep_linear(self, starts: Sequence[Found]) -> None:
        """Where the budget ended before anything was judged: the plan that the trajectories alone suggest."""
        if self.fit.journal.best is not None:
            return
        guesses = self.linear.run([setting_of(f) for f in starts])
        best = min(range(len(guesses)), key=lambda i: guesses[i].mean)
        plan = starts[best].space.plan_of(self.linear.run([Setting(starts[best].space, starts[best].p)], False)[0].p)
        self.fit.journal.keep(
            self.fit.trial("forward", f"guessed {starts[best].candidate.name}", guesses[best].each), plan
        )

    def _keep(self, found: Sequence[Found], fitted: Sequence[Fitted]) -> None:
        best = min(range(len(found)), key=lambda i: fitted[i].mean)
        self.offer(found[best], fitted[best])

    def offer(self, found: Found, fitted: Fitted) -> None:
        """Keep the setting's plan where it is the best so far; its weights are fitted to all samples on their way."""
        journal = self.fit.journal
        trial = self.fit.trial(self.stage, found.name, fitted.each)
        if journal.best is None or trial.mean < journal.best[0].mean:
            journal.keep(trial, replace(found, p=fitted.p, uncond=fitted.uncond).plan)
            journal.show(trial)

    def complete(self, found: Found) -> Found:
        """With its weights, fitted to all samples."""
        (fitted,) = self.model.run([setting_of(found)], crossed=False)
        return replace(found, p=fitted.p, uncond=fitted.uncond)

    def _sorted(self, found: Sequence[Found], fitted: Sequence[Fitted]) -> list[Found]:
        best: dict[tuple[str, str], Found] = {}
        for f, result in sorted(zip(found, fitted, strict=True), key=lambda pair: pair[1].mean):
            alike = f"{result.mean:.3g}", f.candidate.grid
            best.setdefault(alike, replace(f, each=result.each))
        return list(best.values())


def _level_of(found: Found) -> float:
    """Where a plan begins: its first sigma."""
    return found.space.plan.start[1]


def _grid_of(found: Found) -> tuple[str, float]:
    """The name of its grid and where that begins."""
    return found.candidate.grid, _level_of(found)


def _apart(found: Sequence[Found], kind: Callable[[Found], Kind]) -> dict[Kind, list[Found]]:
    """Those of each kind, in the order of the first ones."""
    kinds: dict[Kind, list[Found]] = {}
    for f in found:
        kinds.setdefault(kind(f), []).append(f)
    return kinds


def _in_turn(found: Sequence[Found], kind: Callable[[Found], Kind]) -> list[Found]:
    """The same in turns: the first of each kind, then the second of each. One kind is left as it is."""
    return [f for turn in zip_longest(*_apart(found, kind).values()) for f in turn if f is not None]
