"""ComfyUI's Mahiro guidance, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..guidance import Point
from ..guidance.spatial import Spatial


@dataclass(frozen=True)
class Mahiro(Spatial):
    """Less of plain guidance y, and more of g c, where they are unlike g u:

        q = mean of cos(r(g u), r((g c + y) / 2)),   r(z) = sign(z) sqrt|z|
        result = (1 + q) / 2 y + (1 - q) / 2 g c

    with the cosine over the channels of an element and the mean over a sample. scale: g. space, interval: as for
    `fastdiff.guidance.FreSca`; ComfyUI's acts on x0.
    """

    scale: float = 7.5

    def combined(self, point: Point, cond: Tensor, uncond: Tensor) -> Tensor:
        """The result [B, C, ...]."""
        leap, plain = self.scale * cond, uncond + self.scale * (cond - uncond)
        cosine = F.cosine_similarity(_root(self.scale * uncond), _root((leap + plain) / 2))
        q = cosine.flatten(1).mean(1).view(-1, *[1] * (cond.ndim - 1))
        return (1 + q) / 2 * plain + (1 - q) / 2 * leap


def _root(z: Tensor) -> Tensor:
    return z.abs().sqrt() * z.sign()
