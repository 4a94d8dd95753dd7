"""Laplacian pyramids over any number of dimensions (Burt & Adelson 1983)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def laplacian_pyramid(x: Tensor, levels: int, dims: Sequence[int]) -> list[Tensor]:
    """Bands of x, from the finest to the coarsest, each half the size of the one before.

    A level is the blurred image at half the size, ceil(n / 2) in every dimension; a band is what is missing from it at
    the finer level. `collapse` gives x back.
    """
    bands = []
    for _ in range(levels - 1):
        coarse = x
        for dim in dims:
            coarse = _resized(_blurred(coarse, dim), dim, (coarse.shape[dim] + 1) // 2)
        bands.append(x - _expanded(coarse, x, dims))
        x = coarse
    return [*bands, x]


def collapse(bands: Sequence[Tensor], dims: Sequence[int]) -> Tensor:
    """The sum of the bands, at the finest's size."""
    x = bands[-1]
    for band in reversed(bands[:-1]):
        x = band + _expanded(x, band, dims)
    return x


def _expanded(coarse: Tensor, fine: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        coarse = _blurred(_resized(coarse, dim, fine.shape[dim]), dim)
    return coarse


def _blurred(x: Tensor, dim: int) -> Tensor:
    """x smoothed with binomial weights, mirrored at its ends."""
    n = x.shape[dim]
    period = max(2 * n - 2, 1)
    places = torch.arange(-2, n + 2, device=x.device) % period
    padded = x.index_select(dim, torch.minimum(places, period - places) % n)
    parts = [weight * padded.narrow(dim, k, n) for k, weight in enumerate(BINOMIAL)]
    return torch.stack(parts).sum(0)


def _resized(x: Tensor, dim: int, size: int) -> Tensor:
    """x with another size in one dimension, by linear interpolation between the centres of cells."""
    lines = x.movedim(dim, -1)
    flat = F.interpolate(lines.reshape(-1, 1, lines.shape[-1]), size=size, mode="linear", align_corners=False)
    return flat.view(*lines.shape[:-1], size).movedim(-1, dim)
