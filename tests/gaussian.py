"""Problems with known solutions, and an interpreter of plans that shares nothing with the package's loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import linregress

import fastdiff as fd
from fastdiff.plans.plan import Plan
from fastdiff.plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate

State = Callable[[float, float], np.ndarray]  # (alpha, sigma) -> x there


class Gaussian(NamedTuple):
    """Independent data x0 ~ N(mean, variance), one component an entry."""

    mean: np.ndarray
    variance: np.ndarray

    def spread(self, alpha: float, sigma: float) -> np.ndarray:
        """The variance of alpha x0 + sigma eps."""
        return alpha**2 * self.variance + sigma**2

    def x0(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        """E[x0 | x]: what the perfect model predicts."""
        gain = alpha * self.variance / self.spread(alpha, sigma)
        return self.mean + gain * (x - alpha * self.mean)

    def flow(self, x: np.ndarray, start: tuple[float, float]) -> State:
        """The probability flow ODE's solution through x at `start`, at any (alpha, sigma)."""
        whitened = (x - start[0] * self.mean) / np.sqrt(self.spread(*start))
        return lambda alpha, sigma: alpha * self.mean + np.sqrt(self.spread(alpha, sigma)) * whitened


DATA = Gaussian(np.array([0.7, -1.1, 0.2, 0.0]), np.array([0.05, 0.4, 1.7, 6.0]))
SCHEDULES = {"vp": fd.Schedule.vp(), "edm": fd.Schedule.edm(), "flow": fd.Schedule.flow(t_min=1e-4)}


def smooth_levels(schedule: fd.Schedule, steps: int, first: float = -2.5, last: float = 2.5) -> np.ndarray:
    """Noise levels whose lambda is a smooth, uneven function of the step's number, for plan(sigmas=...)."""
    u = np.linspace(0, 1, steps + 1)
    log_snr = first + (last - first) * (u + 0.4 * np.sin(2 * np.pi * u) / (2 * np.pi))
    return schedule.coordinate(schedule.at_log_snr(log_snr))


def run_rows(
    plan: Plan,
    x0_model: Callable[[np.ndarray, float, float], np.ndarray],
    x: np.ndarray,
    *,
    exact: State | None = None,
    exact_until: int = 0,
    noise: Callable[[int], np.ndarray] | None = None,
) -> np.ndarray:
    """Apply a plan's rows as `fastdiff.plan` defines them. x0_model(x, alpha, sigma) gives x0 there.

    Rows before `exact_until` see the exact state, and their updates are replaced by it: exact starting values.
    """
    base, history = x, []

    def evaluate(line: LinearUpdate, d: list[np.ndarray]) -> np.ndarray:
        total = line.base * base + line.x * x
        for weight, h in zip(line.history, d, strict=False):
            total = total + weight * h
        for j, weight in line.noise:
            total = total + weight * noise(j)
        return total

    for i, row in enumerate(plan.rows):
        data = x0_model(x, row.alpha, row.sigma)
        eps = (x - row.alpha * data) / row.sigma if row.sigma else np.zeros_like(x)  # E[eps | x0] = 0
        m = {"sample": data, "epsilon": eps, "flow_prediction": eps - data}.get(
            plan.prediction, row.alpha * eps - row.sigma * data
        )
        history.insert(0, row.p_x * x + row.p_m * m)
        if i < exact_until:
            after = exact(*plan.point_after(i))
            stays = x if row.base == BASE_FROM_X or row.base not in (None, BASE_UNCHANGED) else base
            x, base = after, after if row.base is None else stays
        else:
            after = evaluate(row.x, history)
            base, x = after if row.base is None else evaluate(row.base, history), after
        history = [d for k, d in enumerate(history) if k not in row.drop_history]
    return x


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: the slope of log error against log step size."""
    return -linregress(np.log(steps), np.log(errors)).slope
