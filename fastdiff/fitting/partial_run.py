"""Samples that run through rows of one pattern of full and cheap calls, and what a cheap call costs."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ..plans.plan import Plan
from ..sampling.partial import Here, RowCalls
from .target import FitTarget

REPEATS = 5  # of each call that is timed


class PartialRun:
    """The model for the samples at `part` [n], which stay together from the first row to the last.

    What their full calls keep is theirs alone, and each process keeps that of its own share.
    """

    def __init__(self, target: FitTarget, part: Tensor) -> None:
        self.target, self.part = target, part
        self._own = target.ranks.share
        self._calls = RowCalls(target.model)
        self._evaluate = target.evaluator(self._own(part), self._calls)

    def output(self, x: Tensor, t: Tensor, here: Here) -> Tensor:
        """[n, ...] the output at a row, guided where it is, for x [n, ...] and t [n]; here.log_snr: [n]."""
        target, log_snr = self.target, here.log_snr
        assert isinstance(log_snr, Tensor)
        self._calls.here = lambda: here._replace(log_snr=self._own(log_snr))
        target.spend(self.part, target.cheap if here.call == "cheap" else 1.0)
        m = self._evaluate(self._own(x).to(target.noise.dtype), self._own(t).to(target.noise))
        return target.ranks.whole(m, len(self.part))


@torch.no_grad()
def cheap_share(target: FitTarget, plan: Plan) -> float:
    """The time of a cheap call over that of a full one, the shortest of several of each.

    plan: says where, by its last row. Of several processes the slowest one counts.
    """
    part = torch.arange(min(target.together, len(target.noise)))
    run, best = PartialRun(target, part), {"full": float("inf"), "cheap": float("inf")}

    def seconds(i: int, call: str) -> float:
        row = plan.rows[i]
        t, log_snr = (torch.full((len(part),), value, dtype=torch.float64) for value in (row.t, row.log_snr))
        began = time.perf_counter()
        run.output(target.noise[part], t, Here(i, call, log_snr)).flatten()[:1].cpu()  # waits for the device
        return time.perf_counter() - began

    for i in range(plan.nfe):
        seconds(i, "full")
    for _ in range(REPEATS):
        best = {call: min(least, seconds(plan.nfe - 1, call)) for call, least in best.items()}
    return target.ranks.largest(best["cheap"] / best["full"])
