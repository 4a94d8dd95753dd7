"""Classifier-free guidance that does not exceed the conditional output's norm at any position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..sampling.rule import Point, Rule
from . import scales
from .scales import Scale, check_number
from .spatial import Spatial


@dataclass(frozen=True, repr=False)
class CFGNorm(Spatial):
    """CFG with the conditional output's norm at each position (ComfyUI's node CFGNorm, Qwen-Image's pipelines):

        y = u + g (c - u),   y <- y min(1, |c| / |y|) strength

    with norms over the channels. Where y is 0, it stays.

    scale: g, a number or a function of the point that returns one. strength: 1 in both.
    limit: whether norms are only made smaller, as in ComfyUI; without it they are made equal, as in Qwen-Image.
    channel_dim: 1 for images, -1 for packed tokens [B, L, C].
    space: "output", as in Qwen-Image; ComfyUI's node acts on "x0". interval: as for `CFG`.
    Raises ValueError naming the argument.
    """

    scale: Scale
    strength: float = 1.0
    limit: bool = True
    channel_dim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale, (0,)))
        check_number("strength", self.strength)

    def inside(self, point: Point) -> Rule:
        """The rule; the conditional call alone where it is the result."""
        if scales.number_at(self.scale, point) == 1 and self.strength == 1:
            return Rule()
        return super().inside(point)

    def combined(self, point: Point, cond: Tensor, uncond: Tensor) -> Tensor:
        """y, with its norms."""
        y = uncond + scales.number_at(self.scale, point) * (cond - uncond)
        length_c, length_y = (m.norm(dim=self.channel_dim, keepdim=True) for m in (cond, y))
        ratio = length_c / length_y.where(length_y > 0, 1.0)
        return y * (ratio.clamp(max=1.0) if self.limit else ratio) * self.strength

    def by_position(self, dim: int, ndim: int) -> bool:
        """Along all dimensions but the channels'."""
        return dim != self.channel_dim % ndim

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where samples of this shape have no such dimension."""
        if not -len(shape) < self.channel_dim < len(shape) or self.channel_dim == 0:
            raise ValueError(
                f"channel_dim: expected a dimension of {tuple(shape)} after the first, got {self.channel_dim}"
            )
