"""Tangential damping classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..sampling.rule import Point, Rule
from .arrays import Array, Values, like, namespace, norm, quotient
from .combination import change, vector
from .scaled import Scaled
from .spaces import to_space


@dataclass(frozen=True, repr=False)
class Tangential(Scaled):
    """Tangential damping CFG (Kwon et al. 2025, "TCFG: tangential damping classifier-free guidance"):

        u' = v <v, u>,   y = u' + g (c - u')

    where v is the first right singular vector of the 2 by N matrix [c; u], over each sample. That is also the one of
    [w; d] with w = c + u and d = c - u: v is along cos(p) w + sin(p) d with tan(2 p) = 2 <w, d> / (|w|^2 - |d|^2), and

        u' - c = -(sin^2 p + sin p cos p) w / 2 - (1 + sin^2 p - sin p cos p) d / 2

    scale: g. space: "noise", the score's direction, as in the paper, or any other. rescale, interval: as for `CFG`.
    Raises ValueError naming the argument.
    """

    space: str = field(default="noise", kw_only=True)

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule; it needs the Gram matrix of c - u and c + u."""
        p_x, p_m = to_space(point, self.space)
        per_unit = 1 / p_m if p_m else 0.0

        def coordinates(gram: Array) -> Sequence[Array]:
            # c - u is in units of the output, the sum in those of the space: the result has a limit at p_m = 0.
            xp = namespace(gram)
            inner, w2, d2 = gram[:, 0, 1], gram[:, 1, 1], p_m**2 * gram[:, 0, 0]
            apart = w2 - d2
            across = 2 * p_m * inner
            root = norm(across * across + apart * apart)
            cross = quotient(inner, root, 0.0)  # sin p cos p / p_m
            near = quotient(across * inner, root * (root + abs(apart)), 0.0)  # the smaller of sin^2, cos^2, by p_m
            square = xp.where(apart < 0, per_unit - near, near)
            added = 1 - like(scale, gram)
            return [-added * (1 + p_m * (square - cross)) / 2, -added * (square + cross) / 2]

        vectors = [vector(1.0, -1.0), vector(p_m, p_m, x=2 * p_x)]
        return change((0, 1), vectors, coordinates, rescale=self.rescale, space=(p_x, p_m))
