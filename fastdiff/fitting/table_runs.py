"""Runs of many tables at once, which begin where the tables begin to differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .gaussian import GaussianStart
from .references import distances
from .space import PlanSpace
from .target import FitTarget
from .unroll import unroll


class TableRuns:
    """The samples at `places` [S] by plans of one space. A call takes numbers p and gives samples and distances each.

    Every sample of a model call has its own table, so the model sees full batches however few the samples are.
    """

    def __init__(
        self, target: FitTarget, space: PlanSpace, goal: Tensor, places: Tensor, head: GaussianStart | None
    ) -> None:
        self.target, self.space, self.goal, self.places, self.head = target, space, goal, places, head

    @torch.no_grad()
    def __call__(self, numbers: Sequence[np.ndarray]) -> list[tuple[Tensor, np.ndarray]]:
        count = len(self.places)
        tables = torch.from_numpy(np.stack([self.space.table(p) for p in numbers])).to(self.goal.device)
        active = (tables != 0).any(0).cpu().numpy()[:, :-1]
        which = torch.arange(len(numbers)).repeat_interleave(count)
        places = self.places.repeat(len(numbers))
        drawn = []
        for part in torch.arange(len(places)).split(self.target.batch):
            here = places[part]
            x = self.target.started(self.space.plan, here, self.head).double()

            def evaluate(given: Tensor, t: Tensor, here: Tensor = here) -> tuple[Tensor, None]:
                self.target.budget.check()
                return self.target.output(given, t, here).double(), None

            drawn.append(unroll(self.space.plan, tables[which[part]], active, x, evaluate))
        found = []
        for x in torch.cat(drawn).split(count):
            each = distances(x, self.goal).cpu().numpy()
            found.append((x, np.nan_to_num(each, nan=np.inf)))
        return found
