"""Guidance by the run's own past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..sampling.rule import Point, Rule
from . import scales
from .arrays import Array, quotient
from .combination import change, vector
from .scales import Scale, check_number
from .spaces import check_space, to_space
from .windowed import Windowed, within


@dataclass(frozen=True, repr=False)
class History(Windowed):
    """History guidance: a step away from the mean of what was predicted before. With D = u + g (c - u),

        y = D + w (d - (1 - eta) d_par),   d = D - S,   d_par the part of d along D
        S <- (1 - decay) S + decay D,      S = D after the first evaluation

    with inner products over a sample. Earlier predictions are worse ones, and there is no further call. This is the
    core of HiGS (Sadat et al. 2025, arXiv 2509.22300), without its high-pass filter; with eta = 1 in the velocity, that
    of momentum guidance for flows (Liao et al. 2026, arXiv 2602.20360).

    weight: w, a number or a function of the point that returns one. scale: g, a number; 1 for no CFG.
    decay: in (0, 1], the weight of the newest prediction in S. eta: weight of the parallel part; 1 keeps it.
    space: "x0", "flow" or another. interval: as for `CFG`, of w; S is kept outside of it too.
    Raises ValueError naming the argument.
    """

    weight: Scale
    scale: Scale = 1.0
    decay: float = 0.5
    eta: float = 1.0
    space: str = field(default="x0", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weight", scales.scale_field("weight", self.weight, (0,)))
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale, (0,)))
        if not check_number("decay", self.decay, 0.0, 1.0):
            raise ValueError(f"decay: expected a number in (0, 1], got {self.decay}")
        check_number("eta", self.eta)
        check_space(self.space)

    @property
    def needs_uncond(self) -> bool:
        """False without CFG."""
        return callable(self.scale) or not scales.is_one(self.scale)  # type: ignore[arg-type]

    @property
    def stateful(self) -> bool:
        """Always: the mean of earlier predictions."""
        return True

    def rule(self, point: Point) -> Rule:
        """The rule; with eta other than 1 it needs <d, D> and |D|^2."""
        p_x, p_m = to_space(point, self.space)
        if p_m == 0:
            raise ValueError(f"space: {self.space} does not depend on the model's output at t = {point.t:g}")
        g = scales.number_at(self.scale, point)
        w = scales.number_at(self.weight, point) if point.i and within(self.interval, point) else 0.0
        first = point.i == 0
        guided = vector(p_m * g, p_m * (1 - g), x=p_x)
        away = vector(p_m * g, p_m * (1 - g), x=p_x, state=-1.0)
        new = 1.0 if first else self.decay
        state = vector(new * p_m * g, new * p_m * (1 - g), x=new * p_x, state=1 - new)

        def coordinates(gram: Array) -> Sequence[Array]:
            along = quotient(gram[:, 0, 1], gram[:, 1, 1], 0.0)
            return [w / p_m, -w / p_m * (1 - self.eta) * along, g - 1]

        calls = (0,) if g == 1 else (0, 1)
        if w == 0 or self.eta == 1:
            return change(calls, [away, vector(1.0, -1.0)], [w / p_m, g - 1], state=state)
        return change(calls, [away, guided, vector(1.0, -1.0)], coordinates, state=state)
