"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..sampling.rule import Point, Rule
from .arrays import Array, Values, at_most, like, norm, quotient
from .combination import change, vector
from .scaled import Scaled
from .scales import check_number
from .spaces import to_space


@dataclass(frozen=True, repr=False)
class APG(Scaled):
    """Adaptive projected guidance (Sadat et al. 2025, "Eliminating oversaturation and artifacts of high guidance
    scales in diffusion models", Algorithm 1):

        d_n = (c - u) + beta d_(n-1)
        U   = d min(1, r / |d|),   split into U_par along c and U_orth
        y   = c + (g - 1) (U_orth + eta U_par)

    with inner products over a sample. They act on x0, where the part along c is what oversaturates.

    scale: g. norm: r, in units of the space, None for no bound; they take 2.5 to 20 by model, 15 for SDXL.
    eta: weight of the parallel part; 0 in the paper, 1 keeps it. momentum: beta, None for none; -0.5 to -0.75 in the
        paper. The state d is kept in the space's units.
    form: "paper", or "diffusers" for y = u + g (U_orth + eta U_par), which is that package's; the two are the same
        where nothing is bounded or removed.
    space: "x0", as in the paper, or "output", "noise", "flow" or "v". rescale, interval: as for `CFG`.
    With eta = 1 and neither norm nor momentum it is CFG. Raises ValueError naming the argument.
    """

    norm: float | None = None
    eta: float = 0.0
    momentum: float | None = None
    form: str = "paper"
    space: str = field(default="x0", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm is not None:
            check_number("norm", self.norm, 0.0)
        check_number("eta", self.eta)
        if self.momentum is not None:
            check_number("momentum", self.momentum)
        if self.form not in ("paper", "diffusers"):
            raise ValueError(f"form: expected 'paper' or 'diffusers', got {self.form!r}")

    @property
    def stateful(self) -> bool:
        """Whether there is momentum."""
        return bool(self.momentum)

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule; it needs |d|^2, <d, c> and |c|^2."""
        if self.eta == 1 and self.norm is None and not self.momentum and not self.rescale:
            return Rule((0, 1), scale=np.asarray(scale) if isinstance(scale, tuple) else scale)
        p_x, p_m = to_space(point, self.space)
        beta, from_u = self.momentum or 0.0, self.form == "diffusers"
        if beta and p_m == 0:
            raise ValueError(f"momentum: {self.space} does not depend on the model's output where sigma = 0")

        def coordinates(gram: Array) -> Sequence[Array]:
            g = like(scale, gram)
            length = abs(p_m) * norm(gram[:, 0, 0])
            bound = 1.0 if self.norm is None else at_most(quotient(self.norm, length, 1.0), 1.0)
            factor = (g if from_u else g - 1) * bound
            parallel = quotient(gram[:, 0, 1], gram[:, 1, 1], 0.0)
            return [factor, -factor * (1 - self.eta) * parallel, *([-1.0] if from_u else [])]

        # d / p_m and not d, since c + d / p_m has a limit where p_m is 0.
        vectors = [vector(1.0, -1.0, state=beta / p_m if beta else 0.0), vector(p_m, x=p_x)]
        if from_u:
            vectors.append(vector(1.0, -1.0))
        state = vector(p_m, -p_m, state=beta) if beta else None
        return change((0, 1), vectors, coordinates, rescale=self.rescale, space=(p_x, p_m), state=state)
