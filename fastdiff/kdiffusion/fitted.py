"""A plan for the models of a host, such as a fitted one, as a k-diffusion sampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..plans.plan import Plan
from .caller_sigmas import read_sigmas
from .loop import Denoiser, show, start


def plan_sampler(plan: Plan) -> Callable[..., Tensor]:
    """The plan as a sampler: fn(model, x, sigmas, extra_args=None, callback=None, disable=None) -> x [B, ...].

    plan: prediction "sample" and alpha = 1 throughout, such as `fastdiff.fit(denoiser, fastdiff.Schedule.edm(sigma_min,
    sigma_max), steps, noise, prediction="sample")` finds or `fastdiff.Plan.load` reads; or alpha = 1 - sigma, as for
    `fastdiff.Schedule.flow`, where the host's model is a rectified flow. sigmas: the first and last must be the plan's;
    the plan decides what lies between. callback: as for the other samplers, but once per model evaluation.
    Raises ValueError for a plan that draws noise, has another form, or starts or ends at another sigma.
    """
    plan.refuse_reuse("and k-diffusion's models hand over the guided output alone")
    levels = np.array([(row.alpha, row.sigma) for row in plan.rows] + [plan.end])
    of_a_host = (levels[:, 0] == 1).all() or np.allclose(levels.sum(1), 1, rtol=0, atol=1e-9)
    if plan.prediction != "sample" or not of_a_host or plan.stochastic:
        raise ValueError(
            "plan: expected a deterministic one with alpha = 1 and prediction 'sample', as for fastdiff.Schedule.edm,"
            f" or alpha = 1 - sigma, as for fastdiff.Schedule.flow; got prediction {plan.prediction!r}, alpha"
            f" {levels[:, 0].min():.4g} to {levels[:, 0].max():.4g}"
        )
    steps = np.cumsum([0, *(row.accepts for row in plan.rows[:-1])]).tolist()  # that each row belongs to

    @torch.no_grad()
    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, object] | None = None,
        callback: Callable[[dict], object] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        sigma = read_sigmas(sigmas)
        if len(sigma) < 2:
            return x
        ends = plan.rows[0].sigma, plan.end[1]
        if not np.allclose((sigma[0], sigma[-1]), ends, rtol=1e-4):
            raise ValueError(
                f"sigmas: the plan runs from {ends[0]:.6g} to {ends[1]:.6g}, got {sigma[0]:.6g} to {sigma[-1]:.6g}"
            )
        run, kwargs = start(plan.rows, plan.end, x), extra_args or {}

        def evaluate(given: Tensor, t: Tensor) -> tuple[Tensor]:
            denoised = model(given, t, **kwargs)
            if callback is not None:
                sigma = plan.rows[run.i].t
                show(callback, run, x.dtype, i=steps[run.i], sigma=sigma, sigma_hat=sigma, denoised=denoised)
            return (denoised,)

        for _ in tqdm(run.steps(evaluate, run.times(dtype=x.dtype)), total=plan.nfe, disable=disable):
            pass
        return run.x.to(x.dtype)

    return sample
