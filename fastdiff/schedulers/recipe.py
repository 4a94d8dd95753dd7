"""Recipe: what a scheduler class says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from .rows import Refused
from .run_state import Generators, Key, RunState, Scheduler
from .space import Space

Rows = Sequence[Row | Refused]


@dataclass(frozen=True)
class Recipe:
    """What a class says of itself.

    rows: (scheduler, run, points, key) -> the rows of a run whose steps begin and end at the points.
    space: what its times are. output_dtype: whose dtype x' has: the model "output"'s, the "sample"'s, or the wider one
    of "both". extra: what a step gives besides x': its "converted" output or what it writes to the "base"; in the dtype
    of x', or with extra_in_float32 as it was computed. noise: how a step's noise is drawn, (scheduler, run, step, m, x,
    generator) -> noise, or several; None where nothing is.
    keeps_output: whether D is kept where no later row reads it: diffusers has model_outputs, or step gives it.
    reads: the scheduler's own attributes that rows are made from, besides those that the space reads. final_alpha:
    where diffusers keeps alpha^2 before the first training time. bounds_x0: whether clip_sample and thresholding count
    where the class has them. steps_by_time: whether a step depends on its time alone. begins_at_place: whether a run
    begins at the very element of timesteps that it is given, not at its value.
    """

    rows: Callable[[Scheduler, RunState, Points, Key], Rows] | None
    space: Space
    output_dtype: str = "both"
    extra: str | None = None
    extra_in_float32: bool = False
    noise: Callable[[Scheduler, RunState, int, Tensor, Tensor, Generators], Tensor | tuple[Tensor, ...]] | None = None
    keeps_output: bool = True
    reads: tuple[str, ...] = ()
    final_alpha: str = "final_alpha_cumprod"
    bounds_x0: bool = True
    steps_by_time: bool = False
    begins_at_place: bool = False
