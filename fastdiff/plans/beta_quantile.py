"""Quantiles of the beta distribution: the inverse of the regularised incomplete beta function I_x(a, b)."""

from __future__ import annotations

import math

import numpy as np

BISECTIONS = 50  # to 1e-15
TERMS = 30  # of the continued fraction: enough for a, b up to 10


def beta_quantile(p: np.ndarray, a: float, b: float) -> np.ndarray:
    """x in [0, 1] with I_x(a, b) = p, by bisection; a, b > 0. At p = 1/2 and a = b it is exactly 1/2."""
    if not (a > 0 and b > 0):
        raise ValueError(f"a, b: expected numbers > 0, got {a}, {b}")
    p = np.asarray(p, dtype=np.float64)
    inside = np.where((p > 0) & (p < 1), p, 0.5)
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = incomplete_beta(middle, a, b) < inside
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    x = np.where(p >= 1, 1.0, np.where(p <= 0, 0.0, high))
    return np.where((p == 0.5) & (a == b), 0.5, x)


def incomplete_beta(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """I_x(a, b) for x in (0, 1), by its continued fraction (DLMF 8.17.22), on the side where that is fast."""
    x = np.asarray(x, dtype=np.float64)
    # I_x(a, b) = 1 - I_(1 - x)(b, a), of which the fraction of one converges fast.
    swap = x > (a + 1) / (a + b + 2)
    value = _by_fraction(np.where(swap, 1 - x, x), np.where(swap, b, a), np.where(swap, a, b))
    value *= math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    return np.where(swap, 1 - value, value)


def _by_fraction(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    tail = np.ones_like(x)
    for n in range(TERMS, 0, -1):
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        tail = 1 + d / tail
    return x**a * (1 - x) ** b / (a * tail)
