"""How well an ensemble forecasts what turned out to be true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .marginals import Counted, Kept, Points, over
from .running import Running


@dataclass(frozen=True)
class Scores:
    """Of members against the truth [G, ...]. Each is to be judged over many elements or cases.

    crps: [G, ...] the continuous ranked probability score E|X - y| - E|X - X'| / 2, in the data's unit; 0 is best. It
    is the fair estimate, whose mean does not depend on the number of members (Ferro 2014), from the kept members.
    rank: [G, ...] how many of the kept members lie below the truth, 0 to `kept`; half of those equal to it count.
    spread_skill: sqrt((n + 1) / n mean variance / mean squared error of the mean), 1 for a calibrated ensemble
    (Fortin et al. 2014); below 1 it is too narrow.
    coverage: the share of elements whose truth lies in the central interval of this level; for a calibrated ensemble
    it is the level itself, as far as n members reach: up to (n - 1) / (n + 1).
    """

    crps: Tensor
    rank: Tensor
    kept: int
    spread_skill: float
    coverage: dict[float, float]

    @property
    def rank_histogram(self) -> Tensor:
        """[kept + 1] elements by rank: flat for a calibrated ensemble, U-shaped for a narrow one (Hamill 2001)."""
        return torch.bincount(self.rank.flatten(), minlength=self.kept + 1)


def scores(marginals: Kept | Counted, running: Running, truth: Tensor, levels: Sequence[float]) -> Scores:
    """Of the truth [G, ...], in the marginals' shape."""
    kept = marginals.count
    rank = over(marginals, lambda points, y: points.below(y) * (kept + 1), truth)
    error = (running.mean - truth.double()).square().mean()
    n = running.size.view(running.total.shape)
    variance = (running.spread**2 * (n + 1) / n).mean()
    return Scores(
        crps=_crps(marginals, truth).view(truth.shape),
        rank=rank.long().clamp(max=kept).view(truth.shape),
        kept=kept,
        spread_skill=float((variance / error).sqrt()),
        coverage={level: _coverage(marginals, float(n.min()), truth, level) for level in levels},
    )


def _crps(marginals: Kept | Counted, truth: Tensor) -> Tensor:
    """[G, D], part by part: no second copy of the members is made."""
    library = _scoringrules()

    def of(points: Points, y: Tensor) -> Tensor:
        same = bool((points.weights == points.weights[:, :1]).all())
        found = library.crps_ensemble(
            y.double().cpu().numpy(),
            points.values.double().cpu().numpy(),
            ens_w=None if same else points.weights.cpu().numpy(),
            sorted_ensemble=True,
            estimator="pwm",  # the fair one, in time and memory linear in the members
            backend="numpy",
        )
        return torch.from_numpy(found).to(y.device)

    return over(marginals, of, truth)


def _coverage(marginals: Kept | Counted, n: float, truth: Tensor, level: float) -> float:
    """The share of the truth inside of the central interval whose ends are at ranks (n + 1) (1 -+ level) / 2 of n.

    The truth of a calibrated ensemble falls between two ranks a and b with probability (b - a) / (n + 1).
    """
    ranks = torch.tensor([1 - level, 1 + level], dtype=torch.float64) * (n + 1) / 2
    q = ((ranks - 1) / max(n - 1, 1)).clamp(0, 1)

    def inside(points: Points, y: Tensor) -> Tensor:
        low, high = points.quantile(q).unbind(1)
        return ((low <= y) & (y <= high)).double()

    return float(over(marginals, inside, truth).mean())


def _scoringrules() -> Any:
    try:
        import scoringrules
    except ImportError as error:
        raise ImportError("scores: pip install 'fastdiff[ensemble]', which brings scoringrules") from error
    return scoringrules
