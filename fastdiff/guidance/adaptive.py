"""Guidance that ends once it no longer matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sampling.rule import Point, Rule
from .arrays import Array, Values, like, norm, quotient, zeros
from .combination import vector
from .scaled import Scaled
from .scales import check_number
from .spaces import to_space


@dataclass(frozen=True, repr=False)
class Adaptive(Scaled):
    """Adaptive guidance (Castillo et al. 2025, "Adaptive guidance: training-free acceleration of conditional diffusion
    models"): CFG until the angle between c and u is small, then the conditional call alone.

        y = u + g (c - u);   no more u once <c, u> / (|c| |u|) > cosine in every sample of the batch

    with inner products over a sample. The host reads the cosine after each evaluation, so it waits for the device, and
    a sample's result depends on those beside it.

    scale: g. cosine: the threshold. space: "noise", as in the paper, or another. interval: as for `CFG`.
    Raises ValueError naming the argument.
    """

    cosine: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("cosine", self.cosine, -1.0, 1.0)
        if self.rescale:
            raise ValueError(f"rescale: Adaptive has none, got {self.rescale}")

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule; it needs <c, u>, |c|^2 and |u|^2."""
        p_x, p_m = to_space(point, self.space)

        def formula(gram: Array) -> Array:
            weights = zeros((len(gram), 1, 6), gram)
            weights[:, 0, 0], weights[:, 0, 1] = like(scale, gram), 1.0
            return weights

        basis = np.array([vector(p_m, x=p_x), vector(uncond=p_m, x=p_x)])
        return Rule((0, 1), basis=basis, formula=formula, stop=self._aligned)

    def _aligned(self, gram: Array) -> bool:
        cosine = quotient(gram[:, 0, 1], norm(gram[:, 0, 0]) * norm(gram[:, 1, 1]), 1.0)
        return bool((cosine > self.cosine).all())
