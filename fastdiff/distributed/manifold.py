"""Precision, recall, density and coverage: what nearest neighbours say of two sets of features.

With B(x, r_k(x)) the ball around x that reaches to its k-th neighbour in its own set, N real x and M drawn y:

    precision = 1/M   #{y : y in some B(x, r_k(x))}         (Kynkaanniemi et al. 2019, eq. 1 and 2)
    recall    = 1/N   #{x : x in some B(y, r_k(y))}         (the same with the sets exchanged)
    density   = 1/(kM) sum_y #{x : y in B(x, r_k(x))}       (Naeem et al. 2020, eq. 5)
    coverage  = 1/N   #{x : some y in B(x, r_k(x))}         (eq. 6)

Recall and coverage say which share of the data is drawn at all. One stray y has a large ball and can cover half of
the data in recall; in coverage it counts for the few x near it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from ..sampling.ranks import Ranks

ROWS = 2**24  # distances at a time


def radii(x: Tensor, k: int) -> Tensor:
    """r_k [N]: the distance of each of x [N, d] from its k-th neighbour, itself not counted.

    Raises ValueError naming k where there are not so many.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"k: expected from 1 to {len(x) - 1}, less than the {len(x)} points, got {k}")
    return torch.cat([d.kthvalue(k + 1, dim=1).values for d in _distances(x, x)])


class RealBalls:
    """The balls of real features [N, d], and what of the drawn ones lies in them, counted as they come.

    covered: [N] whether a drawn one lies in it. inside, hits: how many drawn ones lie in a ball, and in how many balls
    together. count: of those drawn. classes: how many drawn ones are nearest to a real one of each class.
    """

    def __init__(self, real: Tensor, k: int = 5, labels: Tensor | None = None) -> None:
        self.real, self.k, self.labels = real.double(), k, labels
        self.radii = radii(self.real, k)
        self.covered = torch.zeros(len(real), dtype=torch.int64, device=real.device)
        self.counts = torch.zeros(3, dtype=torch.int64, device=real.device)
        number = 0 if labels is None else int(labels.max()) + 1
        self.classes = torch.zeros(number, dtype=torch.int64, device=real.device)

    def add(self, drawn: Tensor) -> None:
        """Count some features [m, d]."""
        for distances in _distances(drawn.double(), self.real):
            within = distances <= self.radii
            self.covered |= within.any(0)
            each = within.sum(1)
            self.counts += torch.stack([torch.as_tensor(len(each)), (each > 0).sum(), each.sum()]).to(each.device)
            if self.labels is not None:
                nearest = self.labels[distances.argmin(1)]
                self.classes += torch.bincount(nearest, minlength=len(self.classes))

    def merged(self, ranks: Ranks) -> RealBalls:
        """With what all processes have counted."""
        whole = copy.copy(self)
        whole.covered = ranks.maximum(self.covered)
        whole.counts, whole.classes = ranks.sum(self.counts), ranks.sum(self.classes)
        return whole

    def scores(self) -> dict[str, float]:
        """precision, density and coverage of all that was added."""
        count, inside, hits = self.counts.tolist()
        return {
            "precision": inside / count,
            "density": hits / (self.k * count),
            "coverage": float(self.covered.double().mean()),
        }


def recall(real: Tensor, drawn: Tensor, k: int = 5) -> float:
    """The share of real features [N, d] that lie in a ball of a drawn one [M, d]."""
    real, drawn = real.double(), drawn.double()
    reach = radii(drawn, k)
    return float(torch.cat([(d <= reach).any(1) for d in _distances(real, drawn)]).double().mean())


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances [m, n] of some rows of a from all of b. Without a product, which would round differences."""
    for part in a.split(max(1, ROWS // len(b))):
        yield torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist")
