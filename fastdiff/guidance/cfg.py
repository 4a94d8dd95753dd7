"""Classifier-free guidance, its schedules, and the rescaling of its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..sampling.rule import Point, Rule
from . import scales
from .arrays import Values
from .combination import change, vector
from .frames import FrameScales, check_frames
from .scales import Scale, check_number
from .schedules import SHAPES, check_shape, progress
from .spaces import check_space, to_space
from .windowed import Windowed

Schedule = str | Sequence[float] | np.ndarray | Callable[[Point], "float | Sequence[float] | Tensor"]


@dataclass(frozen=True, repr=False)
class CFG(Windowed):
    """Classifier-free guidance (Ho & Salimans 2022, "Classifier-free diffusion guidance"):

        y = u + g (c - u)

    in the convention where g = 1 is the conditional model; their w is g - 1. It is the same in every space.

    scale: g, a number or [B] numbers; or, with `frames_dim`, [F] or [B, F]: one for each frame. Where it is 1 the
        unconditional call is not made.
    rescale: phi in [0, 1] of Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", section
        3.4: y's standard deviation over the sample becomes phi std(c) + (1 - phi) std(y). They take 0.7 for models
        with zero terminal SNR.
    interval: (low, high) of sigma / alpha outside of which g is 1 (Kynkaanniemi et al. 2024).
    schedule: g at each point instead: n numbers, one for each evaluation; or a function of the point; or a name,
        "linear", "cosine", "triangle" or "beta", with `scale` for its mean; see `fastdiff.guidance.schedules`.
    frames_dim: the dimension of x that counts frames, if the scale is one for each.
    space: where `rescale` acts: "output", as in the paper, "x0", "noise", "flow" or "v".
    Raises ValueError naming the argument.
    """

    scale: Scale | None = None
    rescale: float = 0.0
    schedule: Schedule | None = None
    frames_dim: int | None = None
    space: str = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rescale", self.rescale, 0.0, 1.0)
        check_space(self.space)
        if self.frames_dim is not None and self.space != "output":
            raise ValueError(f"space: scales for each frame are rescaled in the output's, got {self.space!r}")
        if self.scale is not None:
            object.__setattr__(self, "scale", scales.scale_field("scale", self.scale, self._dimensions))
        if isinstance(self.schedule, str):
            check_shape(self.schedule)
        elif self.schedule is not None:
            object.__setattr__(self, "schedule", scales.scale_field("schedule", self.schedule, (1,)))
        if self.scale is None and (self.schedule is None or isinstance(self.schedule, str)):
            raise ValueError("scale: expected a number, or a schedule that gives it, got None")
        if self.scale is not None and self.schedule is not None and not isinstance(self.schedule, str):
            raise ValueError("schedule: an array or a function gives the scale itself; pass no scale beside it")

    @property
    def _dimensions(self) -> tuple[int, ...]:
        return (0, 1) if self.frames_dim is None else (1, 2)

    @property
    def needs_uncond(self) -> bool:
        """False where the scale is 1 everywhere."""
        given = self.scale if self.schedule is None or isinstance(self.schedule, str) else self.schedule
        return callable(given) or not scales.is_one(given)  # type: ignore[arg-type]

    def scale_at(self, point: Point) -> Values:
        """g at a point, or the scales of the frames."""
        if isinstance(self.schedule, tuple):
            if len(self.schedule) != point.n:
                raise ValueError(f"schedule: expected one for each of the {point.n} evaluations, got {self.schedule}")
            return self.schedule[point.i]
        if callable(self.schedule):
            return scales.numbers("schedule", self.schedule(point))
        scale = scales.at(self.scale, point, self._dimensions)
        if not isinstance(self.schedule, str):
            return scale
        return scales.numbers("scale", 1 + (np.asarray(scale) - 1) * SHAPES[self.schedule](progress(point)), (0, 1, 2))

    def inside(self, point: Point) -> Rule:
        """What is done at a point of the interval."""
        scale = self.scale_at(point)
        if scales.is_one(scale):
            return Rule()
        if self.frames_dim is not None and isinstance(scale, tuple):
            return Rule((0, 1), combine=FrameScales(scale, self.frames_dim, self.rescale))
        if not self.rescale:
            return Rule((0, 1), scale=np.asarray(scale) if isinstance(scale, tuple) else scale)
        space = to_space(point, self.space)
        return change((0, 1), [vector(1.0, -1.0)], [np.asarray(scale) - 1], rescale=self.rescale, space=space)

    def by_position(self, dim: int, ndim: int) -> bool:
        """Scales of frames are, but for `rescale`; along the frames a process gives those of its own."""
        return not self.rescale

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where the scales do not fit samples of this shape."""
        if self.frames_dim is not None:
            check_frames(self.scale, self.frames_dim, shape)
        else:
            scales.check_batch("scale", self.scale, shape[0])
