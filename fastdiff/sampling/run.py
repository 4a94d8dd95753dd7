"""The state of one run: two registers, the history, and the next row. A value: two runs share nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..ops import dynamic_threshold, registry
from ..ops.layout import empty_input
from ..ops.reference import converted_output
from ..plans.plan import Plan
from ..plans.prediction import convert


class Run:
    """Applies the rows of a plan, one a call, to its own buffers; after the first steps it allocates nothing.

    x: [B, ...], the point where the model is evaluated next. base: the last accepted state, often x itself.
    history: H_0, H_1, ... newest first. model_input: c_in x in the model's dtype, twice over under batched guidance; in
    the tensor given for it, or x itself where that is the same. step: the backend that runs a row.
    """

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        *,
        model_dtype: torch.dtype,
        copies: int = 1,
        guidance: float | Tensor | None = None,
        seeds: Tensor | None = None,
        clamp: float | None = None,
        threshold: tuple[float, float] | None = None,
        model_input: Tensor | None = None,
    ) -> None:
        self.plan = plan
        bounded = clamp is not None or threshold is not None
        self.table = _with_options(plan.limited.reading if bounded else plan.table, guidance)
        self._splits = plan.limited.splits if bounded else (False,) * plan.nfe
        self._making = _with_options(plan.limited.making, guidance) if bounded else None
        if clamp is not None:
            self.table["clamp"] = [clamp if row.form == "data" else np.inf for row in plan.rows]
            self._making["clamp"] = clamp
        self.x = self.base = x
        self.history: list[Tensor] = []
        self.i = 0
        self._seeds, self._threshold = seeds, threshold
        scales = isinstance(guidance, Tensor)
        self._guidance = guidance.to(x.device, torch.float64, non_blocking=True) if scales else None
        self._slots = [x]
        self._x0 = torch.empty_like(x) if any(self._splits) else None
        self._spare = [torch.empty_like(x) for _ in range(plan.depth)]  # buffers for the history
        self._moves = [row.base_move for row in plan.rows]
        self._input = model_input
        if model_input is None and (copies > 1 or model_dtype != x.dtype or any(row.c_in != 1 for row in plan.rows)):
            self._input = empty_input(x, copies, model_dtype)
        self.refresh_input()
        self.step = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))

    @property
    def model_input(self) -> Tensor:
        """What the model reads next: [copies * B, ...]."""
        return self.x if self._input is None else self._input

    def refresh_input(self) -> None:
        """Make model_input anew from x, after x was changed from outside."""
        if self._input is not None:
            scaled = self.x * self.plan.rows[min(self.i, self.plan.nfe - 1)].c_in
            for copy in self._input.split(max(len(self.x), 1)):
                copy.copy_(scaled)

    def advance(self, m: Tensor, m_uncond: Tensor | None = None, noises: Sequence[Tensor] = ()) -> None:
        """Apply row i to the model's output there, [B, ...]; i grows by one.

        noises: the row's noises in the order of their indices, each [B, ...]; drawn from the seeds where not given.
        """
        move, x, base = self._moves[self.i], self.x, self.base
        out_x = self._free_slot(x, base)
        out_base = self._free_slot(x, base, out_x) if move == "write" else None
        out_d = self._spare.pop() if self._spare else self.history.pop()
        history = self.history
        limit = None if self._threshold is None else self._limit(m, m_uncond)
        if self._splits[self.i]:
            m, m_uncond, limit = self._limited(m, m_uncond, limit), None, None
        if noises:
            _take_as_history(self.table[self.i], 1 + len(history), len(noises))
            history = [*history, *noises]
        self.step(
            self.table, self.i, x, base, m, m_uncond, history, self._guidance if m_uncond is not None else None,
            limit, self._seeds, out_x, out_base, out_d, self._input,
        )  # fmt: skip
        self.history.insert(0, out_d)
        self._newest = out_d
        for k in sorted(self.plan.rows[self.i].drop_history, reverse=True):
            self._spare.append(self.history.pop(k))
        self.x = out_x
        if move == "next":
            self.base = out_x
        elif move == "here":
            self.base = x
        elif move == "write":
            self.base = out_base
        self.i += 1

    def data_prediction(self, x_before: Tensor) -> Tensor:
        """x0 as row i - 1 saw it: the newest output, converted to data form where need be."""
        row, d = self.plan.rows[self.i - 1], self._newest
        if row.form == "data":
            return d
        if row.p_m == 0:
            raise ValueError(f"x0: row {self.i - 1} of the plan does not read the model, so nothing says what x0 is")
        p_x, p_m = convert(self.plan.prediction, "data", row.alpha, row.sigma)
        return p_x * x_before + p_m / row.p_m * (d - row.p_x * x_before)

    def _free_slot(self, *taken: Tensor | None) -> Tensor:
        for slot in self._slots:
            if all(slot is not other for other in taken):
                return slot
        self._slots.append(torch.empty_like(self.x))
        return self._slots[-1]

    def _limit(self, m: Tensor, m_uncond: Tensor | None) -> Tensor | None:
        """[B] the dynamic threshold of this row's x0; None where the row bounds none."""
        if not self._splits[self.i] and self.plan.rows[self.i].form != "data":
            return None
        ratio, limit = self._threshold
        prediction = converted_output(self._making[self.i], self.x, m, m_uncond, self._guidance)
        return dynamic_threshold(prediction, ratio=ratio, limit=limit)

    def _limited(self, m: Tensor, m_uncond: Tensor | None, limit: Tensor | None) -> Tensor:
        """[B, ...] this row's x0 within its bounds."""
        guidance = self._guidance if m_uncond is not None else None
        self.step(
            self._making, self.i, self.x, self.x, m, m_uncond, [], guidance, limit, None, self._x0, None, None, None
        )
        return self._x0


def _take_as_history(record: np.void, place: int, count: int) -> None:
    """Have the row read its noises as the outputs H_place, H_place + 1, ..."""
    for line, xi in (("A", "xi_a"), ("B", "xi_b")):
        record[line][place : place + count] = record[xi][:count]
        record[xi] = 0.0


def _with_options(table: np.ndarray, guidance: float | Tensor | None) -> np.ndarray:
    table = table.copy()
    if isinstance(guidance, (int, float)):
        table["guidance"] = guidance
    # The input written after row i is read at row i + 1.
    table["c_in"] = np.append(table["c_in"][1:], 1.0)
    return table
