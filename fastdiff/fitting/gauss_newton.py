"""Gauss-Newton steps on numbers of a plan, with slopes by finite differences: forward calls alone.

One run for each number makes the whole Jacobian of the samples, which serves all samples at once. The linear least
squares that follow are the robust ones of `regression`; several ridges, from almost none to strong, make as many
candidates, and the run itself says which is best (Levenberg 1944, Marquardt 1963).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .found import Fit
from .regression import Moments, solve
from .search import first_plan
from .trajectory import distances

RIDGES = np.array([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
MAX_MOVE = 1.0  # of a number in one step, in units of its width
STEP, LEAST_STEP, MOST_STEP = 0.02, 0.005, 0.3  # of the differences, in units of the widths
NOISE_SAMPLES = 4  # on which rounding is measured
TYPICAL_SLOPE = 0.1  # of a sample's elements by a number in units of its width


def noise_floor(fit: Fit, count: int) -> float:
    """By how much rounding in the model moves its samples: root mean square, from noises one rounding apart."""
    places = torch.arange(min(count, NOISE_SAMPLES))
    target = fit.target
    plan = first_plan(fit.schedule, fit.prediction, 2)
    tiny = torch.finfo(target.model_dtype).eps * target.noise.abs().max()
    first = target.draw(plan, places)
    second = target.draw(plan, places, lambda noise, plan: noise + tiny * noise.sign())
    return float(distances(first, second).median())


class Outcome(NamedTuple):
    """x: [S, ...] the samples by some numbers. each: [S] their distances. source: what the problem needs for `near`."""

    x: Tensor
    each: np.ndarray
    source: Any = None


class Problem(Protocol):
    """Samples as a function of numbers."""

    def run(self, numbers: Sequence[np.ndarray]) -> list[Outcome]:
        """Of several numbers."""

    def near(self, numbers: Sequence[np.ndarray], here: Outcome) -> list[Tensor]:
        """The samples that steps are computed from, smooth in numbers near those of an outcome."""


class GaussNewton:
    """Minimises the mean distance of the first samples, those that steps are computed from, over numbers p.

    goal: [n, ...] what those should be. free: which numbers move. widths: their scales. noise: the root mean square by
    which rounding in the model moves a sample: differences are large enough that it does not matter, and no larger.
    reaches: whether p is a plan.
    """

    def __init__(
        self,
        problem: Problem,
        goal: Tensor,
        free: np.ndarray,
        widths: np.ndarray,
        noise: float,
        reaches: Callable[[np.ndarray], bool],
    ) -> None:
        self.problem, self.goal, self.free, self.widths = problem, goal.double(), free, widths
        self.noise, self.reaches = noise, reaches
        self._steps = self._sizes(np.full(len(free), TYPICAL_SLOPE))

    def advance(self, p: np.ndarray, here: Outcome) -> tuple[np.ndarray, Outcome]:
        """The best of the candidates from p, whose outcome is given."""
        x = here.x[: len(self.goal)]
        there = self.problem.near(
            [p + self._move(k, step) for k, step in zip(self.free, self._steps, strict=True)], here
        )
        slopes = [(moved - x) / step for moved, step in zip(there, self._steps, strict=True)]
        self._steps = self._sizes(np.array([float(slope.square().mean().sqrt()) for slope in slopes]))
        moments = Moments.of(slopes, self.goal - x)
        steps = solve(moments, RIDGES, np.ones((1, len(x)), dtype=bool))[0, :, 0]
        candidates = [p + self._shortened(p, step) for step in steps]
        outcomes = self.problem.run(candidates)
        best = min(range(len(outcomes)), key=lambda i: self.mean(outcomes[i]))
        return candidates[best], outcomes[best]

    def mean(self, outcome: Outcome) -> float:
        """What is minimised."""
        return float(outcome.each[: len(self.goal)].mean())

    def _move(self, k: int, step: float) -> np.ndarray:
        move = np.zeros(len(self.widths))
        move[k] = step * self.widths[k]
        return move

    def _shortened(self, p: np.ndarray, step: np.ndarray) -> np.ndarray:
        move = np.zeros(len(self.widths))
        move[self.free] = np.clip(step, -MAX_MOVE, MAX_MOVE) * self.widths[self.free]
        # Shorter and shorter it ends at p itself, which was reached before.
        while not self.reaches(p + move):
            move /= 2
        return move

    def _sizes(self, slopes: np.ndarray) -> np.ndarray:
        """Where the error of curvature and that of rounding are alike (Nocedal & Wright 2006, section 8.1)."""
        sizes = 2 * np.sqrt(self.noise / np.maximum(slopes, 1e-30))
        return np.clip(sizes, LEAST_STEP, MOST_STEP)
