"""Robust least squares of a few unknowns, from each sample's inner products alone.

Minimises sum_s w_s |r_s - Phi_s^T b|^2 + ridge |b|^2 over the unknowns b [F], where r_s is what is to be explained in
sample s and Phi_s [F, D] its features. Samples that the model sends to another mode would rule plain least squares;
the weights w_s = 1 / (e_s + e_median / 10) make it minimise the mean distance e_s instead of the mean square (iteratively
reweighted least squares, Daubechies et al. 2010). How many unknowns, and which ridge, is chosen by what predicts
samples that were left out best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RIDGES = np.array([1e-7, 1e-5, 1e-3, 1e-1])  # times the mean square of the features
COUNTS = (1, 2, 3, 4, 6)  # of the features that are tried, beside all of them
PASSES, CHOOSING_PASSES = 6, 2
ERROR_FLOOR = 0.1  # of the median error: below it a sample's error weighs as its square


@dataclass(frozen=True)
class Moments:
    """Of each sample s: Phi_s Phi_s^T [S, F, F], Phi_s r_s [S, F] and |r_s|^2 [S], each over the number of elements."""

    gram: np.ndarray
    cross: np.ndarray
    energy: np.ndarray

    @classmethod
    def of(cls, features: list[Tensor], residual: Tensor) -> Moments:
        """features: F tensors [S, ...], residual: [S, ...]."""
        rows = torch.stack([f.flatten(1) for f in (*features, residual)], dim=1).double()
        products = (rows @ rows.mT / rows.shape[2]).cpu().numpy()
        return cls(products[:, :-1, :-1], products[:, :-1, -1], products[:, -1, -1])

    @property
    def size(self) -> int:
        """F."""
        return self.cross.shape[1]

    def errors(self, b: np.ndarray) -> np.ndarray:
        """[..., S] root mean square of r_s - Phi_s^T b for b [..., F]."""
        square = (b[..., :, None] * b[..., None, :]).reshape(*b.shape[:-1], -1) @ self.gram.reshape(len(self.gram), -1).T
        return np.sqrt(np.maximum(self.energy - 2 * b @ self.cross.T + square, 0.0))

    def first(self, count: int) -> Moments:
        """Of the first features alone."""
        return Moments(np.ascontiguousarray(self.gram[:, :count, :count]), self.cross[:, :count], self.energy)


def solve(moments: Moments, ridges: np.ndarray, used: np.ndarray, passes: int = PASSES) -> np.ndarray:
    """[R, K, F] the unknowns by each ridge [R], from each set of samples, used [K, S] bool."""
    scale = float(np.mean(np.diagonal(moments.gram, axis1=1, axis2=2))) or 1.0
    damping = (ridges * scale)[:, None, None, None] * np.eye(moments.size)
    flat = moments.gram.reshape(len(moments.gram), -1)
    error = np.sqrt(moments.energy) * np.ones((len(ridges), len(used), 1))
    for _ in range(passes):
        typical = np.sort(error, axis=-1)[..., error.shape[-1] // 2, None]  # the median, in a tenth of the time
        weight = used / np.maximum(error + ERROR_FLOOR * typical, 1e-30)
        weight /= weight.sum(-1, keepdims=True)
        left = (weight @ flat).reshape(*weight.shape[:2], moments.size, moments.size) + damping
        b = np.linalg.solve(left, (weight @ moments.cross)[..., None])[..., 0]
        error = moments.errors(b)
    return b


class Choice(NamedTuple):
    """How many of the features are used, and the ridge."""

    count: int
    ridge: float


def choose(moments: Moments, folds: np.ndarray) -> Choice:
    """The choice that predicts the samples outside of each fold best."""
    used, place = _sets(folds)
    each = np.arange(len(folds))
    best, choice = np.inf, Choice(1, float(RIDGES[0]))
    for count in (c for c in COUNTS if c < moments.size):
        part = moments.first(count)
        errors = part.errors(solve(part, RIDGES, used, CHOOSING_PASSES))[:, place, each].mean(1)
        if errors.min() < best:
            best, choice = errors.min(), Choice(count, float(RIDGES[errors.argmin()]))
    errors = moments.errors(solve(moments, RIDGES, used, CHOOSING_PASSES))[:, place, each].mean(1)
    return Choice(moments.size, float(RIDGES[errors.argmin()])) if errors.min() < best else choice


def fitted(moments: Moments, folds: np.ndarray, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """(b [F] from all samples, b [S, F] of each sample from those outside of its fold).

    folds: [S] the number of each sample's fold, -1 for samples that are never fitted to.
    """
    used, place = _sets(folds)
    b = np.zeros((len(used), moments.size))
    b[:, : choice.count] = solve(moments.first(choice.count), np.array([choice.ridge]), used)[0]
    return b[-1], b[place]


def _sets(folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([K + 1, S] the samples outside of each fold, and at last all of them; [S] the place of each sample's set)."""
    names, place = np.unique(folds, return_inverse=True)
    known = folds >= 0
    used = np.vstack([(folds != names[:, None]) & known, known[None]])
    used[~used.any(1)] = known  # a single sample is all there is
    return used, place
