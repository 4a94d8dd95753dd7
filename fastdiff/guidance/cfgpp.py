"""CFG++ with any solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..sampling.rule import Point, Rule
from . import scales
from .arrays import Values
from .scales import Scale
from .step_factors import exact_factor, step_factors
from .windowed import Windowed


@dataclass(frozen=True, repr=False)
class CFGpp(Windowed):
    """CFG++ (Chung et al. 2025, "CFG++: manifold-constrained classifier-free guidance for diffusion models",
    Algorithm 2): only the predicted data is guided, and the noise that is added back is the unconditional one:

        D_g = D_u + lam (D_c - D_u),   DDIM:  x' = alpha' D_g + sigma' eps_u

    In steps of log-SNR h that is DDIM with plain guidance at the scale lam / (1 - exp(-h)), and so it is done: the
    scale of each evaluation follows from the plan. For solvers that evaluate the model once a step, of any order and
    with noise or without,

        x' = row(D_u) + alpha' lam (D_c - D_u)

    and their history is of D_u. For those with stages or a corrector it is plain guidance at lam alpha' / W, where W is
    the weight of a constant x0 in the whole step; at first order the two are the same.

    lam: in [0, 1], a number or [B] numbers, or a function of the point; 0.6 in the paper. Usual scales of plain
        guidance are not meant: with DDIM in 50 steps, 0.6 is about 7.5. interval: as for `CFG`.
    Raises ValueError naming the argument; also where nothing says what comes after a point, outside of a plan.
    """

    lam: Scale = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "lam", scales.scale_field("lam", self.lam))
        if not callable(self.lam):
            _check(self.lam)  # type: ignore[arg-type]

    def inside(self, point: Point) -> Rule:
        """What is done at a point of the interval."""
        lam = np.asarray(_check(scales.at(self.lam, point)))
        if point.plan is not None:
            factors = step_factors(point.plan)
            scale = lam * factors.of_row[point.i]
            if factors.single:
                return _pushes_uncond(scale)
        elif point.after is not None:
            scale = lam * exact_factor((point.alpha, point.sigma), point.after)
        else:
            raise ValueError("guidance: CFG++ needs to know the noise level after each evaluation, or the plan")
        return Rule((0, 1), scale=scale if scale.ndim else float(scale))

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where there is not one number for each sample."""
        scales.check_batch("lam", self.lam, shape[0])


def _check(lam: Values) -> Values:
    if not ((np.asarray(lam) >= 0) & (np.asarray(lam) <= 1)).all():
        raise ValueError(
            f"lam: expected numbers in [0, 1], got {lam}; CFG++ interpolates, and is not given the scale of plain"
            " guidance: 0.2, 0.6 and 1 are about its 2, 7.5 and 12.5"
        )
    return lam


def _pushes_uncond(scale: np.ndarray) -> Rule:
    """y = u + g (c - u) for this row, u for the history."""
    weights = np.zeros((*scale.shape, 2, 6))
    weights[..., 0, 0], weights[..., 1] = scale, 1.0
    return Rule((0, 1), weights=weights)
