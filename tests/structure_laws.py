"""The spread of Gaussian points after a run, by its plan and by the published algorithm: computed, without samples."""

from __future__ import annotations

import numpy as np
from gaussian import run_rows

import fastdiff as fd


def end_variance(plan: fd.Plan, data: float, start: float) -> float:
    """Of the last x, for data N(0, data^2) and x at the start N(0, start^2): every row is linear."""
    noises = max((j for row in plan.rows for j, _ in row.x.noise), default=0)
    first, *xi = np.eye(1 + noises)

    def x0(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        return alpha * data**2 / (alpha**2 * data**2 + sigma**2) * x

    weights = run_rows(plan, x0, start * first, noise=lambda j: xi[j - 1])
    return float((weights**2).sum())


def algorithm_18(sigmas: np.ndarray, gammas: np.ndarray, data: float, noise_scale: float, step_scale: float) -> float:
    """The same by AlphaFold 3's algorithm 18, written in variances."""
    variance = (sigmas[0] * (1 + gammas[0])) ** 2
    for i, (sigma, after, gamma) in enumerate(zip(sigmas[:-1], sigmas[1:], gammas, strict=True)):
        hat = sigma * (1 + gamma)
        if i:
            variance += noise_scale**2 * (hat**2 - sigma**2)
        shrink = 1 - data**2 / (data**2 + hat**2)  # (x - D) / x
        variance *= (1 + step_scale * (after - hat) / hat * shrink) ** 2
    return variance
