"""A run that torch can differentiate with respect to the table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..plans.plan import Plan
from ..plans.table import MAX_HISTORY
from ..sampling.registers import Registers, advance, moves_of
from .space import OFFSET

Evaluate = Callable[[Tensor, Tensor], Tensor]  # (what the model reads, t [B]) -> m


def unroll(
    plan: Plan,
    table: Tensor,
    active: np.ndarray,
    x: Tensor,
    evaluate: Evaluate,
    save_memory: bool = False,
) -> Tensor:
    """The x0 [B, ...] of the run from x with each sample's own table [B, rows, WIDTH + 1].

    plan: says which registers move. active: [rows, WIDTH] bool, the weights that are read. save_memory: keep only the
    states between the steps, and run the model again on the way back.
    """
    shape = (-1,) + (1,) * (x.ndim - 1)

    def number(i: int, place: int) -> Tensor:
        return table[:, i, place].to(x.dtype).view(shape)

    def line(i: int, name: str, base: Tensor, x: Tensor, history: tuple[Tensor, ...]) -> Tensor:
        terms = [(OFFSET[f"{name}_base"], base), (OFFSET[f"{name}_x"], x)]
        terms += [(OFFSET[name.upper()] + k, h) for k, h in enumerate(history[:MAX_HISTORY])]
        weighted = (number(i, place) * value for place, value in terms if active[i, place])
        return sum(weighted, x.new_zeros(()))

    def step(
        i: int, writes_base: bool, m: Tensor, x: Tensor, base: Tensor, history: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        d = number(i, OFFSET["p_x"]) * x + number(i, OFFSET["p_m"]) * m.to(x.dtype)
        outputs = (d, *history)
        return line(i, "a", base, x, outputs), line(i, "b", base, x, outputs) if writes_base else None, d

    registers = Registers(x, x)
    for i, moves in enumerate(moves_of(plan.rows, keeps=MAX_HISTORY)):
        moves = moves._replace(reads=MAX_HISTORY)  # the table may read outputs that the plan's rows do not
        given, t = number(i, OFFSET["c_in"]) * registers.x, table[:, i, -1].to(x.dtype)
        m = checkpoint(evaluate, given, t, use_reentrant=False) if save_memory else evaluate(given, t)
        registers = advance(registers, moves, partial(step, i, moves.base == "write", m))
    return registers.x
