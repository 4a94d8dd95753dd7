"""Samples that run through rows of one pattern of full and cheap calls."""

from __future__ import annotations

from torch import Tensor

from ..sampling.partial import Here, RowCalls
from .target import FitTarget


class PartialRun:
    """The model for the samples at `part` [n], which stay together from the first row to the last.

    What their full calls keep is theirs alone, and each process keeps that of its own share. alone: every process
    calls the model for all of them.
    """

    def __init__(self, target: FitTarget, part: Tensor, alone: bool = False) -> None:
        self.target, self.part, self.alone = target, part, alone
        self._calls = RowCalls(target.model)
        self._evaluate = target.evaluator(self._own(part), self._calls)

    def output(self, x: Tensor, t: Tensor, here: Here) -> Tensor:
        """[n, ...] the output at a row, guided where it is, for x [n, ...] and t [n]; here.log_snr: [n]."""
        target, log_snr = self.target, here.log_snr
        assert isinstance(log_snr, Tensor)
        # One number serves models that make other batches of their samples.
        same = bool((log_snr == log_snr[0]).all())
        place = here._replace(log_snr=float(log_snr[0]) if same else self._own(log_snr))
        self._calls.here = lambda: place
        target.spend(self.part, target.cheap if here.call == "cheap" else 1.0)
        m = self._evaluate(self._own(x).to(target.noise.dtype), self._own(t).to(target.noise))
        return m if self.alone else target.ranks.whole(m, len(self.part))

    def _own(self, rows: Tensor) -> Tensor:
        return rows if self.alone else self.target.ranks.share(rows)
