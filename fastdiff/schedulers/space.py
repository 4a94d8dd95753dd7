"""Space: where a scheduler's times lie. `fastdiff.schedulers.spaces` has those that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..plans.row import Row
from ..plans.schedule import Points
from .run_state import RunState, Scheduler

Placed = tuple[np.ndarray, "np.ndarray | None"]  # times, and sigmas with the end where the class has them
GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


class Wanted(NamedTuple):
    """What set_timesteps was given in place of a number of steps; `checked` makes float64 arrays of the numbers."""

    timesteps: Any = None
    sigmas: Any = None
    mu: float | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The ones that are not None."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    @property
    def listed(self) -> dict[str, Any]:
        """timesteps and sigmas, those that are given."""
        return {name: values for name, values in self.given.items() if name != "mu"}


@dataclass(frozen=True)
class Space:
    """Whole times of a training schedule, and sigma(t) of them where the class has them.

    fractional: whether the model reads fractional times. stages: evaluations a step; with two, timesteps names each
    evaluation, so each sigma but the first comes twice, and the last step has one.
    run_tensors: the run's tensors that rows are made from. ready: whether diffusers' constructor sets the times, so
    that a step may come before set_timesteps. absent_is_last: whether a time that is not in timesteps is the last.
    """

    fractional: bool = False
    stages: int = 1
    run_tensors: tuple[str, ...] = ("timesteps", "sigmas")
    ready: bool = False
    absent_is_last: bool = False

    def flows(self, scheduler: Scheduler) -> bool:
        """Whether sigma is a flow's own time, which mu shifts."""
        return False

    def count(self, scheduler: Scheduler, wanted: Wanted) -> int:
        """How many steps the times, or sigmas, ask for: sigmas end with the last step's end, but for a flow's."""
        ends = wanted.timesteps is None and not self.flows(scheduler)
        return len(wanted.sigmas if wanted.timesteps is None else wanted.timesteps) - ends

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        """The caller's times, or sigmas, on the training schedule; run holds diffusers' own for as many steps.

        wanted: of arrays, one of the two; on a flow it may be neither.
        """
        if wanted.timesteps is None:
            return self.time_of(scheduler, wanted.sigmas[:-1]), wanted.sigmas
        times, training = in_training(scheduler, wanted.timesteps), training_sigmas(scheduler)
        return times, np.append(np.interp(times, np.arange(len(training)), training), float(run.sigmas[-1]))

    def time_of(self, scheduler: Scheduler, sigmas: np.ndarray) -> np.ndarray:
        """The model's times at sigma(t)."""
        training = np.log(training_sigmas(scheduler))
        times = np.interp(np.log(sigmas), training, np.arange(len(training)))
        return times if self.fractional else times.round()

    def is_native(self, scheduler: Scheduler, given: dict[str, object], names: Sequence[str]) -> bool:
        """Whether diffusers' own set_timesteps, whose arguments have these names, takes it right."""
        return all(name in names for name in given)

    def read_attributes(self, recipe: Any) -> tuple[str, ...]:
        """The scheduler's own attributes that rows are made from."""
        return recipe.reads

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        """Where the run's steps from number `begin` on begin and end."""
        return run.at(run.times[begin:])

    def fit(self, scheduler: Scheduler, row: Row) -> Row:
        """The row of a solver for this scheduler's model."""
        return row


def in_training(scheduler: Scheduler, timesteps: np.ndarray) -> np.ndarray:
    """The caller's times, which have to be the model's."""
    last = len(scheduler.alphas_cumprod) - 1
    if timesteps.min() < 0 or timesteps.max() > last:
        raise ValueError(f"timesteps: expected times from 0 to {last}, got {timesteps.tolist()}")
    return timesteps


def training_sigmas(scheduler: Scheduler) -> np.ndarray:
    """sigma(t) = sigma / alpha at each of the model's times."""
    table = scheduler.alphas_cumprod.double().cpu().numpy()
    return np.sqrt((1 - table) / table)


def grid_of(scheduler: Scheduler) -> str | None:
    """The option of the configuration that says what the sigmas are, if any."""
    return next((name for name in GRIDS if getattr(scheduler.config, name, False)), None)


def checked(scheduler: Scheduler, steps: int | None, wanted: Wanted) -> Wanted:
    """The same, of float64 arrays. Raises ValueError naming the argument."""
    if len(wanted.listed) == 2:
        raise ValueError("timesteps, sigmas: expected one of them, got both")
    if steps is None and not wanted.listed:
        raise ValueError("num_inference_steps: expected a number, or timesteps, or sigmas; got none of them")
    arrays: dict[str, Any] = {name: np.asarray(values, dtype=np.float64) for name, values in wanted.listed.items()}
    for name, array in arrays.items():
        values = getattr(wanted, name)
        if array.ndim != 1 or len(array) < 1 or not np.isfinite(array).all():
            raise ValueError(f"{name}: expected a sequence of numbers, got {values!r}")
        if name == "sigmas" and ((array[:-1] <= 0).any() or array[-1] < 0):
            raise ValueError(f"sigmas: expected numbers > 0, the last one >= 0, got {values!r}")
        if grid := grid_of(scheduler):
            raise ValueError(f"{name}: expected none with {grid}, got {len(array)}")
        if steps is not None and steps != scheduler.recipe.space.count(scheduler, wanted):
            raise ValueError(f"num_inference_steps: expected None or the number of {name}, got {steps}")
    return wanted._replace(**arrays)
