"""Two of ComfyUI's guidance methods that are no weighted sums of the outputs, as values like `fastdiff.guidance`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance import Guidance, Point, Rule
from ..ops.reference import compute_dtype

Interval = tuple[float, float] | None
Formula = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FrequencyScaled(Guidance):
    """Guidance with other scales for coarse and for fine structure (Huang et al. 2025, "FreSca: scaling in frequency
    space enhances diffusion models", arXiv 2504.02154):

        y = u + g F(c - u)

    where F multiplies the frequencies up to the cutoff by `low` and those above by `high`, in both directions of an
    image [..., H, W].

    scale: g. cutoff: in shares of the highest frequency, so that it means the same at any size; 20 of 64 in ComfyUI's
    node at 1024 pixels. interval: (low, high) of sigma / alpha where it acts.
    """

    scale: float
    low: float = 1.0
    high: float = 1.25
    cutoff: float = 0.3125
    interval: Interval = None

    def rule(self, point: Point) -> Rule:
        """What is done at a point."""
        return _of_two(point, self.interval, lambda c, u: u + self.scale * self.filtered(c - u))

    def filtered(self, difference: Tensor) -> Tensor:
        """F(difference) [..., H, W]."""
        height, width = difference.shape[-2:]
        rows = torch.fft.fftfreq(height, 0.5, device=difference.device).abs()[:, None]
        columns = torch.fft.rfftfreq(width, 0.5, device=difference.device)
        coarse = ((rows <= self.cutoff) & (columns <= self.cutoff)).to(difference.dtype)
        weight = self.high + (self.low - self.high) * coarse
        return torch.fft.irfft2(torch.fft.rfft2(difference) * weight, s=(height, width))


@dataclass(frozen=True)
class Mahiro(Guidance):
    """ComfyUI's Mahiro guidance: less of plain guidance y, and more of g c, where they are unlike g u.

        q = mean of cos(r(g u), r((g c + y) / 2)),   r(z) = sign(z) sqrt|z|
        result = (1 + q) / 2 y + (1 - q) / 2 g c

    with the cosine over the channels of an element and the mean over a sample. scale: g. interval: (low, high) of
    sigma / alpha where it acts.
    """

    scale: float
    interval: Interval = None

    def rule(self, point: Point) -> Rule:
        """What is done at a point."""
        return _of_two(point, self.interval, self.mixed)

    def mixed(self, c: Tensor, u: Tensor) -> Tensor:
        """The result [B, C, ...]."""
        leap, plain = self.scale * c, u + self.scale * (c - u)
        cosine = F.cosine_similarity(_root(self.scale * u), _root((leap + plain) / 2))
        q = cosine.flatten(1).mean(1).view(-1, *[1] * (c.ndim - 1))
        return (1 + q) / 2 * plain + (1 - q) / 2 * leap


def _root(z: Tensor) -> Tensor:
    return z.abs().sqrt() * z.sign()


def _of_two(point: Point, interval: Interval, formula: Formula) -> Rule:
    """The rule y = formula(c, u), computed in float32 at least; y = c outside of the interval."""
    if interval is not None and not interval[0] < point.ratio <= interval[1]:
        return Rule()

    def combine(x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        c, u = (m.to(compute_dtype(m.dtype)) for m in outputs)
        return formula(c, u).to(outputs[0].dtype)

    return Rule((0, 1), combine=combine)
