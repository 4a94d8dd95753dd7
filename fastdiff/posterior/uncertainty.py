"""Ensemble: what many members say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import checks
from .marginals import Counted, Kept, over
from .running import Running
from .scores import Scores, scores


@dataclass(frozen=True, eq=False)
class Ensemble:
    """n members for each of G observations, as `fastdiff.ensemble` draws them.

    mean, spread: [G, ...] over members; the spread is the standard deviation, over n - 1. seeds: [G, n]; a member alone
    is `fastdiff.sample` from `fastdiff.noise.randn` of its seed. members: [G, n, ...], or None where not all were kept.
    weights: [G, n] of particles, of mean 1; None where members weigh the same. misfit: [G, n] chi-square of each
    member's residuals per measurement, about 1 where it fits its observation; None without one.
    """

    mean: Tensor
    spread: Tensor
    seeds: Tensor
    members: Tensor | None
    weights: Tensor | None
    misfit: Tensor | None
    _running: Running
    _marginals: Kept | Counted

    def __repr__(self) -> str:
        count, n = self.seeds.shape
        return f"<Ensemble of {n} members of shape {list(self.mean.shape[1:])}, {count} of them>"

    def quantile(self, q: float | Sequence[float] | Tensor) -> Tensor:
        """[G, ...] the value below which a member lies with probability q; [Q, G, ...] for several q.

        That of `torch.quantile` where all members are kept. Otherwise it is no farther from it than the two kept
        members that enclose both, of which the weight below is exact: of k kept, 1 / (k + 1) of all members lie between
        two in the mean. Raises ValueError for q outside of [0, 1].
        """
        levels = torch.as_tensor(q, dtype=torch.float64, device=self.mean.device)
        if levels.ndim > 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"q: expected numbers in [0, 1], got {q!r}")
        found = over(self._marginals, lambda points: points.quantile(levels.reshape(-1)))  # [G, D, Q]
        maps = found.movedim(2, 0).reshape(-1, *self.mean.shape).to(self.mean.dtype)
        return maps if levels.ndim else maps[0]

    def below(self, truth: Tensor) -> Tensor:
        """[G, ...] the share of the kept members that lie below the truth [G, ...]; half of those equal to it count.

        Over the elements of a calibrated ensemble it is uniform: near 0 or 1 too often, and the spread is too small.
        Raises TypeError or ValueError naming the argument.
        """
        self._check(truth)
        found = over(self._marginals, lambda points, y: points.below(y), truth.to(self.mean.device))
        return found.view(truth.shape).to(self.mean.dtype)

    def scores(self, truth: Tensor, levels: Sequence[float] = (0.5, 0.9)) -> Scores:
        """CRPS, ranks, spread-skill ratio, and coverage of central intervals at these levels.

        truth: [G, ...]. CRPS and ranks are those of the kept members. Needs scoringrules, which
        `pip install 'fastdiff[ensemble]'` brings. Raises TypeError or ValueError naming the argument.
        """
        self._check(truth)
        if self.seeds.shape[1] < 2 or self._marginals.count < 2:
            raise ValueError(f"members: scores need two at least, {self._marginals.count} are kept")
        for level in levels:
            if not 0 < level < 1:
                raise ValueError(f"levels: expected numbers in (0, 1), got {level}")
        return scores(self._marginals, self._running, truth.to(self.mean.device), levels)

    def _check(self, truth: Tensor) -> None:
        checks.require_float("truth", truth)
        checks.require_shape("truth", truth, tuple(self.mean.shape))
        if not truth.isfinite().all():
            raise ValueError("truth: expected finite numbers")
