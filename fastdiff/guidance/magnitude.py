"""Magnitude-aware guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..sampling.rule import Point, Rule
from .arrays import Array, Values, like, namespace, norm, quotient
from .combination import change, vector
from .scaled import Scaled
from .scales import check_number
from .spaces import to_space

FAR = 1e300  # the ratio where u is 0: no guidance, unless the damping is 0


@dataclass(frozen=True, repr=False)
class Magnitude(Scaled):
    """Magnitude-aware guidance (MAMBO-G, arXiv 2508.03442): less guidance where c and u are far apart.

        y = u + g' (c - u),   g' = 1 + (g - 1) exp(-a |c - u| / |u|)

    with norms over a sample. Where u is 0, g' is 1.

    scale: g; they take 10. damping: a; they take 8. space: "output", as in the paper, or any other.
    rescale, interval: as for `CFG`. Raises ValueError naming the argument.
    """

    damping: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("damping", self.damping, 0.0)

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule; it needs |c - u|^2 and |u|^2."""
        p_x, p_m = to_space(point, self.space)

        def coordinates(gram: Array) -> Sequence[Array]:
            ratio = quotient(abs(p_m) * norm(gram[:, 0, 0]), norm(gram[:, 1, 1]), FAR)
            return [(like(scale, gram) - 1) * namespace(gram).exp(-self.damping * ratio), 0.0]

        vectors = [vector(1.0, -1.0), vector(uncond=p_m, x=p_x)]
        return change((0, 1), vectors, coordinates, rescale=self.rescale, space=(p_x, p_m))
