"""The guidance methods op by op, as their papers write them, on the model's output: y of c and u [B, ...]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Formula = Callable[[Tensor, Tensor, float], Tensor]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over a sample, [B, 1, ...]."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def cfg(c: Tensor, u: Tensor, g: float) -> Tensor:
    """Ho & Salimans 2022."""
    return u + g * (c - u)


def rescale(c: Tensor, u: Tensor, g: float, phi: float = 0.7) -> Tensor:
    """Lin et al. 2024, eq. 15 and 16."""
    y, over = cfg(c, u, g), tuple(range(1, c.ndim))
    return phi * (y * (c.std(over, keepdim=True) / y.std(over, keepdim=True))) + (1 - phi) * y


def apg(c: Tensor, u: Tensor, g: float, norm: float = 15.0) -> Tensor:
    """Sadat et al. 2025, Algorithm 1, with eta = 0."""
    return c + (g - 1) * _orthogonal(_bounded(c - u, norm), c)


class MomentumAPG:
    """The same with momentum -0.5."""

    def __init__(self) -> None:
        self.average: Tensor | float = 0.0

    def __call__(self, c: Tensor, u: Tensor, g: float, norm: float = 15.0, beta: float = -0.5) -> Tensor:
        self.average = (c - u) + beta * self.average
        return c + (g - 1) * _orthogonal(_bounded(self.average, norm), c)


def _bounded(d: Tensor, norm: float) -> Tensor:
    return d * (norm / _dot(d, d).sqrt()).clamp(max=1.0)


def _orthogonal(d: Tensor, c: Tensor) -> Tensor:
    return d - _dot(d, c) / _dot(c, c) * c


def zero_star(c: Tensor, u: Tensor, g: float) -> Tensor:
    """Fan et al. 2025, eq. 9."""
    s = _dot(c, u) / (_dot(u, u) + 1e-8)
    return s * u + g * (c - s * u)


def tangential(c: Tensor, u: Tensor, g: float) -> Tensor:
    """Kwon et al. 2025: u's part along the first right singular vector of [c; u]."""
    flat = torch.stack([c.flatten(1), u.flatten(1)], dim=1)
    first = torch.linalg.svd(flat, full_matrices=False).Vh[:, 0]
    u = ((flat[:, 1] * first).sum(1, keepdim=True) * first).view_as(c)
    return u + g * (c - u)


def magnitude(c: Tensor, u: Tensor, g: float, damping: float = 8.0) -> Tensor:
    """MAMBO-G, 2025."""
    d = c - u
    return u + (1 + (g - 1) * torch.exp(-damping * _dot(d, d).sqrt() / _dot(u, u).sqrt())) * d


FORMULAS: dict[str, Callable[[], Formula]] = {
    "CFG": lambda: cfg,
    "rescale": lambda: rescale,
    "APG": lambda: apg,
    "APG momentum": MomentumAPG,
    "Zero*": lambda: zero_star,
    "Tangential": lambda: tangential,
    "Magnitude": lambda: magnitude,
}
