"""The VP SDE's time as a function of sigma; DEIS uses polynomials in it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..plans.schedule import EDM

MIN_SIGMA, MAX_SIGMA, MIN_TIME = 0.002, 80.0, 1e-3  # sigma and time of the ends: EDM's sigmas on [1e-3, 1]


class VPTime(EDM):
    """alpha = 1 and sigma as in EDM; t is the time at which the linear VP SDE has the same signal-to-noise ratio.

    log(1 + sigma^2) = beta_d t^2 / 2 + beta_min t (Song et al. 2021, eq. 33), with beta_d and beta_min such that
    sigma = 0.002 lies at t = 0.001 and sigma = 80 at t = 1.
    """

    def __init__(self) -> None:
        super().__init__(MIN_SIGMA, MAX_SIGMA)
        low, high = math.log1p(MIN_SIGMA**2), math.log1p(MAX_SIGMA**2)
        self.beta_d = 2 * (low / MIN_TIME - high) / (MIN_TIME - 1)
        self.beta_min = high - self.beta_d / 2

    def t_of_log_snr(self, log_snr: ArrayLike) -> np.ndarray:
        exponent = np.logaddexp(0, -2 * np.asarray(log_snr, dtype=np.float64))
        return (np.sqrt(self.beta_min**2 + 2 * self.beta_d * exponent) - self.beta_min) / self.beta_d


VP_TIME = VPTime()
