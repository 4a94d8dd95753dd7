"""Rows and columns of an image's tokens, and their Gaussian blur."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ..attention_tokens import Frame, Tokens


def blurred(x: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """Each token as the Gaussian mean of its neighbours in rows and columns (SEG, 2408.00760).

    x: [..., F h w, D], frame by frame. The kernel has ceil(6 sigma) taps made odd, at most the grid's extent, and sees
    the grid reflected at its edges, as the authors' code does. sigma in tokens; infinite: every token is its frame's
    mean. In float32 or better; x's dtype is returned.
    """
    tokens = x.unflatten(-2, (-1, *grid)).to(torch.promote_types(x.dtype, torch.float32))
    if math.isinf(sigma):
        out = tokens.mean(dim=(-3, -2), keepdim=True).expand(tokens.shape)
    else:
        rows, columns = (_blur_matrix(n, sigma).to(tokens) for n in grid)
        out = torch.einsum("ij,kl,...jld->...ikd", rows, columns, tokens)
    return out.flatten(-4, -2).to(x.dtype)


@functools.lru_cache(maxsize=64)
def _blur_matrix(n: int, sigma: float) -> Tensor:
    """[n, n] float64: row i has the weights of the blurred token i."""
    taps = min(math.ceil(6 * sigma) // 2 * 2 + 1, n + 1 - n % 2)
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places = torch.arange(n)[:, None] + offsets.long()
    places = (n - 1) - ((n - 1) - places.abs()).abs()  # reflected, without the edge twice
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, places, (weights / weights.sum()).expand(n, -1))


def grid_of(tokens: Tokens, given: tuple[int, int] | None) -> tuple[int, int]:
    """(rows, columns) of the image's tokens: as given, or as the modules around the attention were told.

    These are a feature map [B, C, h, w] or [B, C, F, h, w] and the size of the patches that are cut of it (diffusers'
    U-Nets and transformers), `height` and `width` (LTX), `img_shapes` (Qwen-Image), or `img_ids` (Flux).
    Raises RuntimeError where nothing fits.
    """
    count = tokens.image.stop - tokens.image.start
    told = [_told(frame) for frame in reversed(tokens.frames)] if given is None else [(given, True)]
    for grid, framed in filter(None, told):
        size = grid[0] * grid[1]
        if size == count or (framed and size > 0 and count % size == 0):
            return grid
    said = "no module around it says" if given is None else f"{given[0]} rows of {given[1]} do not say"
    raise RuntimeError(f"blurred_queries: {said} how {count} tokens stand; give grid=(rows, columns)")


def _told(frame: Frame) -> tuple[tuple[int, int], bool] | None:
    """What the module was told of rows and columns, and whether there may be several frames of them."""
    given, x = frame.arguments, frame.first
    if isinstance(given.get("height"), int) and isinstance(given.get("width"), int):
        return (given["height"], given["width"]), True
    if given.get("img_shapes"):
        return _only_shape(given["img_shapes"])
    if isinstance(ids := given.get("img_ids"), Tensor):
        rows, columns = ids.reshape(-1, ids.shape[-1])[:, 1:3].amax(0).tolist()
        return (int(rows) + 1, int(columns) + 1), False
    if x is None or x.ndim not in (4, 5):
        return None
    patch = getattr(getattr(frame.module, "config", None), "patch_size", None) or 1
    patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
    return (x.shape[-2] // patch, x.shape[-1] // patch), x.ndim == 5


def _only_shape(shapes: Any) -> tuple[tuple[int, int], bool] | None:
    """Of the image, where the sequence has no other: [(frames, rows, columns)], once a sample."""
    first = shapes[0]
    first = first if isinstance(first[0], (list, tuple)) else [first]
    return ((first[0][1], first[0][2]), True) if len(first) == 1 else None
