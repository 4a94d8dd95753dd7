"""The distribution of each element over the members of an ensemble: exact, or known at the members that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..sampling.ranks import Ranks

CHUNK = 2**20  # numbers that are looked at at once
TINY = torch.finfo(torch.float64).tiny


class Points(NamedTuple):
    """n elements: values [n, k] of kept members in ascending order, and their weights [n, k].

    later: [n, k + 1] the weight of members that were counted: below the first value, between neighbours, above the
    last. low, high: [n, 1] the least and the greatest of all members.
    """

    values: Tensor
    weights: Tensor
    later: Tensor
    low: Tensor
    high: Tensor

    def quantile(self, q: Tensor) -> Tensor:
        """[n, Q] at levels q [Q], linear between members: `torch.quantile` where all are kept and weigh the same."""
        level, at = self._levels(), torch.cat([self.low, self.values, self.high], 1).double()
        q = q.to(level).expand(len(level), -1).contiguous()
        right = torch.searchsorted(level, q, right=True).clamp(1, level.shape[1] - 1)
        (p0, p1), (v0, v1) = ((of.gather(1, right - 1), of.gather(1, right)) for of in (level, at))
        counted = self.later.gather(1, (right - 1).clamp(max=self.later.shape[1] - 1)) > 0
        share = torch.where(counted, _share(*map(self._scores, (q, p0, p1))), _share(q, p0, p1))
        return torch.lerp(v0, v1, share)

    def _scores(self, p: Tensor) -> Tensor:
        """Normal scores of levels, with those of the least and the greatest member finite.

        Linear in these, what lies between two kept members is that of a bell, also in the tails.
        """
        total = self.weights.double().sum(1, keepdim=True) + self.later.double().sum(1, keepdim=True)
        half = self.weights.double().mean(1, keepdim=True) / total / 2
        return torch.special.ndtri(half + p * (1 - 2 * half))

    def below(self, value: Tensor) -> Tensor:
        """[n] the share of the kept members' weight below value [n]; half of that of members equal to it."""
        value, weights = value.unsqueeze(1), self.weights.double()
        share = (self.values < value).double() + (self.values <= value).double()
        return (weights * share).sum(1) / (2 * weights.sum(1))

    def _levels(self) -> Tensor:
        """[n, k + 2] from 0 to 1, at low, values and high: the middles of their weights in the sum of all.

        The weight below a value is known, so its level is exact. The least and the greatest member, where they were
        counted, are taken to weigh as much as the least of what was counted there or of the kept.
        """
        ends = torch.minimum(self.later[:, [0, -1]], self.weights.mean(1, keepdim=True)).double()
        own = torch.cat([ends[:, :1], self.weights.double(), ends[:, 1:]], 1)
        between = self.later.to(torch.float64, copy=True)
        between[:, [0, -1]] -= ends
        middle = own.cumsum(1) - own / 2
        middle[:, 1:] += between.cumsum(1)
        first = torch.where(ends[:, :1] > 0, middle[:, :1], middle[:, 1:2])
        last = torch.where(ends[:, 1:] > 0, middle[:, -1:], middle[:, -2:-1])
        return ((middle - first) / (last - first).clamp(min=TINY)).clamp(0, 1)


def _share(q: Tensor, p0: Tensor, p1: Tensor) -> Tensor:
    """How far q is from p0 to p1."""
    return ((q - p0) / (p1 - p0).clamp(min=TINY)).clamp(0, 1)


class Kept:
    """All members [G, k, ...] and their weights [G, k]."""

    def __init__(self, members: Tensor, weights: Tensor | None = None) -> None:
        self.members = members
        self.weights = torch.ones(members.shape[:2]) if weights is None else weights
        self.weights = self.weights.to(members.device, torch.float64)
        self.shape, self.count = (members.shape[0], *members.shape[2:]), members.shape[1]

    def points(self) -> Iterator[tuple[int, slice, Points]]:
        """The elements, flattened, part by part of each ensemble: (g, part, points)."""
        flat = self.members.reshape(*self.members.shape[:2], -1)
        for g, part in parts(*flat.shape):
            values, order = flat[g, :, part].T.sort(1)
            none = values.new_zeros(len(values), values.shape[1] + 1)
            yield g, part, Points(values, self.weights[g][order], none, values[:, :1], values[:, -1:])


class Counted:
    """Kept members, sorted element by element, and the weight of later ones between each two.

    A quantile lies between the same two kept members as the exact one does: of k, these are 1 / (k + 1) of all members
    apart in the mean. The same later members give the same counts in any order.
    """

    def __init__(self, kept: Kept) -> None:
        self.shape, self.count = kept.shape, kept.count
        flat = kept.members.reshape(*kept.members.shape[:2], -1)
        count, k, size = flat.shape
        self._values = flat.new_empty(count, size, k)
        self._own = kept.weights.to(torch.float32).unsqueeze(1).expand(count, size, k)
        if not (kept.weights == kept.weights[:, :1]).all():
            self._own = self._own.contiguous()
        self._later = torch.zeros(count, size, k + 1, device=flat.device)  # exact counts up to 2^24
        for g, part, points in kept.points():
            self._values[g, part] = points.values
            if self._own.is_contiguous():
                self._own[g, part] = points.weights.to(self._own)
        self._low, self._high = self._values[..., :1].clone(), self._values[..., -1:].clone()

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Count members x [G, m, ...] of these weights [G, m], 1 where not given."""
        if not x.shape[1]:
            return
        x = x.reshape(*x.shape[:2], -1).transpose(1, 2)  # [G, D, m]
        weights = torch.ones(x.shape[0], x.shape[2]) if weights is None else weights
        weights = weights.to(x.device, self._later.dtype)
        for g, part in parts(x.shape[0], self._values.shape[2], x.shape[1]):
            new = x[g, part].contiguous()
            place = torch.searchsorted(self._values[g, part], new)
            self._later[g, part].scatter_add_(1, place, weights[g].expand(place.shape))
        self._low = torch.minimum(self._low, x.amin(2, keepdim=True))
        self._high = torch.maximum(self._high, x.amax(2, keepdim=True))

    def merge(self, ranks: Ranks) -> None:
        """Take in what other processes counted between the same kept members."""
        self._later = ranks.sum(self._later)
        self._low, self._high = -ranks.maximum(-self._low), ranks.maximum(self._high)

    def points(self) -> Iterator[tuple[int, slice, Points]]:
        """The elements, flattened, part by part of each ensemble: (g, part, points)."""
        count, size, k = self._values.shape
        every = (self._values, self._own, self._later, self._low, self._high)
        for g, part in parts(count, k, size):
            yield g, part, Points(*(of[g, part] for of in every))


def parts(count: int, k: int, size: int) -> Iterator[tuple[int, slice]]:
    """Parts of `size` elements with k numbers each, of `count` ensembles."""
    step = max(CHUNK // max(k, 1), 1)
    for g in range(count):
        for first in range(0, size, step):
            yield g, slice(first, first + step)


def over(marginals: Kept | Counted, function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """function(points, *maps' elements [n]) -> [n, ...] of all elements, as [G, D, ...]; maps: [G, ...]."""
    flat = [of.reshape(of.shape[0], -1) for of in maps]
    rows: list[list[Tensor]] = [[] for _ in range(marginals.shape[0])]
    for g, part, points in marginals.points():
        rows[g].append(function(points, *(of[g, part] for of in flat)))
    return torch.stack([torch.cat(row) for row in rows])
