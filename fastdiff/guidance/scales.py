"""Guidance scales: a number, one for each sample, or a function of the point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..sampling.rule import Point
from .arrays import Values

Scale = float | Sequence[float] | np.ndarray | Tensor | Callable[[Point], "float | Sequence[float] | Tensor"]
"""A number, [B] numbers, or a function of the point that returns either."""


def numbers(name: str, values: object, dimensions: Sequence[int] = (0, 1)) -> Values:
    """The numbers as Python's own, so that guidance compares, hashes and prints. Raises ValueError naming the argument.

    dimensions: how many they may have.
    """
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a number or numbers, got {values!r:.80}") from None
    if array.ndim not in dimensions or not array.size:
        raise ValueError(f"{name}: expected {_shapes(dimensions)}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {values!r:.80}")
    return _tuples(array.tolist())


def scale_field(name: str, scale: object, dimensions: Sequence[int] = (0, 1)) -> Values | Callable[[Point], object]:
    """A scale as a guidance object keeps it: a function as it is, all else as `numbers`."""
    return scale if callable(scale) else numbers(name, scale, dimensions)


def at(scale: object, point: Point, dimensions: Sequence[int] = (0, 1)) -> Values:
    """The scale at a point."""
    return numbers("scale", scale(point), dimensions) if callable(scale) else scale  # type: ignore[return-value]


def number_at(scale: object, point: Point) -> float:
    """The scale at a point, one for all samples."""
    number = at(scale, point, (0,))
    assert isinstance(number, float)
    return number


def is_one(scale: Values) -> bool:
    """Whether every scale is 1, where the conditional output alone is the result."""
    return scale == 1 if not isinstance(scale, tuple) else all(is_one(part) for part in scale)


def check_batch(name: str, scale: object, batch: int) -> None:
    """Raises ValueError where there is one number for each sample of another batch."""
    if isinstance(scale, tuple) and len(scale) != batch:
        raise ValueError(f"{name}: expected one for each of the {batch} samples, got {len(scale)}")


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """The number as a float. Raises ValueError naming the argument where it is none, or outside [low, high]."""
    number = numbers(name, value, (0,))
    assert isinstance(number, float)
    if not low <= number <= high:
        raise ValueError(f"{name}: expected a number in [{low:g}, {high:g}], got {number:g}")
    return number


def _tuples(values: object) -> Values:
    if isinstance(values, list):
        return tuple(_tuples(value) for value in values)  # type: ignore[return-value]
    return values  # type: ignore[return-value]


def _shapes(dimensions: Sequence[int]) -> str:
    return " or ".join({0: "a number", 1: "a list of them", 2: "a table of them"}[n] for n in dimensions)
