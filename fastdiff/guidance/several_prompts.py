"""Guidance by three conditions: a negative prompt beside an empty one, and an image beside a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..sampling.rule import Call, Point, Rule
from . import scales
from .arrays import Array, like, quotient
from .call import checked_call
from .combination import change, vector
from .scaled import Scaled
from .spaces import to_space


@dataclass(frozen=True, eq=False, repr=False)
class PerpNeg(Scaled):
    """Perpendicular negative guidance (Armandpour et al. 2023, "Re-imagine the negative prompt algorithm: transform 2D
    diffusion into 3D, alleviate Janus problem and beyond"). With the empty prompt's output e, p = c - e and n = u - e:

        y = e + g (p - s (n - p <n, p> / |p|^2))

    with inner products over a sample: what the negative prompt shares with the positive one is not removed. Where p is
    0, nothing is shared. It is the same in every space.

    scale: g. strength: s, a number or [B] numbers.
    empty: the keyword arguments that are different in the call with the empty prompt; `uncond` has the negative ones.
    rescale, interval: as for `CFG`. Raises ValueError naming the argument.
    """

    strength: float | Sequence[float] = 1.0
    empty: Call = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", scales.numbers("strength", self.strength))
        checked_call("empty", self.empty)

    @property
    def extra(self) -> tuple[Call, ...]:
        """The call with the empty prompt."""
        return (self.empty,)

    @property
    def needs_uncond(self) -> bool:
        """Always: it is the negative prompt."""
        return True

    def inside(self, point: Point) -> Rule:
        """The rule, also where the scale is 1; it needs <n, p> and |p|^2."""
        scale = scales.at(self.scale, point)

        def coordinates(gram: Array) -> Sequence[Array]:
            g, s = like(scale, gram), like(self.strength, gram)  # type: ignore[arg-type]
            shared = quotient(gram[:, 0, 1], gram[:, 0, 0], 0.0)
            return [g * (1 + s * shared) - 1, -g * s]

        # The empty prompt stands in u's place: it is what all differences are taken from.
        vectors = [vector(1.0, -1.0), vector(uncond=-1.0, second=1.0)]
        return change((0, 2, 1), vectors, coordinates, rescale=self.rescale, space=to_space(point, self.space))

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where scales or strengths are not one for each sample."""
        super().check(shape)
        scales.check_batch("strength", self.strength, shape[0])


@dataclass(frozen=True, eq=False, repr=False)
class Dual(Scaled):
    """Guidance by two conditions, such as a text and an image (Brooks et al. 2023, "InstructPix2Pix", eq. 3):

        y = u + g_2 (m - u) + g (c - m)

    where c has both conditions, m (`middle`) one of them and u none. It is the same in every space.

    scale: g. middle_scale: g_2, a number or [B] numbers; they take 7.5 and 1.5.
    middle: the keyword arguments that are different in the call with one condition.
    nested: y = u + g_2 (m + g (c - m) - u) instead, guidance by the first applied to guidance by the second.
    rescale, interval: as for `CFG`. Raises ValueError naming the argument.
    """

    middle_scale: float | Sequence[float] = 1.5
    middle: Call = field(default_factory=dict, repr=False)
    nested: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "middle_scale", scales.numbers("middle_scale", self.middle_scale))
        checked_call("middle", self.middle)

    @property
    def extra(self) -> tuple[Call, ...]:
        """The call with one condition."""
        return (self.middle,)

    @property
    def needs_uncond(self) -> bool:
        """False where u has no weight: g_2 is 1."""
        return not scales.is_one(self.middle_scale)  # type: ignore[arg-type]

    def inside(self, point: Point) -> Rule:
        """The rule: constant weights."""
        g, g_2 = (np.asarray(scale) for scale in (scales.at(self.scale, point), self.middle_scale))
        space = to_space(point, self.space)
        if not self.needs_uncond:
            if (g == 1).all():
                return Rule()
            return change((0, 2), [vector(1.0, -1.0)], [g - 1], rescale=self.rescale, space=space)
        text = g_2 * g if self.nested else g
        # c + (g - 1) (c - u) + (g_2 - g) (m - u)
        vectors = [vector(1.0, -1.0), vector(uncond=-1.0, second=1.0)]
        return change((0, 1, 2), vectors, [text - 1, g_2 - text], rescale=self.rescale, space=space)

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where the scales are not one for each sample."""
        super().check(shape)
        scales.check_batch("middle_scale", self.middle_scale, shape[0])
