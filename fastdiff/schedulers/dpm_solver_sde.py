"""DPM++ SDE in sigma: two evaluations a step, with Brownian noise."""

from __future__ import annotations

import diffusers
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler, DPMSolverSDESchedulerOutput
from torch import Tensor

from ..plans.row import Row, with_one_noise
from ..plans.schedule import Points
from ..plans.solvers.sde import dpmpp_sde
from .base import FusedScheduler
from .heun import state_in_first_order
from .recipe import Recipe
from .run_state import Generators, Key, RunAttribute, RunState, Scheduler
from .spaces import SIGMA_TWICE, VE_SCHEDULE
from .step import fused_step, scale_model_input


def dpmpp_sde_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For a model that predicts x0."""
    rows = dpmpp_sde(VE_SCHEDULE, points, "sample", s_noise=key[0] if key else 1.0)
    return [with_one_noise(row) for row in rows]


def brownian_noise(
    scheduler: Scheduler, run: RunState, step: int, m: Tensor, x: Tensor, generator: Generators
) -> Tensor:
    """The increment of a Brownian path over sigma, from the step's beginning to its middle or end."""
    if run.noise_sampler is None:
        if run.noise_seed is None:
            given = scheduler.noise_sampler_seed
            run.noise_seed = drawn_seed(generator) if given is None else given
        sigmas = run.sigmas[run.sigmas > 0]
        run.noise_sampler = BrownianTreeNoiseSampler(x, sigmas.min().item(), sigmas.max().item(), run.noise_seed)
    first = step - (step - run.begin) % 2
    # The path is rough: the noise is the same only if the ends are, to the last bit of float32.
    t, t_next = run.sigmas[first : first + 2].log().neg()
    end = t + (t_next - t) * 0.5 if step == first else t_next
    return run.noise_sampler(t.neg().exp(), end.neg().exp())


def drawn_seed(generator: Generators) -> int | list[int]:
    """A Brownian tree's seed, as torchsde draws it; one for each sample from a list of generators."""
    if isinstance(generator, list):
        return [drawn_seed(one) for one in generator]
    device = None if generator is None else generator.device
    return torch.randint(0, 2**63 - 1, [], generator=generator, device=device).item()


class DPMSolverSDEScheduler(FusedScheduler, diffusers.DPMSolverSDEScheduler):
    """DPM++ SDE (k-diffusion's sample_dpmpp_sde), with diffusers' Brownian noise over sigma (needs torchsde).

    The noise's seed is `noise_sampler_seed`, else drawn: from the generator that the first step is given, if any.
    """

    noise_sampler, mid_point_sigma = RunAttribute(), RunAttribute()
    recipe = Recipe(dpmpp_sde_rows, SIGMA_TWICE, extra="converted", noise=brownian_noise)
    step = fused_step(diffusers.DPMSolverSDEScheduler.step, DPMSolverSDESchedulerOutput, key=("s_noise",))
    scale_model_input = scale_model_input
    state_in_first_order = state_in_first_order
