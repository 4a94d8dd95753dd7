"""Gauss-Newton steps on numbers of a plan, with slopes by finite differences: forward calls alone.

One run for each number makes the whole Jacobian of the samples, which serves all samples at once. The linear least
squares that follow are the robust ones of `regression`; several ridges, from almost none to strong, make as many
candidates, and the run itself says which is best (Levenberg 1944, Marquardt 1963).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .found import Fit
from .references import distances
from .regression import Moments, solve
from .search import first_plan

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


Run = Callable[[Sequence[np.ndarray]], list[tuple[Tensor, np.ndarray]]]  # numbers -> samples [S, ...], distances [S]


class GaussNewton:
    """Minimises the mean distance over numbers p.

    run: the samples and their distances for several p. goal: [S, ...]. free: which numbers move. widths: their scales.
    fold: [S] bool, the samples that steps are computed from. noise: the root mean square by which rounding in the model
    moves a sample: differences are large enough that it does not matter, and no larger. reaches: whether p is a plan.
    """

    def __init__(
        self, run: Run, goal: Tensor, free: np.ndarray, widths: np.ndarray, fitted: np.ndarray, noise: float,
        reaches: Callable[[np.ndarray], bool],
    ) -> None:
        self.run, self.goal, self.free, self.widths, self.fitted = run, goal, free, widths, fitted
        self.noise, self.reaches = noise, reaches
        self._steps = self._sizes(np.full(len(free), TYPICAL_SLOPE))

    def advance(self, p: np.ndarray, x: Tensor) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """(p, samples, distances) of the best of the candidates from p, whose samples are x; p need not be among them."""
        slopes = []
        for k, step in zip(self.free, self._steps, strict=True):
            moved = p.copy()
            moved[k] += step * self.widths[k]
            slopes.append(moved if self.reaches(moved) else p)
        moved = [(there - x) / step for (there, _), step in zip(self.run(slopes), self._steps, strict=True)]
        self._steps = self._sizes(np.array([float(slope.double().square().mean().sqrt()) for slope in moved]))
        moments = Moments.of(moved, self.goal.double() - x)
        steps = solve(moments, RIDGES, self.fitted[None])[:, 0]
        candidates = []
        for step in steps:
            move = np.zeros_like(p)
            move[self.free] = np.clip(step, -MAX_MOVE, MAX_MOVE) * self.widths[self.free]
            # Shorter and shorter it ends at p itself, which was reached before.
            while not self.reaches(p + move):
                move /= 2
            candidates.append(p + move)
        runs = self.run(candidates)
        best = min(range(len(runs)), key=lambda i: float(runs[i][1][self.fitted].mean()))
        return candidates[best], *runs[best]

    def _sizes(self, slopes: np.ndarray) -> np.ndarray:
        """Where the error of curvature and that of rounding are alike (Nocedal & Wright 2006, section 8.1)."""
        sizes = 2 * np.sqrt(self.noise / np.maximum(slopes, 1e-30))
        return np.clip(sizes, LEAST_STEP, MOST_STEP)
