"""Triangular Anderson acceleration (ParaTAA, Tang et al. 2024, arXiv 2402.09970, section 3.2).

With R_j = Y_j - X_j the residual of the state before row j, and differences D to the round before, the next state is

    X_j = Y_j - sum_i gamma_ij D_i Y_j,    gamma_j = argmin |sum over k <= j of (R_k - sum_i gamma_i D_i R_k)|^2

with every R_k over the noise level of its state: a state is mixed by what is before it in the run and by nothing after.
Each sample has its own weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...ops import gram
from .calls import on

RIDGE = 1e-6  # of the mean of the diagonal: near the end differences are rounding
MAX_HISTORY = 3  # vectors of differences that `gram` takes beside the residual


class Pair(NamedTuple):
    """Of a state in one round. y: [B, ...] what it was made. residual: y - x. made: [B] bool, which samples' it was."""

    y: Tensor
    residual: Tensor
    made: np.ndarray


class Anderson:
    """Mixes the states of each round with those of up to `history` rounds before. scales: noise levels by row."""

    def __init__(self, history: int, scales: Sequence[float]) -> None:
        self._history, self._scales = history, scales
        self._rounds: list[Mapping[int, Pair]] = []

    def mixed(self, now: Mapping[int, Pair], begin: np.ndarray) -> dict[int, Tensor]:
        """The next states of rows that have a past; others stay. begin: [B] the rows up to which samples are done."""
        self._rounds = [now, *self._rounds][: self._history + 1]
        pasts = {j: self._past(j) for j in sorted(now)}
        if not any(len(past) > 1 for past in pasts.values()):
            return {}
        weights = self._weights(pasts)
        return {
            j: _combined([pair.y for pair in past], torch.where(on(begin < j, gamma)[:, None], gamma, 0.0))
            for (j, past), gamma in zip(pasts.items(), weights, strict=True)
            if len(past) > 1
        }

    def _past(self, j: int) -> list[Pair]:
        """The row's pairs, newest first, as far back as every round had it. `made` is of a round and all after it."""
        found: list[Pair] = []
        for pairs in self._rounds:
            if j not in pairs:
                break
            pair = pairs[j]
            found.append(pair._replace(made=pair.made & found[-1].made) if found else pair)
        return found

    def _weights(self, pasts: Mapping[int, list[Pair]]) -> Tensor:
        """gamma [rows, B, count]; 0 for differences that a sample does not have at a row."""
        products = [self._products(j, past) for j, past in pasts.items()]
        total, count = torch.stack(products).cumsum(0), self._history
        left, right = total[..., 1:, 1:], total[..., 1:, :1]
        has = torch.stack([on(_padded([pair.made for pair in past], count + 1), total) for past in pasts.values()])
        has = has[..., 1:].double()  # [rows, B, count]
        left, right = left * has[..., None] * has[..., None, :], right * has[..., None]
        mean = left.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
        ridge = torch.where((mean > 0) & (has > 0), RIDGE * mean, 1.0)
        solved = torch.linalg.solve_ex(left + torch.diag_embed(ridge), right)[0][..., 0]
        return torch.where(solved.isfinite().all(-1, keepdim=True), solved, 0.0)

    def _products(self, j: int, past: list[Pair]) -> Tensor:
        """[B, 1 + count, 1 + count] inner products of the residual and its differences from round to round."""
        size = len(past)
        basis = np.eye(size)
        basis[1:] = np.eye(size)[:-1] - np.eye(size)[1:]
        found = gram([pair.residual for pair in past], basis)[:, :-1, :-1] / self._scales[j] ** 2
        made = on(_padded([pair.made for pair in past], size), found)
        found = torch.where(made[:, :, None] & made[:, None], found, 0.0)
        rest = 1 + self._history - size
        return torch.nn.functional.pad(found, (0, rest, 0, rest))


def _padded(made: Sequence[np.ndarray], size: int) -> np.ndarray:
    """[B, size] bool, False where there is none."""
    return np.stack([*made, *[np.zeros_like(made[0])] * (size - len(made))], axis=1)


def _combined(ys: list[Tensor], gamma: Tensor) -> Tensor:
    """y - sum_i gamma_i (y_i - y_(i+1)); gamma [B, count]."""
    gamma = gamma.to(ys[0].dtype).view(*gamma.shape, *[1] * (ys[0].ndim - 1))
    mixture = ys[0]
    for i in range(len(ys) - 1):
        mixture = mixture - gamma[:, i] * (ys[i] - ys[i + 1])
    return mixture
