"""The few operations that formulas need, for NumPy arrays on the CPU and torch tensors elsewhere alike.

A formula is written once. On the CPU, NumPy costs the host a third of what torch does for such small arrays; on a
device torch keeps the numbers there, and the host waits for nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # a NumPy array or a torch tensor, float64
Values = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""A number, or one for each sample [B], or one for each frame [F] or sample and frame [B, F]."""


def namespace(array: Array) -> Any:
    """The module that the array's functions come from."""
    return torch if isinstance(array, Tensor) else np


def like(values: Values | np.ndarray, array: Array) -> Array:
    """The numbers beside an array: float64, on its device. A plain number stays one."""
    if isinstance(values, np.ndarray):
        values = tuple(values.tolist()) if values.ndim else float(values)
    if not isinstance(values, tuple):
        return values
    return _on_device(values, array.device) if isinstance(array, Tensor) else np.asarray(values)


@lru_cache(maxsize=256)
def _on_device(values: tuple, device: torch.device) -> Tensor:
    """Copied once: a captured graph may not copy from the host, and a loop need not."""
    return torch.tensor(values, dtype=torch.float64, device=device)


def quotient(numerator: Array, denominator: Array, where_zero: float) -> Array:
    """numerator / denominator, and `where_zero` where the denominator is 0."""
    zero = denominator == 0
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
    return array.clamp(max=limit) if isinstance(array, Tensor) else np.minimum(array, limit)


def at_least(array: Array, limit: float) -> Array:
    """max(array, limit)."""
    return array.clamp(min=limit) if isinstance(array, Tensor) else np.maximum(array, limit)


def zeros(shape: tuple[int, ...], array: Array) -> Array:
    """Zeros beside an array: float64, on its device."""
    return array.new_zeros(shape) if isinstance(array, Tensor) else np.zeros(shape)
