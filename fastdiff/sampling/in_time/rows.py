"""Rows run in order on outputs that are there already: the triangular update, in the bits of the run row after row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import registry
from ...plans.plan import Plan
from ..bounds import Bounds
from ..program import program_of, with_guidance
from ..registers import Registers, advance


class Outputs(NamedTuple):
    """The model's outputs for a row, each [B, ...]; m_uncond is None without guidance."""

    m: Tensor
    m_uncond: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """Both, changed."""
        return Outputs(change(self.m), None if self.m_uncond is None else change(self.m_uncond))

    def with_some(self, places: Tensor, some: Outputs) -> Outputs:
        """Both, with those of the samples at some places anew."""
        m, m_uncond = self
        if m_uncond is not None and some.m_uncond is not None:
            m_uncond = m_uncond.index_copy(0, places, some.m_uncond)
        return Outputs(m.index_copy(0, places, some.m), m_uncond)


class Rows:
    """The rows of a plan as functions of registers and outputs, in fresh tensors, so that any can be run again.

    x: a state [B, ...], for its shape, dtype and device. guidance: a number or [B], None without. seeds: [B] or None.
    clamp, threshold (ratio, limit): bounds on x0.
    """

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        guidance: float | Tensor | None,
        seeds: Tensor | None,
        clamp: float | None,
        threshold: tuple[float, float] | None,
    ) -> None:
        self._asked = plan, guidance, seeds, clamp, threshold
        program = program_of(plan)
        self.moves, self.table, self.seeds = program.moves, program.table, seeds
        self._step = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
        scale = None if isinstance(guidance, Tensor) else guidance
        self._guidance = guidance.to(x.device, torch.float64) if isinstance(guidance, Tensor) else None
        self._bounds: Bounds | None = None
        if clamp is not None or threshold is not None:
            self._bounds = Bounds(plan, x, clamp, threshold, scale, self._step)
            self.table = self._bounds.table
        elif scale is not None:
            self.table = with_guidance(self.table, scale)

    def only(self, samples: Tensor, x: Tensor) -> Rows:
        """Those of some of the samples, places in the batch; x: their state."""
        plan, guidance, seeds, clamp, threshold = self._asked
        if isinstance(guidance, Tensor):
            guidance = guidance.to(samples.device)[samples]
        return Rows(plan, x, guidance, None if seeds is None else seeds[samples], clamp, threshold)

    def run(self, i: int, registers: Registers[Tensor], outputs: Outputs) -> Registers[Tensor]:
        """The registers after row i. The given ones do not change."""
        move = self.moves[i]

        def step(x: Tensor, base: Tensor, history: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None, Tensor]:
            limit, (m, m_uncond) = None, outputs
            if self._bounds is not None:
                m, m_uncond, limit, _ = self._bounds.apply(i, x, m, m_uncond, self._guidance, None)
            new, d = torch.empty_like(x), torch.empty_like(x)
            new_base = torch.empty_like(x) if move.base == "write" else None
            scales = None if m_uncond is None else self._guidance
            self._step(
                self.table, i, x, base, m, m_uncond, list(history), scales, limit, self.seeds, new, new_base, d, None
            )  # fmt: skip
            return new, new_base, d

        return advance(registers, move, step)
