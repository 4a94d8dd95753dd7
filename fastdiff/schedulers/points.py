"""The noise levels of a diffusers schedule as points: float64 from the very numbers that diffusers keeps."""

from __future__ import annotations

import numpy as np

from ..plans.schedule import Points, Schedule

# What solvers are told about the schedule; the points themselves are explicit.
VP = Schedule.vp()
EDM = Schedule.edm(sigma_min=1e-12, sigma_max=1e12)
FLOW = Schedule.flow(t_min=1e-12)


def vp_points(sigmas: np.ndarray) -> Points:
    """Variance preserving, from s = sigma / alpha."""
    alpha = 1 / np.hypot(1.0, sigmas)
    return Points(sigmas, alpha, sigmas * alpha)


def flow_points(sigmas: np.ndarray) -> Points:
    """alpha = 1 - sigma."""
    return Points(sigmas, 1 - sigmas, sigmas)


def level_points(sigmas: np.ndarray) -> Points:
    """alpha = 1: x = x0 + sigma eps."""
    return Points(sigmas, np.ones_like(sigmas), sigmas)


def cumulative_points(times: np.ndarray, alphas_cumprod: np.ndarray) -> Points:
    """From alpha^2 at the given times."""
    return Points(times, np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod))
