"""Weightings of losses: w(schedule, t) -> [B], the weight of the squared error of the data, |x0 - x0'|^2.

`loss` turns it into the weight of what the model predicts, so that a weighting means the same for every prediction.
With s = sigma / alpha and SNR = 1 / s^2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Schedule
from .forward import inside, ratio

Weighting = Callable[[Schedule, Tensor], Tensor]

STEP = 1e-4  # of the derivative, as a share of the times


def snr(schedule: Schedule, t: Tensor) -> Tensor:
    """w = SNR: the unweighted loss of the noise (Ho et al. 2020, eq. 14)."""
    return ratio(schedule, t) ** -2


def min_snr(gamma: float = 5.0) -> Weighting:
    """w = min(SNR, gamma) (Hang et al. 2023, eq. 9): of the noise min(SNR, gamma) / SNR, of v over SNR + 1.

    Raises ValueError for gamma <= 0.
    """
    if not gamma > 0:
        raise ValueError(f"gamma: expected a number > 0, got {gamma}")
    return lambda schedule, t: snr(schedule, t).clamp(max=gamma)


def edm(sigma_data: float = 0.5) -> Weighting:
    """w = (s^2 + d^2) / (s d)^2 = 1 / c_out^2 with d = sigma_data (Karras et al. 2022, table 1, "loss weighting").

    Raises ValueError for sigma_data <= 0.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data: expected a number > 0, got {sigma_data}")

    def weight(schedule: Schedule, t: Tensor) -> Tensor:
        s = ratio(schedule, t)
        return (s.square() + sigma_data**2) / (s * sigma_data).square()

    return weight


def likelihood(schedule: Schedule, t: Tensor) -> Tensor:
    """w = |dSNR/dt| / 2, with t uniform: the bound of the log-likelihood (Kingma et al. 2021, eq. 18).

    The same as g(t)^2 / 2 for the score (Song et al. 2021, "Maximum likelihood training", eq. 7). The derivative is a
    difference over 2e-4 of the schedule's times.
    """
    low, high = sorted((schedule.t_min, schedule.t_max))
    span = STEP * (high - low)
    middle = np.clip(t.detach().cpu().double().numpy(), low + span, high - span)
    before, after = (inside(schedule, torch.from_numpy(at)).log_snr for at in (middle - span, middle + span))
    slope = torch.from_numpy(abs(after - before) / (2 * span))  # SNR = exp(2 log_snr)
    return (slope.to(t.device) * snr(schedule, t)).float()
