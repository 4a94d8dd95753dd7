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


class Wanted(NamedTuple):
    """What set_timesteps was given in place of a number of steps."""

    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    mu: float | None = None

    @property
    def given(self) -> dict[str, object]:
        """The ones that are not None."""
        return {name: value for name, value in self._asdict().items() if value is not None}


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

    def count(self, scheduler: Scheduler, wanted: Wanted) -> int:
        """How many steps the times, or sigmas, ask for."""
        return len(wanted.sigmas) - 1 if wanted.timesteps is None else len(wanted.timesteps)

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        """The caller's times on the training schedule; run holds diffusers' own for as many steps."""
        if wanted.timesteps is not None:
            times, training = in_training(scheduler, wanted.timesteps), training_sigmas(scheduler)
            return times, np.append(np.interp(times, np.arange(len(training)), training), float(run.sigmas[-1]))
        if wanted.sigmas is None:
            return run.timesteps.double().cpu().numpy(), run.sigmas.double().cpu().numpy()
        sigmas = np.asarray(wanted.sigmas, dtype=np.float64)
        return self.time_of(scheduler, sigmas[:-1]), sigmas

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


def in_training(scheduler: Scheduler, timesteps: Sequence[float]) -> np.ndarray:
    """The caller's times, which have to be the model's."""
    times, last = np.asarray(timesteps, dtype=np.float64), len(scheduler.alphas_cumprod) - 1
    if times.min() < 0 or times.max() > last:
        raise ValueError(f"timesteps: expected times from 0 to {last}, got {timesteps!r}")
    return times


def training_sigmas(scheduler: Scheduler) -> np.ndarray:
    """sigma(t) = sigma / alpha at each of the model's times."""
    table = scheduler.alphas_cumprod.double().cpu().numpy()
    return np.sqrt((1 - table) / table)
