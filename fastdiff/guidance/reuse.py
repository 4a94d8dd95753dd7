"""Guidance that makes the unconditional call at some evaluations only and extrapolates from them to the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..sampling.reuse import reusing
from ..sampling.rule import Point, Rule
from . import scales
from .arrays import Values
from .scaled import Scaled
from .scales import check_number
from .windowed import within


@dataclass(frozen=True, repr=False)
class ReuseUncond(Scaled):
    """CFG with an unconditional output that is predicted from earlier ones:

        y = c + (1 - g) (u - c),   u = b_0 c + sum_k b_k P_k

    from what is kept of the latest unconditional calls: the differences P_k = u - c, or the outputs P_k = u. The calls
    are made at each `every`-th of the guided evaluations, the first of them included. By default P is extrapolated by
    the polynomial in the angle atan(sigma / alpha) through the latest order + 1 of them; b_0 is 1 for differences and 0
    for outputs. `ReuseUncond.fit` finds the b by least squares, which for outputs is how LinearAG predicts u (Castillo
    et al. 2025, "Adaptive guidance: training-free acceleration of conditional diffusion models").

    scale: g. every: 1 makes all calls. order: 0, 1 or 2; lower where fewer calls have been made. Orders above 0 need
        small steps. of: "difference" or "output"; differences change less.
    coefficients: for each evaluation (b_0, b_1, ...) in place of the polynomial's, at most three after b_0; empty where
        the call is made.
    interval: as for `CFG`. It needs a plan, which says where the calls are made. Raises ValueError naming the argument.
    """

    every: int = 2
    order: int = 0
    of: str = "difference"
    coefficients: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_number("every", self.every, 1.0) % 1:
            raise ValueError(f"every: expected a whole number, got {self.every}")
        if self.order not in (0, 1, 2):
            raise ValueError(f"order: expected 0, 1 or 2, got {self.order}")
        if self.of not in ("difference", "output"):
            raise ValueError(f"of: expected 'difference' or 'output', got {self.of!r}")
        if self.rescale:
            raise ValueError(f"rescale: ReuseUncond has none, got {self.rescale}")
        if self.coefficients is not None:
            rows = tuple(tuple(float(b) for b in row) for row in self.coefficients)
            if any(len(row) == 1 or len(row) > 4 or not all(map(math.isfinite, row)) for row in rows):
                raise ValueError(f"coefficients: expected two to four finite numbers a row, or none, got {rows}")
            object.__setattr__(self, "coefficients", rows)

    @property
    def keeps_uncond(self) -> int:
        """As many as u is made of."""
        if self.coefficients is None:
            return self.order + 1
        return max((len(row) - 1 for row in self.coefficients), default=0)

    @property
    def keeps_difference(self) -> bool:
        """Whether differences are kept."""
        return self.of == "difference"

    def guided(self, point: Point, scale: Values) -> Rule:
        """The rule: CFG where the call is made, constant weights elsewhere."""
        g = np.asarray(scale)
        called = self._called_before(point)
        if self.coefficients is not None and len(self.coefficients) != point.n:
            raise ValueError(f"coefficients: expected {point.n} rows, one for each evaluation, got {self.coefficients}")
        if called is None:
            return Rule((0, 1), scale=g if g.ndim else float(g))
        b = self._extrapolation(point, called) if self.coefficients is None else self.coefficients[point.i]
        if not b or len(b) - 1 > len(called):
            raise ValueError(f"coefficients: those of evaluation {point.i} do not fit {len(called)} calls before it")
        return reusing(g, b)

    def _called_before(self, point: Point) -> list[int] | None:
        """The evaluations that made the call before this one, newest first; None if this one makes it."""
        if point.plan is None:
            raise ValueError("guidance: ReuseUncond needs the plan, which says where the calls are made")
        before = [Point.of(point.plan, i) for i in range(point.i)] if self.every > 1 else []
        guided = [p.i for p in before if within(self.interval, p) and not scales.is_one(scales.at(self.scale, p))]
        if len(guided) % self.every == 0:
            return None
        return guided[:: self.every][::-1]

    def _extrapolation(self, point: Point, called: Sequence[int]) -> list[float]:
        """(b_0, b_1, b_2, ...), from the Lagrange polynomials of the latest calls' angles at this one's."""
        assert point.plan is not None
        rows = [point.plan.rows[i] for i in called[: self.order + 1]]
        angles = [math.atan2(row.sigma, row.alpha) for row in rows]
        # Of calls at the same noise level the latest counts.
        nodes = [k for k, angle in enumerate(angles) if angle not in angles[:k]]
        here, b = math.atan2(point.sigma, point.alpha), [0.0] * (len(angles) + 1)
        b[0] = float(self.keeps_difference)
        for k in nodes:
            others = [angles[j] for j in nodes if j != k]
            b[k + 1] = math.prod((here - other) / (angles[k] - other) for other in others)
        return b

    @classmethod
    def fit(
        cls,
        scale: float | Sequence[float],
        conds: Sequence[Tensor],
        unconds: Sequence[Tensor],
        *,
        every: int = 2,
        order: int = 1,
        of: str = "difference",
    ) -> ReuseUncond:
        """The guidance whose coefficients predict recorded outputs best, in the sense of least squares.

        conds, unconds: the outputs c and u [B, ...] of every evaluation of runs with the same plan and full guidance.
        """
        if len(conds) != len(unconds) or not len(conds):
            raise ValueError(f"unconds: expected one for each of the {len(conds)} conds, got {len(unconds)}")
        rows: list[tuple[float, ...]] = []
        for i, (c, u) in enumerate(zip(conds, unconds, strict=True)):
            if i % every == 0:
                rows.append(())
                continue
            places = range(i - i % every, -1, -every)[: order + 1]
            past = [unconds[j] - conds[j] if of == "difference" else unconds[j] for j in places]
            known = torch.stack([m.detach().double().flatten().cpu() for m in (c, *past)], dim=1)
            found = torch.linalg.lstsq(known, u.detach().double().flatten().cpu()[:, None], driver="gelsd").solution
            rows.append(tuple(found.flatten().tolist()))
        return cls(scale, every, order, of, tuple(rows))
