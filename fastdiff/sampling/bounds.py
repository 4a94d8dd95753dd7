"""Bounds on x0 in a run: a clamp or a dynamic threshold, applied in the row's own launch or in one before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..ops import dynamic_threshold
from ..ops.reference import converted_output
from ..plans.plan import Plan
from .program import next_c_in
from .sharded import Sharded
from .weights import COMBINING, Weighted


class Bounds:
    """Bounds the x0 that each row of a plan sees, by clamp, threshold or both.

    clamp: the bound on |x0|. threshold: (ratio, limit) of dynamic thresholding (Saharia et al. 2022, section 2.3).
    guidance: one scale for all samples, or [rows]. step: the backend that runs a row. shard: what part of the samples
    x is.

    table: the plan's rows; some read the bounded x0 instead of the model's output (`fastdiff.plans.limits`).
    """

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        clamp: float | None,
        threshold: tuple[float, float] | None,
        guidance: float | np.ndarray | None,
        step: Callable,
        shard: Sharded | None = None,
    ) -> None:
        data_form = np.array([row.form == "data" for row in plan.rows])
        self.table, self._to_x0 = next_c_in(plan.limited.reading), plan.limited.making.copy()
        if clamp is not None:
            self.table["clamp"][data_form] = clamp
            self._to_x0["clamp"] = clamp
        if guidance is not None:
            self.table["guidance"] = self._to_x0["guidance"] = guidance
        self._splits = plan.limited.splits
        self._bounded = (data_form | np.array(self._splits)).tolist()
        self._threshold, self._step = threshold, step
        self._quantile = dynamic_threshold if shard is None else shard.dynamic_threshold
        self._x0 = torch.empty_like(x) if any(self._splits) else None  # no step allocates memory
        self._y: Tensor | None = None

    def apply(
        self,
        i: int,
        x: Tensor,
        m: Tensor,
        m_uncond: Tensor | None,
        guidance: Tensor | None,
        weighted: Weighted | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Weighted | None]:
        """What row i reads: (m, m_uncond, threshold [B], weighted), or (bounded x0, None, None, None).

        Raises ValueError where the history gets another output than the step and the row cannot bound both.
        """
        y, y_uncond = m, m_uncond
        if weighted is not None:
            y, y_uncond = self._combined(x, m, m_uncond, weighted), None
            if weighted.pushes:
                if self._splits[i]:
                    raise ValueError(f"guidance: with a bound on x0 it needs a plan in data form, row {i} is not")
            else:
                m, m_uncond, weighted = y, None, None
        if self._splits[i]:
            return self.x0(i, x, m, m_uncond, guidance), None, None, None
        return m, m_uncond, self._limit(i, x, y, y_uncond, guidance), weighted

    def x0(self, i: int, x: Tensor, m: Tensor, m_uncond: Tensor | None, guidance: Tensor | None) -> Tensor:
        """[B, ...] the bounded x0 of row i, in a launch of its own. It is overwritten by the next one."""
        if self._x0 is None:
            self._x0 = torch.empty_like(x)
        limit = self._limit(i, x, m, m_uncond, guidance)
        scale = None if m_uncond is None else guidance
        self._step(self._to_x0, i, x, x, m, m_uncond, [], scale, limit, None, self._x0, None, None, None)
        return self._x0

    def bounds(self, i: int) -> bool:
        """Whether row i sees a bounded x0. At sigma = 0 rows of other forms see x itself."""
        return self._bounded[i]

    def _limit(self, i: int, x: Tensor, m: Tensor, m_uncond: Tensor | None, guidance: Tensor | None) -> Tensor | None:
        """[B] by which the row's x0 is clamped and divided; None without a dynamic threshold."""
        if self._threshold is None or not self._bounded[i]:
            return None
        ratio, most = self._threshold
        prediction = converted_output(self._to_x0[i], x, m, m_uncond, guidance)
        return self._quantile(prediction, ratio=ratio, limit=most)

    def _combined(self, x: Tensor, m: Tensor, m_uncond: Tensor | None, weighted: Weighted) -> Tensor:
        """The weighted output y, in a buffer of its own; the next state is written where there is one."""
        if self._y is None:
            self._y = torch.empty_like(x)
        self._step(COMBINING, 0, x, x, m, m_uncond, [], None, None, None, self._y, None, None, None, *weighted)
        return self._y
