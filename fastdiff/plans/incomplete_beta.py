"""The regularised incomplete beta function I_x(a, b): the distribution function of the beta distribution."""

from __future__ import annotations

import math

import numpy as np

TERMS = 30  # of the continued fraction: enough for a, b up to 10


def incomplete_beta(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """I_x(a, b) for x in (0, 1) and a, b in (0, 10], by its continued fraction (DLMF 8.17.22).

    At x = 1/2 it is exactly 1/2 where a = b. Raises ValueError for a, b <= 0.
    """
    if not (a > 0 and b > 0):
        raise ValueError(f"a, b: expected numbers > 0, got {a}, {b}")
    x = np.asarray(x, dtype=np.float64)
    # I_x(a, b) = 1 - I_(1 - x)(b, a), of which the fraction of one converges fast.
    swap = x > (a + 1) / (a + b + 2)
    value = _by_fraction(np.where(swap, 1 - x, x), np.where(swap, b, a), np.where(swap, a, b))
    value *= math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    return np.where((x == 0.5) & (a == b), 0.5, np.where(swap, 1 - value, value))


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
