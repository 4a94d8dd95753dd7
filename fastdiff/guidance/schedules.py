"""Guidance scales that depend on the noise.

Time runs by the angle u = 1 - (2 / pi) atan(sigma / alpha), from 0 at pure noise to 1 at data. It is the same on every
schedule and for every number of steps, and the time of the cosine schedule. With the constant scale's g:

    g(u) = 1 + (g - 1) f(u)

where the mean of f over u is 1, so that schedules compare at the same amount of guidance (Wang et al. 2024, "Analysis
of classifier-free guidance weight schedulers"): f = 2 u ("linear"), 1 - cos(pi u) ("cosine"), 2 - |4 u - 2|
("triangle"), and the density of a beta distribution ("beta").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..sampling.rule import Point
from .scales import check_number


def progress(point: Point) -> float:
    """1 - (2 / pi) atan(sigma / alpha): 0 at pure noise, 1 at data."""
    return 1 - 2 / math.pi * math.atan2(point.sigma, point.alpha)


def beta_density(a: float, b: float) -> Callable[[float], float]:
    """The density of the beta distribution on [0, 1], a, b >= 1."""
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return lambda u: math.exp(log_scale) * u ** (a - 1) * (1 - u) ** (b - 1)


SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 2 * u,
    "cosine": lambda u: 1 - math.cos(math.pi * u),
    "triangle": lambda u: 2 - abs(4 * u - 2),
    "beta": beta_density(2.0, 2.0),
}


@dataclass(frozen=True)
class Scheduled:
    """The scale 1 + (scale - 1) f(u) at a point, f by name: "linear", "cosine", "triangle" or "beta" (a = b = 2)."""

    scale: float
    shape: str

    def __post_init__(self) -> None:
        check_number("scale", self.scale)
        check_shape(self.shape)

    def __call__(self, point: Point) -> float:
        return 1 + (self.scale - 1) * SHAPES[self.shape](progress(point))


@dataclass(frozen=True)
class Beta:
    """The scale 1 + (scale - 1) f(u) with the density f of the beta distribution (a, b), a, b >= 1."""

    scale: float
    a: float = 2.0
    b: float = 2.0

    def __post_init__(self) -> None:
        check_number("scale", self.scale)
        check_number("a", self.a, 1.0)
        check_number("b", self.b, 1.0)

    def __call__(self, point: Point) -> float:
        return 1 + (self.scale - 1) * beta_density(self.a, self.b)(progress(point))


def check_shape(shape: str) -> None:
    """Raises ValueError naming the shapes."""
    if shape not in SHAPES:
        raise ValueError(f"schedule: expected one of {', '.join(SHAPES)}, an array or a function, got {shape!r}")
