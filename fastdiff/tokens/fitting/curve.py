"""The information curve: how much is still open about a token, when so many others are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .sizes import Values, best_sizes, excess


@dataclass(frozen=True)
class Curve:
    """h(j) = E[-ln p(x_i | j tokens at random)], i any other one, in nats: measured at some j, and all that follows.

    length: L, of the sequence or of a block. knots: [K] the j, rising from 0. rows: [N, K], what each text gave.
    """

    length: int
    knots: NDArray[np.int64]
    rows: NDArray[np.float64]

    @property
    def measured(self) -> Values:
        """[K] the means over texts."""
        return self.rows.mean(0)

    @property
    def errors(self) -> Values:
        """[K] the standard errors of `measured`; NaN for one text."""
        return _standard_error(self.rows)

    @cached_property
    def values(self) -> Values:
        """[L] h(0) .. h(L - 1): the closest curve to the means that never rises, with straight lines between."""
        weights = 1 / (self.errors**2 + 1e-12) if len(self.rows) > 1 else np.ones(len(self.knots))
        return np.interp(np.arange(self.length), self.knots, falling(self.measured, weights))

    @property
    def entropy(self) -> float:
        """The sum of the curve: -E[ln p(text)] where one token a step is drawn, in nats."""
        return float(self.values.sum())

    def best(self, steps: int) -> tuple[int, ...]:
        """The numbers of tokens a step, all at least 1, whose `excess` is least. Raises ValueError naming `steps`."""
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= self.length:
            raise ValueError(f"steps: expected a whole number from 1 to the {self.length} tokens, got {steps!r}")
        return best_sizes(self.values, steps)

    def excess(self, sizes: Sequence[int]) -> float:
        """What random order with these sizes adds to -E[ln p(text)], in nats: its expected divergence from the law
        where the model has the law's own conditionals (arXiv:2511.04647, arXiv:2510.25544).

            sum_n [ k_n h(a_n) - sum_{j = a_n}^{a_n + k_n - 1} h(j) ],   a_n = k_1 + .. + k_{n-1}

        Raises ValueError where the sizes do not add up to L.
        """
        self._check(sizes)
        return excess(self.values, sizes)

    def excess_error(self, sizes: Sequence[int]) -> float:
        """The standard error of `excess` over the texts, before the curve is made to fall."""
        self._check(sizes)
        places = np.arange(self.length)
        return float(
            _standard_error(np.array([excess(np.interp(places, self.knots, row), sizes) for row in self.rows]))
        )

    def _check(self, sizes: Sequence[int]) -> None:
        if any(size < 0 for size in sizes) or sum(sizes) != self.length:
            raise ValueError(f"sizes: expected numbers >= 0 that add up to {self.length}, got {tuple(sizes)!r:.80}")


def falling(values: Values, weights: Values) -> Values:
    """The sequence that never rises closest to `values`, by weighted squares: pool adjacent violators."""
    pools: list[list[float]] = []  # mean, weight, count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pools.append([value, weight, 1])
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            mean, mass, count = pools.pop()
            before = pools[-1]
            before[0] += (mean - before[0]) * mass / (before[1] + mass)
            before[1] += mass
            before[2] += count
    means, _, counts = zip(*pools, strict=True)
    return np.repeat(np.array(means), np.array(counts, dtype=int))


def _standard_error(rows: NDArray[np.float64]) -> Values:
    """Of the mean over the first dimension."""
    if len(rows) < 2:
        return np.full(rows.shape[1:], np.nan)
    return rows.std(0, ddof=1) / np.sqrt(len(rows))
