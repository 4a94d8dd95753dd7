"""CFG-Zero*."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..sampling.rule import Point, Rule
from .arrays import Array, Values, like, quotient
from .combination import change, vector
from .scaled import Scaled
from .scales import check_number
from .spaces import to_space


@dataclass(frozen=True, repr=False)
class ZeroStar(Scaled):
    """CFG-Zero* (Fan et al. 2025, "CFG-Zero*: improved classifier-free guidance for flow matching models"):

        s = <c, u> / |u|^2,   y = s u + g (c - s u)

    with inner products over a sample, and y = 0 in the first evaluations, in the velocity eps - x0 of flow models. The
    state does not move where the velocity is 0, and no call is made. For a model that predicts something else, it is
    the same in terms of x and x0.

    scale: g. zero_steps: the number of first evaluations with y = 0; 1 in the paper's experiments.
    zero_above: instead, or besides, wherever sigma / alpha is above this.
    rescale, interval: as for `CFG`, `rescale` in the velocity. Outside of the interval nothing is zero.
    Raises ValueError naming the argument.
    """

    zero_steps: int = 1
    zero_above: float | None = None
    space: str = field(default="flow", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_number("zero_steps", self.zero_steps, 0.0) % 1:
            raise ValueError(f"zero_steps: expected a whole number, got {self.zero_steps}")
        if self.zero_above is not None:
            check_number("zero_above", self.zero_above, 0.0)

    def zeroed(self, point: Point) -> bool:
        """Whether y is 0 at a point."""
        return point.i < self.zero_steps or (self.zero_above is not None and point.ratio > self.zero_above)

    def inside(self, point: Point) -> Rule:
        """What is done at a point of the interval."""
        if not self.zeroed(point):
            return super().inside(point)
        p_x, p_m = to_space(point, self.space)
        if p_m == 0:
            raise ValueError(f"zero_steps: {self.space} does not depend on the model's output where sigma = 0")
        return Rule((), weights=np.array([vector(x=-p_x / p_m)]))

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule; it needs <c - u, u> and |u|^2."""
        p_x, p_m = to_space(point, self.space)

        def coordinates(gram: Array) -> Sequence[Array]:
            added = like(scale, gram) - 1
            return [added, -added * quotient(gram[:, 0, 1], gram[:, 1, 1], 0.0)]

        # With the difference taken first: c - s u = (c - u) - (s - 1) u and s - 1 = <c - u, u> / |u|^2.
        vectors = [vector(1.0, -1.0), vector(uncond=p_m, x=p_x)]
        return change((0, 1), vectors, coordinates, rescale=self.rescale, space=(p_x, p_m))
