"""The caller's noise levels: read once, laid out as points of a schedule, and cut where they turn."""

from __future__ import annotations

import itertools

import numpy as np
from torch import Tensor

from ..plans.schedule import Points, Schedule
from ..plans.table import MAX_HISTORY


def read_levels(sigmas: Tensor) -> np.ndarray:
    """The caller's noise levels, float64: the one time that the host reads them. Raises ValueError naming sigmas."""
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas: expected a torch.Tensor, got {type(sigmas).__name__}")
    levels = sigmas.detach().double().cpu().numpy()
    if levels.ndim != 1:
        raise ValueError(f"sigmas: expected a sequence of noise levels, got shape {tuple(sigmas.shape)}")
    if not np.isfinite(levels).all() or (levels[:-1] <= 0).any() or (levels[-1:] < 0).any():
        raise ValueError(f"sigmas: expected numbers > 0, the last one >= 0, got {levels}")
    return levels


def points_at(schedule: Schedule, levels: np.ndarray) -> Points:
    """The levels on a schedule whose x is x0 + sigma eps, or (1 - sigma) x0 + sigma eps on flow schedules."""
    if schedule.kind == "flow":
        return Points(levels, 1 - levels, levels)
    return Points(schedule.t_of_log_snr(-np.log(np.maximum(levels, 1e-300))), np.ones_like(levels), levels)


def stretches(levels: np.ndarray, turn: bool) -> list[np.ndarray]:
    """The places of the levels, in stretches within which a solver may use earlier outputs.

    Each begins where the one before ended. A level that comes again at once is left out: the step between the two
    changes nothing. turn: cut where the levels turn, since noise has come between. Without noise outputs are a function
    of the level, and are cut only where a level comes again, since no polynomial runs through one place twice.
    """
    kept = [*np.flatnonzero(np.diff(levels)), len(levels) - 1]
    cuts, begin = [0], 0
    for j in range(2, len(kept)):
        before, now, after = (levels[kept[k]] for k in (j - 2, j - 1, j))
        turned = (after > now) != (now > before)
        past = levels[kept[max(begin, j - MAX_HISTORY) : j]]
        if turned if turn else (past == after).any():
            begin = j - 1
            cuts.append(begin)
    return [np.array(kept[a : b + 1]) for a, b in itertools.pairwise([*cuts, len(kept) - 1]) if b > a]
