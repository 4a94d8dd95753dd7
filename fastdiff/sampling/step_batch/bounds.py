"""Bounds on x0 of requests in a `StepBatch`: in the table where they can be, else in a launch for each request."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops import registry
from ...plans.plan import Plan
from ..bounds import Bounds
from ..program import next_c_in, program_of
from .ticket import Asked


def needs_launch(plan: Plan, asked: Asked) -> bool:
    """Whether the bounds take more than a number in the table."""
    return asked.threshold is not None or (asked.clamp is not None and any(plan.limited.splits))


def table_for(plan: Plan, asked: Asked) -> tuple[Any, np.ndarray]:
    """(what the table depends on besides the plan, the rows of a request).

    Rows of requests whose bounds take a launch are given the bounded x0 in place of the model's output.
    """
    if asked.clamp is None and asked.threshold is None:
        return None, program_of(plan).table
    data_form = np.array([row.form == "data" for row in plan.rows])
    table = next_c_in(plan.limited.reading)
    if needs_launch(plan, asked):
        table["p_x"][data_form], table["p_m"][data_form] = 0.0, 1.0
        return "x0", table
    table["clamp"][data_form] = asked.clamp
    return asked.clamp, table


class OwnBounds:
    """The launches of one request."""

    def __init__(self, plan: Plan, asked: Asked) -> None:
        x, scales = asked.start, asked.scales
        step = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
        self._bounds = Bounds(plan, x, asked.clamp, asked.threshold, None, step)
        # [rows, n] on the device at once; a row makes the unconditional call for all samples or for none.
        self._scales = None if scales is None else torch.tensor(scales).to(x.device, non_blocking=True)
        self._guided = [False] * plan.nfe if scales is None else (~np.isnan(scales[:, :1]).any(1)).tolist()

    def replace(self, i: int, x: Tensor, index: Tensor, m: Tensor, m_uncond: Tensor | None) -> Tensor | None:
        """[n, ...] what row i is given in place of the outputs m, m_uncond [B, ...]; None for the outputs.

        x: [n, ...] of the slots index [n].
        """
        if not self._bounds.bounds(i):
            return None
        guided, outputs = self._guided[i], m.index_select(0, index)
        if not guided:
            return self._bounds.x0(i, x, outputs, None, None)
        assert m_uncond is not None
        assert self._scales is not None
        return self._bounds.x0(i, x, outputs, m_uncond.index_select(0, index), self._scales[i])
