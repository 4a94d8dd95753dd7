"""Measure: how near what is drawn is to data, as it is drawn, and over all processes."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..sampling.ranks import Ranks
from .formats import INSTALL
from .manifold import RealBalls, recall

SUBSETS, SUBSET_SIZE = 20, 1000  # of the kernel distance


class Measure:
    """Scores of what a job draws, from features of it and of data.

    fid: Frechet distance |mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features (Heusel et al. 2017), by torchmetrics.
    kid: squared maximum mean discrepancy of a cubic kernel (Binkowski et al. 2018), by torchmetrics.
    precision, recall, density, coverage: shares by nearest neighbours (`fastdiff.distributed.manifold`).
    classes: with labels, how many drawn ones are nearest to a real one of each class; classes_hit: of how many any are.

    features: a module or function from what a shard holds, [B, ...] or uint8 pictures [B, h, w(, 3)], to [B, d].
    real: [N, ...] data of the same form. labels: [N] its classes, from 0. k: the neighbour that gives a ball's radius.
    kept: how many of the first drawn ones are kept for recall and kid. Their features, the data's and sums [d, d] are
    all that takes memory, whatever the number of samples.
    Raises ImportError without torchmetrics, and ValueError naming the argument.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        real: Tensor,
        labels: Tensor | None = None,
        *,
        k: int = 5,
        kept: int = 10_000,
    ) -> None:
        if labels is not None and labels.shape != (len(real),):
            raise ValueError(f"labels: expected one for each of the {len(real)} real ones, got {tuple(labels.shape)}")
        if kept <= k:
            raise ValueError(f"kept: expected more than the k = {k} neighbours, got {kept}")
        self._features, self.kept = features, kept
        self.balls = RealBalls(torch.cat([self.features(part) for part in real.split(256)]), k, labels)
        width = self.balls.real.shape[1]
        # Every process has all of the data: only what is drawn is summed over them, by `scores`.
        metric = _torchmetrics("fid").FrechetInceptionDistance(feature=Given(width), sync_on_compute=False)
        self.fid = metric.to(self.balls.real.device)
        self.fid.update(self.balls.real, real=True)
        self.first: dict[int, Tensor] = {}

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """[B, d] float64."""
        found = self._features(x).double()
        if found.ndim != 2 or len(found) != len(x):
            raise ValueError(f"features: expected [{len(x)}, d], got {tuple(found.shape)}")
        return found

    def add(self, x: Tensor, place: int) -> None:
        """Count samples. place: of the first of them among all that are drawn, in whatever order they come."""
        found = self.features(x)
        self.fid.update(found, real=False)
        self.balls.add(found)
        if place < self.kept:
            self.first[place] = found[: self.kept - place]

    def scores(self, total: int, ranks: Ranks) -> dict[str, Any]:
        """Of the `total` samples that all processes have added, the same in all."""
        balls, first = self.balls.merged(ranks), self._first(min(total, self.kept), ranks)
        found: dict[str, Any] = {
            "samples": total,
            "fid": self._frechet(ranks),
            "kid": self._kernel(first),
            **balls.scores(),
        }
        found["recall"] = recall(balls.real, first, balls.k)
        if balls.labels is not None:
            found["classes"], found["classes_hit"] = balls.classes.tolist(), int((balls.classes > 0).sum())
        return found

    def _first(self, count: int, ranks: Ranks) -> Tensor:
        """The features [count, d] of the first samples, each from the process that has it."""
        rows = self.balls.real.new_zeros(count, self.balls.real.shape[1])
        for place, found in self.first.items():
            rows[place : place + len(found)] = found
        return ranks.sum(rows)  # each row and zeros: exact

    def _frechet(self, ranks: Ranks) -> float:
        metric = copy.deepcopy(self.fid)
        for name in ("sum", "cov_sum", "num_samples"):
            state = f"fake_features_{name}"
            setattr(metric, state, ranks.sum(getattr(metric, state)))
        return float(metric.compute())

    def _kernel(self, drawn: Tensor) -> float:
        """On subsets that are the same in every call and process."""
        size = min(SUBSET_SIZE, len(drawn), len(self.balls.real))
        module = _torchmetrics("kid").KernelInceptionDistance
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it keeps all features: here those are few
            metric = module(Given(drawn.shape[1]), subsets=SUBSETS, subset_size=size, sync_on_compute=False)
        metric = metric.to(drawn.device)
        metric.update(self.balls.real, real=True)
        metric.update(drawn, real=False)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return float(metric.compute()[0])


class Given(nn.Module):
    """torchmetrics' feature module where the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """They themselves."""
        return features


def _torchmetrics(name: str) -> Any:
    try:
        return importlib.import_module(f"torchmetrics.image.{name}")
    except ImportError as error:
        raise ImportError(f"measure: {INSTALL}, which brings torchmetrics") from error
