"""RFD4-Proteina's sampler of structures: a flow from noise at t = 0 to data at t = 1, at a lower temperature."""

from __future__ import annotations

from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_rfd4_proteina import RFD4ProteinaSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.compiler import is_compiling

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.rescaled_score import rescaled_row, score_ratio
from .base import FusedScheduler
from .own_times import own_times
from .recipe import Recipe
from .run_state import Generators, Key, RunAttribute, RunState, Scheduler
from .space import Space
from .spaces import flow_points


class DataTime(Space):
    """x = t x0 + (1 - t) eps."""

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        return flow_points(1 - run.host_sigmas[begin : len(run.times) + 1])


def proteina_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """With noise where the time lies between the two limits, for a model of x0 - eps."""
    config, rows = scheduler.config, []
    langevin = run.host_sigmas[len(run.times) + 1 + run.begin :]
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        noisy = config.t_lim_ode_below <= s.alpha <= config.t_lim_ode
        g = float(langevin[i]) if noisy else None
        row = rescaled_row(s, t, "flow_prediction", score_ratio(s, config.tsr_k, config.tsr_sigma), g)
        rows.append(replace(row, p_m=-row.p_m))
    return rows


def sample_noise(scheduler: Scheduler, run: RunState, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """In the sample's dtype; a generator for each sample, which has to be another one."""
    generators = scheduler._generators(generator, len(x))
    drawn_from = None if generators is None else list(generators)
    return randn_tensor(x.shape, generator=drawn_from, device=x.device, dtype=x.dtype)


class RFD4ProteinaScheduler(FusedScheduler, diffusers.RFD4ProteinaScheduler):
    """Euler's method on the flow with the score rescaled; between the two limits with the Langevin part of an SDE."""

    _times, _noise = RunAttribute(), RunAttribute()
    recipe = Recipe(
        proteina_rows,
        DataTime(fractional=True, run_tensors=("timesteps", "_times", "_noise")),
        noise=sample_noise,
        keeps_output=False,
    )
    set_timesteps = own_times(diffusers.RFD4ProteinaScheduler.set_timesteps)

    @property
    def step_index(self) -> int | None:
        """The number of the next step, None before set_timesteps."""
        begun = self._threads.run._step_index
        return begun if begun is not None or self.timesteps is None else 0

    def _require_steps(self, run: RunState) -> None:
        if run.timesteps is None:
            raise ValueError("timesteps: expected set_timesteps to be called before step")

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        emit_mask: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> RFD4ProteinaSchedulerOutput | tuple[Tensor]:
        """One row of the scheduler's table in one fused call, and 0 where emit_mask [B, N] is false.

        model_output: x0 - eps, [B, N, D], as the sample. generator: of a single sample, or another one for each.
        Raises ValueError for times out of order.
        """
        _check_order(self, timestep)
        self._generators(generator, len(sample))
        new, _ = self._advance(model_output, timestep, sample, generator=generator)
        new.mul_(emit_mask[..., None])
        return RFD4ProteinaSchedulerOutput(new) if return_dict else (new,)


def _check_order(scheduler: Scheduler, timestep: object) -> None:
    if is_compiling():
        return
    run, place = scheduler._threads.with_element(timestep)
    scheduler._require_steps(run)
    following = 0 if run._step_index is None or run.over else run._step_index
    if place is None and (not isinstance(timestep, Tensor) or timestep.device.type == "cpu"):
        scheduler._refresh(run)
        place = following if float(timestep) == run.times[following] else None
    if place != following:
        raise ValueError(f"timestep: expected the next element of timesteps, number {following}, got {timestep}")
