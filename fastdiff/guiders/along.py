"""Adaptive projected guidance with norms over some dimensions only, such as the channels of each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..guidance import APG
from ..ops.reference import compute_dtype
from ..sampling.rule import Point


def dimensions(given: int | Sequence[int] | None, ndim: int) -> list[int] | None:
    """The dimensions as numbers from 1 to ndim - 1, None where they are all of a sample's.

    Raises ValueError for one that there is not, and for the batch's, which would mix samples.
    """
    if given is None:
        return None
    dims = sorted({dim % ndim if -ndim <= dim < ndim else 0 for dim in ([given] if isinstance(given, int) else given)})
    if not dims or dims[0] == 0:
        raise ValueError(
            f"adaptive_projected_guidance_norm_dim: expected dimensions from 1 to {ndim - 1}, a sample's, got {given!r}"
        )
    return None if dims == list(range(1, ndim)) else dims


def projected(
    method: APG, scale: float, point: Point, x: Tensor, c: Tensor, u: Tensor, last: Tensor | None, dims: list[int]
) -> tuple[Tensor, Tensor]:
    """(y, d): APG's result, with norms and inner products over `dims`, and its momentum d, which comes back as `last`.

    method: what to do, in the space "x0" or "output"; scale: its scale. c, u: [B, ...] the outputs.
    """
    p_x, p_m = point.to_x0 if method.space == "x0" else (0.0, 1.0)
    dtype = compute_dtype(c.dtype)
    c, difference = c.to(dtype), c.to(dtype) - u.to(dtype)
    d = p_m * difference
    if last is not None and method.momentum:
        d = d + method.momentum * last
    along = p_m * c + p_x * x.to(dtype) if p_x else p_m * c
    square = (along * along).sum(dims, keepdim=True)
    share = torch.where(square > 0, (d * along).sum(dims, keepdim=True) / square, 0.0)
    update = d - (1 - method.eta) * share * along
    if method.norm is not None:
        length = torch.linalg.vector_norm(d, dim=dims, keepdim=True)
        update = update * torch.where(length > method.norm, method.norm / length, 1.0)
    base, factor = (c, scale - 1) if method.form == "paper" else (c - difference, scale)
    return base + factor / p_m * update, d


def rescaled(y: Tensor, c: Tensor, phi: float) -> Tensor:
    """phi y std(c) / std(y) + (1 - phi) y, std over each sample; y where it is constant."""
    if not phi:
        return y
    std_c, std_y = (t.to(y.dtype).flatten(1).std(dim=1) for t in (c, y))
    factor = 1 + phi * (torch.where(std_y > 0, std_c / std_y, 1.0) - 1)
    return y * factor.view(-1, *[1] * (y.ndim - 1))
