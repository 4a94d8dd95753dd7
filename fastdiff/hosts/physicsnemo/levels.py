"""PhysicsNeMo's noise levels (Karras et al. 2022, table 1): sigma [num_steps] in float64, without the end at 0."""

from __future__ import annotations

import numpy as np

RANGES = {"vp": None, "ve": (0.02, 100.0), "iddpm": (0.002, 81.0), "edm": (0.002, 80.0)}


def vp_sigma(t: np.ndarray | float, beta_d: float = 19.1, beta_min: float = 0.1) -> np.ndarray:
    """sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)."""
    return np.sqrt(np.expm1(0.5 * beta_d * np.square(t) + beta_min * np.asarray(t)))


def default_range(discretization: str, epsilon_s: float) -> tuple[float, float]:
    """(sigma_min, sigma_max) where the caller names none."""
    return RANGES[discretization] or (float(vp_sigma(epsilon_s)), float(vp_sigma(1.0)))


def levels_of(
    discretization: str, count: int, low: float, high: float, rho: float, epsilon_s: float,
    C_1: float, C_2: float, M: int,
) -> np.ndarray:  # fmt: skip
    """So many levels from high to low, by table 1 of the paper."""
    share = np.arange(count) / max(count - 1, 1)
    if discretization == "vp":
        logs = np.log1p(np.square([low, high]))
        beta_d = 2 * (logs[0] / epsilon_s - logs[1]) / (epsilon_s - 1)
        return vp_sigma(1 + share * (epsilon_s - 1), beta_d, logs[1] - 0.5 * beta_d)
    if discretization == "ve":
        return high * (low / high) ** share
    if discretization == "iddpm":
        kept = np.sin(0.5 * np.pi * np.arange(M + 1) / M / (C_2 + 1)) ** 2
        u = np.zeros(M + 1)
        for j in range(M, 0, -1):
            u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(kept[j - 1] / kept[j], C_1) - 1)
        inside = u[(u >= low) & (u <= high)]
        return inside[np.round((len(inside) - 1) * share).astype(int)]
    return (high ** (1 / rho) + share * (low ** (1 / rho) - high ** (1 / rho))) ** rho
