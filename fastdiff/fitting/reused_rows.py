"""Rows without an unconditional call, fitted: their u comes from earlier rows' by weights that the regression finds.

Such a row reads D = p_x x + p_m (c + (1 - g) sum_k b_k (u - c)_k). What is explained by the earlier differences in the
regression of x' goes into the b, through the weight that x' gives to D: so the history gets the same D.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from itertools import chain, zip_longest

import numpy as np
import torch
from torch import Tensor

from ..plans.row import MAX_UNCOND
from ..plans.table import MAX_HISTORY, OFFSET
from ..sampling.registers import advance
from .forward import Asked, Forward, Runner, Setting, Starts, Steps, combined, newton
from .regression import Choice, Solution
from .sources import Kept, ModelSource
from .target import FitTarget
from .trajectory import Trajectory

LEAST_SHARE = 0.1  # of the theory's weight on D; where the fitted one is less, it is not divided by


class ReuseForward(Forward):
    """Fits rows to trajectories under guidance, where settings say which of them make the unconditional call."""

    def __init__(self, target: FitTarget, trajectory: Trajectory, starts: Starts, folds: np.ndarray) -> None:
        places, guidance = torch.arange(len(trajectory)), target.guidance
        super().__init__(ModelSource(target, places), trajectory, starts, folds)
        assert guidance is not None  # as there is nothing to reuse without
        self._apart = [ModelSource(target, places, partial(target.outputs, uncond=uncond)) for uncond in (False, True)]
        self.away: float | Tensor = 1.0 - guidance
        if isinstance(self.away, Tensor):
            self.away = self.away[: len(places)].to(trajectory.end).double().view(-1, *[1] * (trajectory.end.ndim - 1))

    def runner(self, setting: Setting, crossed: bool, choices: Sequence[Choice] | None) -> Runner:
        return ReuseRunner(self, setting, crossed, choices)

    def outputs(self, running: Sequence[Runner], i: int, kept: Kept | None = None) -> list[Tensor]:
        """[1, S, ...] the conditional output of each; [2, S, ...] with u - c after it where the row makes the call."""
        found: dict[int, Tensor] = {}
        for uncond, source in enumerate(self._apart):
            here = [k for k, runner in enumerate(running) if runner.setting.calls[i] == uncond]
            outputs = source.outputs([running[k].ask(i) for k in here])
            for k, m in zip(here, outputs, strict=True):
                c, *u = m.transpose(0, 1)
                found[k] = torch.stack([c, *(other - c for other in u)])
        return [found[k] for k in range(len(running))]


class ReuseRunner(Runner):
    """One setting on its way through rows of both kinds."""

    owner: ReuseForward

    def __init__(self, owner: ReuseForward, setting: Setting, crossed: bool, choices: Sequence[Choice] | None) -> None:
        super().__init__(owner, setting, crossed, choices)
        # u - c of the latest calls, newest first, and the p_m of their rows.
        self._kept: list[tuple[Tensor, float]] = []

    def step(self, i: int, m: Tensor) -> Steps:
        """The row. m: as `ReuseForward.outputs` has it."""
        p_x, p_m = self.number(i, "p_x"), self.number(i, "p_m")
        if self.setting.calls[i]:
            self._kept = [(m[1], p_m or 1.0), *self._kept][:MAX_UNCOND]
            self.uncond.append(())
            yield from super().step(i, m[0] + self.owner.away * m[1])
        else:
            # They change least in the form of D.
            ratios = np.array([scale / (p_m or 1.0) for _, scale in self._kept])
            pairs = zip(ratios, self._kept, strict=True)
            earlier = [self.owner.away * p_m * float(ratio) * difference for ratio, (difference, _) in pairs]
            added = yield from self._reusing(i, p_x * self.registers.x + p_m * m[0] + earlier[0], earlier)
            self.uncond.append(tuple(((np.eye(len(ratios))[0] + added) * ratios).tolist()))

    def _reusing(self, i: int, d: Tensor, earlier: list[Tensor]) -> Generator[Asked, Solution, np.ndarray]:
        """A row without the call; [K] what is added to the weights of the earlier differences.

        d: D with the newest difference as it was. earlier: what each of them is in D.
        """
        row, (x, base, history) = self.plan.rows[i], self.registers
        terms = self.terms(i, "a", base, x, (d, *history)[:MAX_HISTORY], self.plan.point_after(i))
        basis = newton(0, len(earlier))
        features, own, further = _in_turn(terms.features, [combined(line, earlier) for line in basis])
        solution = yield from self.solved(features, terms.lacks)
        self.setting.space.add_weights(self.p, i, terms.weights(solution.b[own]))
        theory, place = self.number(i, "A"), terms.places.index(OFFSET["A"])

        def shares(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """For b [..., F]: the weight [..., 1] that x' gives to D, and what b adds to those in D [..., K]."""
            weight = theory + (b[..., own] @ terms.basis)[..., [place]]
            usable = np.abs(weight) > LEAST_SHARE * abs(theory)
            return weight, usable * (b[..., further] @ basis) / np.where(usable, weight, 1.0)

        def added(b: np.ndarray) -> Tensor:
            """[n, K, 1, ...] for b [n, F]."""
            return torch.from_numpy(b).to(x).view(*b.shape, *[1] * (x.ndim - 1))

        weight, share = map(added, shares(solution.apart if self.crossed else solution.b[None]))
        more = (share * torch.stack(earlier, dim=1)).sum(1)
        only = Solution(solution.b[own], solution.apart[:, own], solution.choice)
        new_x, new_base = terms.theory + self.explained(only, terms.features) + weight[:, 0] * more, None
        if row.base_move == "write":
            outputs = (d + more, *history)[:MAX_HISTORY]
            new_base = yield from self.line(i, "b", base, x, outputs, (row.alpha, row.sigma))
        self.registers = advance(self.registers, self.moves[i], lambda *_: (new_x, new_base, d + more))
        return shares(solution.b)[1]


def _in_turn(own: list[Tensor], added: list[Tensor]) -> tuple[list[Tensor], list[int], list[int]]:
    """(both kinds of features in turns, the places of the first kind, those of the second)."""
    pairs = [(0, f) for f in range(len(own))], [(1, f) for f in range(len(added))]
    order = [pair for pair in chain(*zip_longest(*pairs)) if pair is not None]
    features = [(own, added)[kind][f] for kind, f in order]
    places = [[k for k, (kind, _) in enumerate(order) if kind == which] for which in (0, 1)]
    return features, places[0], places[1]
