"""What guidance does at one model evaluation: which calls are made, and how their outputs become one.

With the outputs m, u, m_2 and m_3 of up to four calls, the point x and a state s that the method keeps:

    y = w_c (m - u) + w_u u + w_2 (m_2 - u) + w_3 (m_3 - u) + w_x x + w_s s

Differences are taken before they are weighted, since m is close to u late in a run. Where there is no u it counts as 0.
The weights are numbers, or follow from inner products of such combinations (`fastdiff.ops.gram`), sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.prediction import convert
from ..plans.row import Row

COLUMNS = ("m", "uncond", "second", "third", "x", "state")
"""What a weight multiplies, in the order of a weight's last dimension; all but uncond, x and state less uncond."""

Array = Any  # a NumPy array on the CPU, a torch tensor on another device
Call = Mapping[str, object] | Callable[..., Tensor]
"""A further evaluation: other keyword arguments for the same model, or another model(x, t, **kwargs)."""
See = Callable[[Mapping[int, Tensor], "float | Tensor | None"], None]
"""What watches the model's outputs: given those of each call of a row, by its number in `Rule.calls`, before the row is
run; and what they are weighted with: the scale of plain guidance, a number or [B]; the weights [B, S, 6]; or None."""


class Point(NamedTuple):
    """Where the model is evaluated: x = alpha x0 + sigma eps.

    i, n: the number of this evaluation and of all. t: the model's time. prediction: what the model returns, as for
    `fastdiff.plan`. row: the plan's row, None outside of a plan. after: (alpha, sigma) of the x that the row makes.
    plan: the plan itself, None outside of one.
    """

    i: int
    n: int
    t: float
    alpha: float
    sigma: float
    prediction: str
    row: Row | None = None
    after: tuple[float, float] | None = None
    plan: Plan | None = None

    @classmethod
    def of(cls, plan: Plan, i: int) -> Point:
        """The point of a plan's row i."""
        row, after = plan.rows[i], plan.point_after(i)
        return cls(i, plan.nfe, row.t, row.alpha, row.sigma, plan.prediction, row, after, plan)

    @property
    def to_x0(self) -> tuple[float, float]:
        """(p_x, p_m) of x0 = p_x x + p_m m. Raises ValueError where m leaves x0 undetermined."""
        return convert(self.prediction, "data", self.alpha, self.sigma)

    @property
    def ratio(self) -> float:
        """sigma / alpha, the noise level of EDM; infinite where alpha is 0."""
        return self.sigma / self.alpha if self.alpha else float("inf")


@dataclass(frozen=True)
class Rule:
    """What guidance does at one point. At most one of scale, weights, formula and combine is given; none means y = m.

    calls: which calls give m, u, m_2 and m_3, None for one that is absent: 0 is the conditional call, 1 the
        unconditional one, 2 and up the guidance's `extra`. Empty where no output has weight:
        the model is not called then.
    scale: y = u + scale (m - u), a number or [B].
    weights: [S, 6] or [B, S, 6] float64, in the order of COLUMNS. S = 1; or 2, where the second set makes the output
        that goes into the history; or 3, where the second is the first again and the third makes the next state.
    basis: [n, 6], n <= 4, the combinations v_i = sum_j basis_ij (m, u, m_2, m_3, x, s)_j that `formula` knows of.
    formula: of the Gram matrix [B, n + 1, n + 1], float64, of v_0 ... v_(n-1) and the constant 1, the weights
        [B, S, 6].
    combine: (x, outputs in the order of `calls`) -> y, for what is no weighted sum.
    past: how many earlier outputs u, or what is kept of them, stand in the places of u, m_2 and m_3, newest first.
    stop: of the Gram matrix, whether guidance ends here: y = m from the next evaluation on. The host waits for it.
    """

    calls: tuple[int | None, ...] = (0,)
    scale: float | np.ndarray | None = None
    weights: np.ndarray | None = None
    basis: np.ndarray | None = None
    formula: Callable[[Array], Array] | None = None
    combine: Callable[[Tensor, Sequence[Tensor]], Tensor] | None = None
    past: int = 0
    stop: Callable[[Array], bool] | None = None

    @cached_property
    def basis_tensor(self) -> Tensor:
        """The basis as `fastdiff.ops.gram` reads it."""
        return torch.tensor(self.basis, dtype=torch.float64)

    @property
    def number(self) -> float | None:
        """The scale where the rule is plain guidance with one number for all samples, 1 where y = m; else None."""
        if self.weights is not None or self.formula is not None or self.combine is not None:
            return None
        if self.scale is None:
            return 1.0
        return None if isinstance(self.scale, np.ndarray) else float(self.scale)


class Guidance:
    """Base of `fastdiff.guidance`: frozen values that say what is done with the outputs of several calls.

    extra: the calls beyond the conditional and the unconditional one. needs_uncond: whether `uncond` must be given.
    stateful: whether a state [B, ...] is kept from evaluation to evaluation; it begins as 0. keeps_uncond: how many
    earlier unconditional outputs its rules read, see `Rule.past`. keeps_difference: u - c is kept instead of u.
    """

    @property
    def extra(self) -> tuple[Call, ...]:
        return ()

    @property
    def needs_uncond(self) -> bool:
        return True

    @property
    def stateful(self) -> bool:
        return False

    @property
    def keeps_uncond(self) -> int:
        return 0

    @property
    def keeps_difference(self) -> bool:
        return False

    def rule(self, point: Point) -> Rule:
        """What is done at a point; here nothing, y = m."""
        return Rule()

    def by_position(self, dim: int, ndim: int) -> bool:
        """Whether `Rule.combine`, for samples of so many dimensions, reads no other position along dim than it writes.

        Then samples may be sharded along it.
        """
        return False

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where the numbers do not fit samples of shape [B, ...]."""
