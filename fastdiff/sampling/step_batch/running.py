"""A request that runs in a `StepBatch`: its slots, and what is done for it beside the common launch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..masked import keep_known
from ..program import program_of
from ..run import x0_of
from .bounds import OwnBounds, needs_launch
from .pool import IDLE, Entry, Pool
from .ticket import Asked


class Running:
    """A request in the slots of a pool. entry: its plan's rows in the table."""

    def __init__(self, entry: Entry, asked: Asked, pool: Pool, slots: list[int]) -> None:
        self.entry, self.asked, self.slots, self._pool = entry, asked, slots, pool
        self.plan = plan = entry.plan
        self._assigned = program_of(plan).apart
        self._places = np.array(slots)
        self.index = torch.tensor(slots).to(asked.start.device, non_blocking=True)
        self._bounds = OwnBounds(plan, asked) if needs_launch(plan, asked) else None
        pool.seed[self._places] = asked.seeds
        pool.buffers[0].index_copy_(0, self.index, asked.start)
        pool.write_input(self.index, asked.start, plan.rows[0].c_in)

    def write_numbers(self, i: int) -> None:
        """Tell the pool which row comes next, at what time and with what guidance."""
        pool, scales = self._pool, self.asked.scales
        pool.row[self._places] = self.entry.first + i
        pool.t[self._places] = self.plan.rows[i].t
        pool.scale[self._places] = np.nan if scales is None else scales[i]

    def leave(self) -> None:
        """Make its slots idle."""
        self._pool.row[self._places] = IDLE

    @property
    def has_launches(self) -> bool:
        """Whether `bound` does anything."""
        return self._bounds is not None

    def bound(self, i: int, m: Tensor, m_uncond: Tensor | None, scale: Tensor) -> None:
        """Put the bounded x0 of row i into m [B, ...], and take its slots out of guidance: scale [B] becomes NaN."""
        assert self._bounds is not None
        x = self._pool.read(self._assigned.states[i].x, self.index)
        x0 = self._bounds.replace(i, x, self.index, m, m_uncond)
        if x0 is not None:
            m.index_copy_(0, self.index, x0)
            scale.index_fill_(0, self.index, torch.nan)

    def keep_known(self, i: int) -> None:
        """After row i, put the known part of the image back where there is a mask."""
        asked, row, state = self.asked, self.plan.rows[i], self._assigned.states[i + 1]
        if asked.mask is None or asked.image is None or not row.accepts:
            return
        places = {state.base: (row.alpha, row.sigma), state.x: self.plan.point_after(i)}
        for buffer, point in places.items():
            x = self._pool.read(buffer, self.index)
            keep_known(x, point, asked.noise, asked.image, asked.mask)
            self._pool.buffers[buffer].index_copy_(0, self.index, x)
        if i + 1 < self.plan.nfe:
            x = self._pool.read(state.x, self.index)
            self._pool.write_input(self.index, x, self.plan.rows[i + 1].c_in)

    def x0(self, i: int) -> Tensor:
        """[n, ...] the data predicted by row i, the last one that was run."""
        call = self._assigned.calls[self._assigned.order[i]]
        d, x = (self._pool.read(buffer, self.index) for buffer in (call.d_out, call.x))
        return x0_of(self.plan, i, d, x).to(self.asked.noise.dtype)

    def result(self) -> Tensor:
        """[n, ...] the state after the last row."""
        return self._pool.read(self._assigned.states[-1].x, self.index).to(self.asked.noise.dtype)
