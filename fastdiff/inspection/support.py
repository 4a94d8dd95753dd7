"""Which share of the data is drawn, and which share of what is drawn is like data, by nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.manifold import RealBalls, recall
from ..ops import checks


@dataclass(frozen=True, eq=False)
class Coverage:
    """Shares by nearest neighbours of N real and M drawn ones. Those of one part of the data beside another are what to
    expect of a perfect sampler; for its coverage there is a law (Naeem et al. 2020, eq. 9):

        1 - (N - 1) ... (N - k) / ((N + M - 1) ... (N + M - k))

    precision: of the drawn, those inside of the data (Kynkaanniemi et al. 2019). density: the same, where many real
    ones are near counting more; it may exceed 1 (Naeem et al. 2020).
    recall: of the data, those inside of the drawn (Kynkaanniemi et al. 2019). coverage: of the data, those that have a
    drawn one near (Naeem et al. 2020), which a single stray sample cannot raise.
    shares: [C] of the drawn whose nearest real one is of each class; None without labels.
    """

    precision: float
    density: float
    recall: float
    coverage: float
    shares: Tensor | None = None


@torch.no_grad()
def coverage(
    real: Tensor,
    drawn: Tensor,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    labels: Tensor | None = None,
    k: int = 5,
    batch: int = 256,
) -> Coverage:
    """Precision, density, recall and coverage of what was drawn, beside data.

    real: [N, ...] and drawn: [M, ...] of one form. features: from [B, ...] to [B, d], in which distances mean
    something: a classifier's inner layer, for instance; by default the numbers themselves. labels: [N] int64 classes of
    the real, from 0. k: the neighbour whose distance is the radius of a ball. batch: what features are given at once.
    Time is that of N^2 + M^2 + 2 N M distances, in float64; memory is that of the features and 2^24 distances.
    Raises TypeError or ValueError naming the argument.
    """
    for name, x in (("real", real), ("drawn", drawn)):
        checks.require_tensor(name, x)
        if not k < len(x):
            raise ValueError(f"{name}: expected more than the k = {k} neighbours, got {len(x)}")
    if labels is not None:
        checks.require_shape("labels", labels, (len(real),))
    a, b = (_features(x, features, batch) for x in (real, drawn))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"drawn: expected {a.shape[1]} features as the real have, got {b.shape[1]}")
    balls = RealBalls(a, k, labels)
    balls.add(b)
    shares = None if labels is None else balls.classes.double() / len(b)
    return Coverage(**balls.scores(), recall=recall(a, b, k), shares=shares)


def _features(x: Tensor, features: Callable[[Tensor], Tensor] | None, batch: int) -> Tensor:
    found = x.flatten(1) if features is None else torch.cat([features(part) for part in x.split(batch)])
    if found.ndim != 2 or len(found) != len(x):
        raise ValueError(f"features: expected [{len(x)}, d], got {tuple(found.shape)}")
    if not found.isfinite().all():
        raise ValueError("features: expected finite numbers, got NaN or infinity")
    return found.double()
