"""Where a scheduler's times lie: how a caller's times, or sigmas, are placed, and what the points of a run are.

In x = alpha x0 + sigma eps, `sigma` of diffusers is sigma / alpha on all schedules but flow ones: sigma(t). The points
are made in float64 from the very numbers that diffusers keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..plans.prediction import convert
from ..plans.row import Row
from ..plans.schedule import Points, Schedule
from .rows import bounded_starts
from .run_state import RunState, Scheduler
from .space import Placed, Space, Wanted, in_training

# What solvers are told about the schedule; the points themselves are explicit.
VP_SCHEDULE = Schedule.vp()
VE_SCHEDULE = Schedule.edm(sigma_min=1e-12, sigma_max=1e12)
FLOW_SCHEDULE = Schedule.flow(t_min=1e-12)


class TrainingTime(Space):
    """Of classes that know no sigmas."""

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        run.custom_timesteps = True
        if wanted.timesteps is None:
            return self.time_of(scheduler, wanted.sigmas[:-1]), None
        return in_training(scheduler, wanted.timesteps), None

    def read_attributes(self, recipe: Any) -> tuple[str, ...]:
        return "alphas_cumprod", recipe.final_alpha, *recipe.reads

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        """Where the steps begin; where they end is the class's to know."""
        return self.starts(scheduler, run, run.times[begin:])

    def starts(self, scheduler: Scheduler, run: RunState, times: np.ndarray) -> Points:
        """Where steps begin, at these times."""
        points = run.at(times)
        return bounded_starts(points) if any(scheduler._bounds()) else points


class VpOrFlow(Space):
    """Variance preserving, or with use_flow_sigmas a flow schedule: the classes that solve in log-SNR."""

    def flows(self, scheduler: Scheduler) -> bool:
        return bool(getattr(scheduler.config, "use_flow_sigmas", False))

    def schedule(self, scheduler: Scheduler) -> Schedule:
        """What solvers are told."""
        return FLOW_SCHEDULE if self.flows(scheduler) else VP_SCHEDULE

    def is_native(self, scheduler: Scheduler, given: dict[str, object], names: Sequence[str]) -> bool:
        """mu is an AssertionError there, or changes the configuration."""
        return not given or (given.keys() == {"timesteps"} and "timesteps" in names and not self.flows(scheduler))

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        if not self.flows(scheduler):
            return super().place(scheduler, run, count, wanted)
        total = scheduler.config.num_train_timesteps
        if wanted.timesteps is not None:
            sigmas = wanted.timesteps / total
        else:
            own = 1 - np.linspace(1, 1 / total, count + 1)
            sigmas = own[:0:-1] if wanted.sigmas is None else wanted.sigmas
            sigmas = shifted(sigmas, scheduler.config.flow_shift, wanted.mu)
        if sigmas.min() <= 0 or sigmas.max() > 1:
            raise ValueError(f"sigmas: expected numbers in (0, 1], got {sigmas}")
        end = sigmas[-1] if run.sigmas[-1] == run.sigmas[-2] else float(run.sigmas[-1])
        return sigmas * total, np.append(sigmas, end)

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        sigmas = run.host_sigmas[begin : len(run.times) + 1]
        if self.flows(scheduler):
            return flow_points(sigmas)
        alpha = 1 / np.hypot(1.0, sigmas)
        return Points(sigmas, alpha, sigmas * alpha)


class Sigma(Space):
    """x = x0 + sigma(t) eps: the classes that solve in sigma, whose model reads c_in x."""

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        times, sigmas = super().place(scheduler, run, count, wanted)
        if self.stages == 1:
            return times, sigmas
        rows = scheduler.recipe.rows(scheduler, run, sigma_points(sigmas), ())
        starts, times = times, self.time_of(scheduler, np.array([row.sigma for row in rows]))
        times[::2] = starts
        return times, np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:]])

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        return sigma_points(step_sigmas(run, begin, self.stages))

    def fit(self, scheduler: Scheduler, row: Row) -> Row:
        """The model predicts for alpha x, alpha = (1 + sigma^2)^-1/2."""
        prediction = scheduler.config.prediction_type
        prediction = "sample" if prediction == "original_sample" else prediction
        alpha = 1 / math.hypot(1.0, row.sigma)
        p_x, p_m = convert(prediction, row.form, alpha, row.sigma * alpha)
        return replace(row, p_x=p_x * alpha, p_m=p_m)

    def c_in(self, scheduler: Scheduler, run: RunState) -> list[float]:
        """(1 + sigma^2)^-1/2 where each step evaluates the model."""
        rows = scheduler.recipe.rows(scheduler, run, self.points(scheduler, run, 0), ())
        return [(1 + row.sigma**2) ** -0.5 for row in rows]


