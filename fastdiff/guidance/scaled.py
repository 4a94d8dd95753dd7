"""Base of the methods with a guidance scale on the difference of the conditional and the unconditional output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..sampling.rule import Point, Rule
from . import scales
from .arrays import Values
from .scales import Scale
from .spaces import check_space
from .windowed import Windowed


@dataclass(frozen=True, eq=False, repr=False)
class Scaled(Windowed):
    """Base of the methods that take a scale.

    scale: a number, [B] numbers, or a function of the point that returns either; see `fastdiff.guidance.Scheduled`.
        Where it is 1, the conditional output is the result and no other call is made.
    rescale: phi in [0, 1], which brings the result's standard deviation back to the conditional output's; see `CFG`.
    space: where the method and `rescale` act: "output", "x0", "noise", "flow" or "v"; see `fastdiff.guidance.spaces`.
    """

    scale: Scale
    rescale: float = field(default=0.0, kw_only=True)
    space: str = field(default="output", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale))
        scales.check_number("rescale", self.rescale, 0.0, 1.0)
        check_space(self.space)

    @property
    def needs_uncond(self) -> bool:
        """False where the scale is 1 everywhere."""
        return callable(self.scale) or not scales.is_one(self.scale)  # type: ignore[arg-type]

    def inside(self, point: Point) -> Rule:
        """What is done at a point of the interval."""
        scale = scales.at(self.scale, point)
        return Rule() if scales.is_one(scale) else self.guided(point, scale)

    def guided(self, point: Point, scale: Values) -> Rule:
        """What is done where the scale is not 1."""
        raise NotImplementedError

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where the scales are not one for each sample."""
        scales.check_batch("scale", self.scale, shape[0])
