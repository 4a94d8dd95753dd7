"""Sampling of pi-Flow models, whose output is a policy for the whole step, not a velocity at its start."""

from __future__ import annotations

from weakref import ref

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_piflow import PiflowSchedulerOutput
from torch import Tensor
from torch.compiler import is_compiling

from ..ops import registry, solver_step
from ..plans.solvers.policy import grid_policy_weights
from ..plans.table import MAX_HISTORY, empty_table, flat_row
from .base import FusedScheduler
from .compile import compiled_step
from .euler import check_time
from .own_times import own_times
from .recipe import Recipe
from .run_state import Generators, Key, RunAttribute, RunState, Scheduler
from .runs import run_of_step
from .space import Space
from .step import fused_step


def policy_records(scheduler: Scheduler, run: RunState) -> np.ndarray:
    """For each step the records that add up its policy: each takes as many outputs as a record holds."""
    count, grid = len(run.times), scheduler.n_grid
    raw = [*run.host_sigmas[count + 1 :], scheduler.eps]
    parts = -(-grid // MAX_HISTORY)
    records = empty_table(count * parts)
    records["p_m"] = records["a_x"] = 1.0
    for i in range(count):
        weights = grid_policy_weights(
            raw[i], raw[i + 1], float(run.host_sigmas[i]), grid=grid, steps=scheduler.num_policy_substeps,
            shift=float(scheduler.config.shift), least=scheduler.eps,
        )  # fmt: skip
        for k in range(parts):
            taken = weights[k * MAX_HISTORY : (k + 1) * MAX_HISTORY]
            records[i * parts + k]["A"][: len(taken)] = taken
    return records


def advance(
    self: Scheduler,
    m: Tensor,
    timestep: object,
    x: Tensor,
    noise: Tensor | None = None,
    generator: Generators = None,
    key: Key = (),
) -> tuple[Tensor, Tensor | None]:
    """(the next sample [B, ..., C], nothing) of the model's outputs m [B, ..., G C] side by side."""
    if is_compiling():
        return compiled_step(self, m, timestep, x, noise, key)
    run = self._threads.run
    if run.last is None or run.last() is not x:
        run = run_of_step(self, timestep, x)
    records = self._remembered(run, "policy", lambda: policy_records(self, run))
    i = run._step_index
    if i >= len(run.times):
        raise RuntimeError(f"step: expected {len(run.times)} steps since set_timesteps, this is one more")
    new = weighted_sum(x, self._to_grid(m, x).unbind(1), records[i * len(records) // len(run.times) :])
    run._step_index = i + 1
    run.last = ref(new) if i + 1 < len(run.times) else None
    return new, None


def weighted_sum(x: Tensor, outputs: tuple[Tensor, ...], records: np.ndarray) -> Tensor:
    """x plus the outputs as the records weigh them, in x's dtype; in float32 or wider on the way."""
    groups = [outputs[k : k + MAX_HISTORY] for k in range(0, len(outputs), MAX_HISTORY)]
    total, wide = x, torch.promote_types(x.dtype, torch.float32)
    tracked = torch.is_grad_enabled() and (x.requires_grad or outputs[0].requires_grad)
    kernel = registry.choose("solver_step", registry.CallSpec(x.device.type, wide, tuple(x.shape)))
    for k, (first, *others) in enumerate(groups):
        if tracked:
            total = solver_step(total.to(wide), first, flat_row(records[k]), history=others).x
            continue
        new = torch.empty_like(x, dtype=x.dtype if k + 1 == len(groups) else wide)
        kernel(records, k, total, total, first, None, others, None, None, None, new, None, None, None)
        total = new
    return total.to(x.dtype)


class PiflowScheduler(FusedScheduler, diffusers.PiflowScheduler):
    """The policy of pi-Flow (Chen et al. 2025, arXiv 2510.14974) on a grid, its steps without the network summed."""

    _piflow_raw_timesteps = RunAttribute()
    recipe = Recipe(
        None,
        Space(fractional=True, run_tensors=("timesteps", "sigmas", "_piflow_raw_timesteps")),
        output_dtype="sample",
        reads=("n_grid", "eps", "num_policy_substeps"),
    )
    set_timesteps = own_times(diffusers.PiflowScheduler.set_timesteps)
    step = fused_step(diffusers.PiflowScheduler.step, PiflowSchedulerOutput, check=check_time)
    _advance = advance
