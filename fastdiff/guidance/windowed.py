"""Guidance in an interval of noise levels: outside it the conditional output is the result, and nothing else is called.

Kynkaanniemi et al. 2024, "Applying guidance in a limited interval improves sample and distribution quality".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ..sampling.rule import Guidance, Point, Rule

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Windowed(Guidance):
    """Base of the methods that take an interval.

    interval: (low, high) of sigma / alpha, the noise level of EDM: they act where low < sigma / alpha <= high, and
        everywhere if None. `float("inf")` is a level. Whatever the number of steps, it is the same noise.
    """

    interval: Interval | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", checked_interval(self.interval))

    def __repr__(self) -> str:
        """The arguments that are not the defaults, on one line."""
        shown = [f for f in fields(self) if f.repr and getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def rule(self, point: Point) -> Rule:
        """What is done at a point: `inside`, or the conditional output alone."""
        return self.inside(point) if within(self.interval, point) else Rule()

    def inside(self, point: Point) -> Rule:
        """What is done at a point of the interval."""
        raise NotImplementedError


def within(interval: Interval | None, point: Point) -> bool:
    """Whether the point's sigma / alpha is in (low, high]."""
    return interval is None or interval[0] < point.ratio <= interval[1]


def checked_interval(interval: object) -> Interval | None:
    """The interval as two floats. Raises ValueError where it is not one."""
    if interval is None:
        return None
    try:
        low, high = (float(level) for level in interval)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high:
        raise ValueError(f"interval: expected (low, high) with 0 <= low < high, of sigma / alpha, got {interval!r}")
    return low, high
