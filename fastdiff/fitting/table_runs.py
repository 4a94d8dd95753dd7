"""Runs of many tables at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..sampling.gaussian import GaussianStart
from .gauss_newton import Outcome
from .space import PlanSpace
from .target import FitTarget
from .trajectory import distances
from .unroll import unroll


class TableRuns:
    """The samples at `places` [S] by plans of one space, for `GaussNewton`; steps are computed from the `first` ones.

    Every sample of a model call has its own table, so the model sees full batches however few the samples are.
    """

    def __init__(
        self, target: FitTarget, space: PlanSpace, goal: Tensor, places: Tensor, first: int, head: GaussianStart | None
    ) -> None:
        self.target, self.space, self.goal, self.places, self.head = target, space, goal, places, head
        self.first = first

    def run(self, numbers: Sequence[np.ndarray]) -> list[Outcome]:
        found = []
        for x in self._samples(numbers, len(self.places)):
            each = distances(x, self.goal).cpu().numpy()
            found.append(Outcome(x, np.nan_to_num(each, nan=np.inf)))
        return found

    def near(self, numbers: Sequence[np.ndarray], here: Outcome) -> list[Tensor]:
        return self._samples(numbers, self.first)

    @torch.no_grad()
    def _samples(self, numbers: Sequence[np.ndarray], count: int) -> list[Tensor]:
        """[count, ...] of the first places, for each of the numbers."""
        tables = torch.from_numpy(np.stack([self.space.table(p) for p in numbers])).to(self.goal.device)
        active = (tables != 0).any(0).cpu().numpy()[:, :-1]
        which = torch.arange(len(numbers)).repeat_interleave(count)
        places = self.places[:count].repeat(len(numbers))
        drawn = []
        for part in torch.arange(len(places)).split(self.target.together):
            here = places[part]
            x = self.target.started(self.space.plan, here, self.head).double()

            def evaluate(given: Tensor, t: Tensor, here: Tensor = here) -> Tensor:
                self.target.budget.check()
                return self.target.output(given, t, here).double()

            drawn.append(unroll(self.space.plan, tables[which[part]], active, x, evaluate))
        return list(torch.cat(drawn).split(count))