class Edm(Sigma):
    """The same with EDM's preconditioning: x0 = c_skip x + c_out m (Karras et al. 2022, arXiv 2206.00364, table 1)."""

    def is_native(self, scheduler: Scheduler, given: dict[str, object], names: Sequence[str]) -> bool:
        """diffusers takes sigmas as places on its own grid."""
        return not given

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        sigmas = wanted.sigmas
        if sigmas is None:
            sigmas = np.append(self.sigma_of(wanted.timesteps), float(run.sigmas[-1]))
        return self.time_of(scheduler, sigmas[:-1]), sigmas

    def time_of(self, scheduler: Scheduler, sigmas: np.ndarray) -> np.ndarray:
        """log(sigma) / 4."""
        return 0.25 * np.log(sigmas)

    def sigma_of(self, times: np.ndarray) -> np.ndarray:
        """`time_of`, inverted."""
        return np.exp(4 * times)

    def fit(self, scheduler: Scheduler, row: Row) -> Row:
        config = scheduler.config
        sign = {"epsilon": 1.0, "v_prediction": -1.0}.get(config.prediction_type)
        if sign is None:
            raise ValueError(f"prediction_type: expected epsilon or v_prediction, got {config['prediction_type']}")
        data, total = config.sigma_data, row.sigma**2 + config.sigma_data**2
        return replace(row, p_x=data**2 / total, p_m=sign * row.sigma * data / total**0.5)

    def c_in(self, scheduler: Scheduler, run: RunState) -> list[float]:
        """(sigma^2 + sigma_data^2)^-1/2."""
        return ((run.host_sigmas**2 + scheduler.config.sigma_data**2) ** -0.5).tolist()


class Flow(Space):
    """x = (1 - sigma) x0 + sigma eps, and timesteps are num_train_timesteps times sigma."""

    def flows(self, scheduler: Scheduler) -> bool:
        return True

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        """For two stages: diffusers places what the class with one is given."""
        total, shift = scheduler.config.num_train_timesteps, scheduler.config.shift
        if wanted.timesteps is not None:
            sigmas = wanted.timesteps / total
        else:
            last = scheduler.sigma_min / (shift - (shift - 1) * scheduler.sigma_min)
            own = np.linspace(1, last, count) if wanted.sigmas is None else wanted.sigmas
            sigmas = shifted(own, shift, wanted.mu)
        sigmas = np.concatenate([sigmas[:1], np.repeat(sigmas[1:], 2)])
        return sigmas * total, np.append(sigmas, 0.0)

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        return flow_points(step_sigmas(run, begin, self.stages))


TRAINING_TIME = TrainingTime()
VP_OR_FLOW = VpOrFlow(absent_is_last=True)
SIGMA, SIGMA_TWICE = (Sigma(fractional=True, stages=stages, ready=True) for stages in (1, 2))
EDM = Edm(fractional=True, ready=True)
FLOW, FLOW_TWICE = (Flow(fractional=True, stages=stages, ready=True) for stages in (1, 2))


def flow_points(sigmas: np.ndarray) -> Points:
    """alpha = 1 - sigma."""
    return Points(sigmas, 1 - sigmas, sigmas)


def sigma_points(sigmas: np.ndarray) -> Points:
    """alpha = 1."""
    return Points(sigmas, np.ones_like(sigmas), sigmas)


def step_sigmas(run: RunState, begin: int, stages: int) -> np.ndarray:
    """Where steps of one or two evaluations begin and end, from the one that evaluation number `begin` belongs to."""
    if stages == 1:
        return run.host_sigmas[begin:]
    sigmas = np.append(run.host_sigmas[:1], run.host_sigmas[1::2][: (len(run.times) + 1) // 2])
    return sigmas[(begin + 1) // 2 :]


def shifted(sigmas: np.ndarray, shift: float, mu: float | None) -> np.ndarray:
    """Flow times under a shift; exp(mu) in place of it where mu is given."""
    shift = shift if mu is None else math.exp(mu)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def keep_one_time(parent: Callable) -> Callable:
    """A class's stretch_shift_to_terminal, which has nothing to stretch where the only time is t = 1."""

    def stretch_shift_to_terminal(self: Scheduler, t: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray:
        """The times t, stretched so that the last is `shift_terminal`; one alone, at t = 1, stays where it is."""
        return t if t[-1] == 1 else parent(self, t)

    return stretch_shift_to_terminal
