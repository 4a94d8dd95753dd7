"""Places on a schedule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Points(NamedTuple):
    """Places on a schedule: three floats, or three arrays of one shape."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def log_snr(self) -> np.ndarray:
        """lambda = log(alpha / sigma)."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)

    def at(self, i: int | slice | np.ndarray) -> Points:
        """The i-th point, or those of a slice or of an array of places."""
        return Points(self.t[i], self.alpha[i], self.sigma[i])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), without overflow."""
    return np.exp(-np.logaddexp(0, -x))
