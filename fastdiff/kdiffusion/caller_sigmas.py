"""The caller's sigmas: read once, placed on a schedule, and cut into segments where they turn."""

from __future__ import annotations

import itertools

import numpy as np
from torch import Tensor

from ..plans.schedule import Points, Schedule
from ..plans.table import MAX_HISTORY


def read_sigmas(sigmas: Tensor) -> np.ndarray:
    """The caller's sigmas [n] as float64. This is the only time the host waits for the device.

    Raises TypeError or ValueError naming sigmas.
    """
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas: expected a torch.Tensor, got {type(sigmas).__name__}")
    sigma = sigmas.detach().double().cpu().numpy()
    if sigma.ndim != 1:
        raise ValueError(f"sigmas: expected a sequence of noise levels, got shape {tuple(sigmas.shape)}")
    if not np.isfinite(sigma).all() or (sigma[:-1] <= 0).any() or (sigma[-1:] < 0).any():
        raise ValueError(f"sigmas: expected numbers > 0, the last one >= 0, got {sigma}")
    return sigma


def points_at(schedule: Schedule, sigma: np.ndarray) -> Points:
    """The sigmas as points of a schedule: x = x0 + sigma eps, or (1 - sigma) x0 + sigma eps for a flow schedule."""
    if schedule.kind == "flow":
        return Points(sigma, 1 - sigma, sigma)
    return Points(schedule.t_of_log_snr(-np.log(np.maximum(sigma, 1e-300))), np.ones_like(sigma), sigma)


def segments(sigma: np.ndarray, turn: bool) -> list[np.ndarray]:
    """Indices into sigma, in segments within which a multistep solver may reuse earlier outputs.

    Each segment begins where the one before ended. A sigma that repeats its predecessor is left out: that step changes
    nothing. turn: cut where the sigmas change direction, because noise was added in between. Without noise the outputs
    are a function of sigma alone, so they are cut only where a sigma comes back: no polynomial passes through one
    abscissa twice.
    """
    kept = [*np.flatnonzero(np.diff(sigma)), len(sigma) - 1]
    cuts, begin = [0], 0
    for j in range(2, len(kept)):
        before, now, after = (sigma[kept[k]] for k in (j - 2, j - 1, j))
        turned = (after > now) != (now > before)
        past = sigma[kept[max(begin, j - MAX_HISTORY) : j]]
        if turned if turn else (past == after).any():
            begin = j - 1
            cuts.append(begin)
    return [np.array(kept[a : b + 1]) for a, b in itertools.pairwise([*cuts, len(kept) - 1]) if b > a]
