"""The times of a run from t[0] to t[-1], on the caller's clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SNAP = 1e-6  # beyond 0 or 1 by this much is rounding


def requested(t: Tensor) -> list[float]:
    """The numbers of t. Raises ValueError where they are not at least two that rise, or fall, within [0, 1]."""
    if not isinstance(t, Tensor) or t.ndim != 1 or len(t) < 2:
        raise ValueError(f"t: expected a tensor of at least two times, got {t!r}")
    times = within(t.tolist())
    sign = 1 if times[1] > times[0] else -1
    if not all(sign * (b - a) > 0 for a, b in itertools.pairwise(times)):
        raise ValueError("t: expected times that rise strictly, or fall strictly")
    return times


def within(times: Sequence[float]) -> list[float]:
    """The times, with those that rounding put out of [0, 1] at its ends. Raises ValueError for others."""
    held = [min(max(t, 0.0), 1.0) for t in times]
    if not all(abs(a - b) <= SNAP for a, b in zip(times, held, strict=True)):
        raise ValueError(f"t: expected times in [0, 1], of a path from noise to data, got {min(times)} to {max(times)}")
    return held


def by_step_size(t: Tensor, step_size: float) -> list[float]:
    """From t[0] on in steps of this size, the last one shorter, as torchdiffeq counts them in t's dtype."""
    if not step_size > 0:
        raise ValueError(f"step_size: expected a number > 0, got {step_size}")
    first, last = t[0].cpu(), t[-1].cpu()
    sign = 1 if last > first else -1
    count = int(torch.ceil(sign * (last - first) / step_size + 1).item())
    grid = torch.arange(count, dtype=t.dtype) * (sign * step_size) + first
    grid[-1] = last
    return within(grid.tolist())


def explicit(grid: Any, t: Tensor) -> list[float]:
    """The caller's grid. Raises ValueError where it does not begin and end where t does."""
    times = [float(value) for value in (grid.tolist() if hasattr(grid, "tolist") else grid)]
    ends = (float(t[0]), float(t[-1]))
    if len(times) < 2 or max(abs(times[0] - ends[0]), abs(times[-1] - ends[1])) > SNAP:
        raise ValueError(f"grid: expected times from {ends[0]:g} to {ends[1]:g}, as t has them, got {times[:3]} ...")
    return within(times)
