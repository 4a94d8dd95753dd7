"""Guidance that ends once it no longer matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sampling.rule import Guidance, Point, Rule
from .arrays import Array, Values, norm, quotient
from .cfg import CFG
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

    @property
    def after_stop(self) -> Guidance:
        """The conditional call alone."""
        return CFG(1.0)

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule; it needs <c, u>, |c|^2 and |u|^2."""
        p_x, p_m = to_space(point, self.space)
        basis = np.array([vector(p_m, x=p_x), vector(uncond=p_m, x=p_x)])
        return Rule(
            (0, 1), scale=np.asarray(scale) if isinstance(scale, tuple) else scale, basis=basis, stop=self._aligned
        )

    def _aligned(self, gram: Array) -> bool:
        cosine = quotient(gram[:, 0, 1], norm(gram[:, 0, 0]) * norm(gram[:, 1, 1]), 1.0)
        return bool((cosine > self.cosine).all())
