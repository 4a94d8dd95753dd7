"""Guidance with a scale of its own for each frame of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.reference import compute_dtype


@dataclass(frozen=True)
class FrameScales:
    """(x, (c, u)) -> u + g (c - u), the scales g [F] or [B, F] along one dimension of x.

    rescale: phi, as for `CFG`.
    """

    scales: tuple
    dim: int
    rescale: float = 0.0

    def __call__(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """y, of c's shape and dtype."""
        cond, uncond = (m.to(compute_dtype(m.dtype)) for m in outputs)
        scales = torch.tensor(self.scales, dtype=cond.dtype, device=cond.device)
        shape = [1] * cond.ndim
        shape[self.dim] = -1
        if scales.ndim == 2:
            shape[0] = len(scales)
        y = uncond + scales.reshape(shape) * (cond - uncond)
        if self.rescale:
            over = tuple(range(1, y.ndim))
            std_y, std_c = (m.std(over, keepdim=True, correction=0) for m in (y, cond))
            y = y * (1 + self.rescale * (torch.where(std_y > 0, std_c / std_y, 1.0) - 1))
        return y.to(outputs[0].dtype)


def check_frames(scale: object, dim: int, shape: Sequence[int]) -> None:
    """Raises ValueError where scales [F] or [B, F] do not fit the dimension of samples of this shape."""
    if not -len(shape) < dim < len(shape) or dim == 0:
        raise ValueError(f"frames_dim: expected a dimension of {tuple(shape)} after the first, got {dim}")
    if not isinstance(scale, tuple):
        return
    sizes = (len(scale), len(scale[0])) if isinstance(scale[0], tuple) else (len(scale),)
    expected = (shape[0], shape[dim])[-len(sizes) :]
    if sizes != expected:
        raise ValueError(f"scale: expected shape {expected} for samples of {tuple(shape)}, got {sizes}")
