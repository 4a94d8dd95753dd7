"""Mean and spread of members that come one after the other, none of which is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampling.ranks import Ranks


class Running:
    """Weighted mean and standard deviation over members, in float64 (West 1979; Chan, Golub & LeVeque 1983).

    A member is added by itself, so the sums do not depend on how members come in batches.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str | None = None) -> None:
        each = (shape[0], *[1] * (len(shape) - 1))
        self.total, self.squares = (torch.zeros(each, dtype=torch.float64, device=device) for _ in range(2))
        self._mean, self._scatter = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """x: [G, m, ...] members of each of G ensembles. weights: [G, m], 1 where not given."""
        for k in range(x.shape[1]):
            w = torch.ones_like(self.total) if weights is None else weights[:, k].to(self.total).view(self.total.shape)
            self.total += w
            self.squares += w**2
            off = x[:, k].to(torch.float64) - self._mean
            self._mean += off * (w / self.total.clamp(min=torch.finfo(torch.float64).tiny))
            self._scatter += w * off * (x[:, k] - self._mean)

    def merged(self, ranks: Ranks) -> Running:
        """That of the members of all processes."""
        if ranks.count == 1:
            return self
        whole = Running(tuple(self._mean.shape), self._mean.device)
        whole.total, whole.squares = ranks.sum(self.total), ranks.sum(self.squares)
        whole._mean = ranks.sum(self.total * self._mean) / whole.total
        whole._scatter = ranks.sum(self._scatter + self.total * (self._mean - whole._mean) ** 2)
        return whole

    @property
    def mean(self) -> Tensor:
        """[G, ...] sum w x / sum w."""
        return self._mean

    @property
    def spread(self) -> Tensor:
        """[G, ...] the standard deviation, over sum w - sum w^2 / sum w: n - 1 for n members of weight 1; NaN for one.

        The variance is unbiased for weights that do not depend on the members.
        """
        return (self._scatter / (self.total - self.squares / self.total)).sqrt()

    @property
    def size(self) -> Tensor:
        """[G] (sum w)^2 / sum w^2: how many members of equal weight say as much."""
        return (self.total**2 / self.squares).flatten()
