"""Sampling of flow maps: models of the mean velocity from one time to another."""

from __future__ import annotations

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_map_euler_discrete import FlowMapEulerDiscreteSchedulerOutput
from torch import Tensor
from torch.compiler import is_compiling

from ..ops import make_row, solver_step
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from .base import FusedScheduler
from .own_times import own_times
from .recipe import Recipe, Rows
from .rows import Refused
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import Flow, flow_points

Time = float | Tensor
LISTED = NEXT = -1.0  # in a key: the step begins at the run's own time, and ends at the next one
NEAR = 1e-3  # a time so far from one of the run's is that one
TOTAL = make_row(p_m=1.0, A=[1.0])  # x' = D, which the weights make


def flow_map_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> Rows:
    """x_r = x_t + (sigma_r - sigma_t) u. key: t where it is none of the run's, and r where it is not the next."""
    start, end = (_sigma(scheduler, run, time) for time in key)
    sigmas = run.host_sigmas
    starts = sigmas[:-1] if start is None else np.full(len(run.times), start)
    if end is None and start is not None:
        return [Refused(f"r_timestep: expected a time, because t = {key[0]:g} is none of scheduler.timesteps")]
    ends = sigmas[1:] if end is None else np.full(len(run.times), end)
    flows = flow_points(starts)
    return [
        Row.at(flows.at(i), "flow", "flow_prediction", LinearUpdate(x=1.0, history=(float(t - s),)))
        for i, (s, t) in enumerate(zip(starts, ends, strict=True))
    ]


def _sigma(scheduler: Scheduler, run: RunState, time: float) -> float | None:
    """None for one that is the run's own."""
    if time == LISTED:
        return None
    place = place_of(run, time)
    return time / scheduler.config.num_train_timesteps if place is None else float(run.host_sigmas[place])


def place_of(run: RunState, time: float) -> int | None:
    """The number of the run's time that is nearest, if it is near."""
    apart = np.abs(run.times - time)
    place = int(apart.argmin())
    return place if apart[place] <= NEAR else None


def sigmas_of(scheduler: Scheduler, time: Tensor, count: int, after: int = 0) -> Tensor:
    """The sigmas [count] of times [count] or a single one, found on their device. after: of the times after them."""
    time = time.double().reshape(-1).expand(count)
    known, sigmas = scheduler.timesteps.to(time), scheduler.sigmas.to(time)
    apart, place = (time[:, None] - known).abs().min(1)
    if after and bool((apart > NEAR).any()):
        raise ValueError("r_timestep: expected times, because some of timestep are none of scheduler.timesteps")
    return torch.where(apart <= NEAR, sigmas[place + after], time / scheduler.config.num_train_timesteps)


class FlowMapEulerDiscreteScheduler(FusedScheduler, diffusers.FlowMapEulerDiscreteScheduler):
    """The step of a flow map (Geng et al. 2025, arXiv 2505.13447, eq. 9), from any time to any other."""

    recipe = Recipe(
        flow_map_rows, Flow(fractional=True, ready=True), output_dtype="output", keeps_output=False, steps_by_time=True
    )
    set_timesteps = own_times(diffusers.FlowMapEulerDiscreteScheduler.set_timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        r_timestep: Time | None = None,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> FlowMapEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """x_r = x_t + (sigma_r - sigma_t) u in one fused call.

        timestep, r_timestep: t and r, a number or a tensor, also [B] or [B, F] with a time for each sample or frame.
        r is the next of scheduler.timesteps where it is not given, which t has to be one of then (ValueError).
        generator: not read.
        """
        if any(isinstance(t, Tensor) and self._stays_on_device(t) for t in (timestep, r_timestep)):
            new = self._step_of_each(model_output, timestep, sample, r_timestep)
        else:
            timestep, start = self._start(timestep)
            end = NEXT if r_timestep is None else self._number(r_timestep)
            new, _ = self._advance(model_output, timestep, sample, key=(start, end))
        return FlowMapEulerDiscreteSchedulerOutput(new) if return_dict else (new,)

    def _stays_on_device(self, time: Tensor) -> bool:
        """Whether a tensor holds several times, or one that the host would have to wait for."""
        return time.numel() > 1 or (time.device.type != "cpu" and self._threads.with_element(time)[1] is None)

    def _number(self, time: Time) -> float:
        run, place = self._threads.with_element(time)
        if place is None:
            return float(time)
        self._refresh(run)
        return float(run.times[place])

    def _start(self, time: Time) -> tuple[Time, float]:
        """(the run's time whose step it is, the time itself where it is none of the run's)."""
        if is_compiling():
            return time, LISTED
        run, place = self._threads.with_element(time)
        if place is not None:
            return time, LISTED
        self._refresh(run)
        place = place_of(run, float(time))
        return (self.timesteps[0], float(time)) if place is None else (self.timesteps[place], LISTED)

    def _step_of_each(self, m: Tensor, t: Time, x: Tensor, r: Time | None) -> Tensor:
        run, shape = self._threads.run, x.shape
        times = [torch.as_tensor(time, device=x.device) for time in (t, t if r is None else r)]
        m, x = (tensor.flatten(0, max(0, *(time.ndim - 1 for time in times))) for tensor in (m, x))
        start, end = (
            sigmas_of(self, time, len(x), after) for time, after in zip(times, (0, int(r is None)), strict=True)
        )
        weights = torch.zeros(len(x), 1, 6, dtype=torch.float64, device=x.device)
        weights[:, 0, 0], weights[:, 0, 4] = end - start, 1.0
        run._step_index = (run._step_index or 0) + 1
        return solver_step(x, m, TOTAL, weights=weights).x.to(m.dtype).view(shape)
