"""The known part of an image in a run: outside of the mask every accepted state is the image, noised as x is."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_known(x: Tensor, point: tuple[float, float], noise: Tensor, image: Tensor, mask: Tensor) -> None:
    """Put alpha image + sigma noise where the mask is 0 (Lugmayr et al. 2022, eq. 8, without resampling), in place.

    x, noise, image: [B, ...]. point: (alpha, sigma) of x. mask: broadcastable to x.
    """
    alpha, sigma = point
    known = alpha * image.to(x.dtype) + sigma * noise.to(x.dtype)
    x.copy_(torch.where(mask, x, known) if mask.dtype == torch.bool else known + mask * (x - known))
