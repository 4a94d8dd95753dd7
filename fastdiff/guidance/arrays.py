"""The few operations that formulas need, for numbers, NumPy arrays and torch tensors alike.

A formula is written once. For a few samples on the CPU it is given one sample's numbers after the other, which takes
Python a tenth of the time that NumPy needs for arrays so small; for many samples it is given arrays. On a device torch
keeps the numbers there, and the host waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # a NumPy array or a torch tensor, float64; or one sample's number, as a `Sample` gives it
Values = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""A number, or one for each sample [B], or one for each frame [F] or sample and frame [B, F]."""


class Sample:
    """One sample's matrix [n, n] in the place of matrices [B, n, n]: sample[:, i, j] is a number."""

    def __init__(self, rows: Sequence[Sequence[float]], place: int) -> None:
        self.rows, self.place = rows, place

    def __getitem__(self, key: tuple[slice, int, int]) -> float:
        return self.rows[key[1]][key[2]]


class _Numbers:
    """The functions of NumPy and torch for numbers."""

    sqrt, exp = staticmethod(math.sqrt), staticmethod(math.exp)

    @staticmethod
    def where(condition: bool, chosen: float, other: float) -> float:
        return chosen if condition else other


def namespace(array: Array) -> Any:
    """What the array's functions come from."""
    if isinstance(array, (float, Sample)):
        return _Numbers
    return torch if isinstance(array, Tensor) else np


def like(values: Values | np.ndarray, array: Array) -> Array:
    """The numbers beside an array: float64, on its device. A plain number stays one."""
    if isinstance(values, np.ndarray):
        values = tuple(values.tolist()) if values.ndim else float(values)
    if not isinstance(values, tuple):
        return values
    if isinstance(array, Sample):
        return values[array.place]
    return _on_device(values, array.device) if isinstance(array, Tensor) else np.asarray(values)


@lru_cache(maxsize=256)
def _on_device(values: tuple, device: torch.device) -> Tensor:
    """Copied once: a captured graph may not copy from the host, and a loop need not."""
    return torch.tensor(values, dtype=torch.float64, device=device)


def quotient(numerator: Array, denominator: Array, where_zero: float) -> Array:
    """numerator / denominator, and `where_zero` where the denominator is 0."""
    zero = denominator == 0
    if isinstance(denominator, float):
        return where_zero if zero else numerator / denominator
    if isinstance(denominator, Tensor):
        return torch.where(zero, where_zero, numerator / torch.where(zero, 1.0, denominator))
    if not zero.any():
        return numerator / denominator
    return np.where(zero, where_zero, numerator / np.where(zero, 1.0, denominator))


def norm(square: Array) -> Array:
    """sqrt of a sum of squares."""
    return namespace(square).sqrt(square)


def at_most(array: Array, limit: float) -> Array:
    """min(array, limit)."""
    if isinstance(array, float):
        return limit if array > limit else array  # NaN stays
    return array.clamp(max=limit) if isinstance(array, Tensor) else np.minimum(array, limit)


def at_least(array: Array, limit: float) -> Array:
    """max(array, limit)."""
    if isinstance(array, float):
        return limit if array < limit else array
    return array.clamp(min=limit) if isinstance(array, Tensor) else np.maximum(array, limit)


def zeros(shape: tuple[int, ...], array: Array) -> Array:
    """Zeros beside an array: float64, on its device."""
    return array.new_zeros(shape) if isinstance(array, Tensor) else np.zeros(shape)
