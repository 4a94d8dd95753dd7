"""Any plan of the EDM form, a fitted one for instance, as a k-diffusion sampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..plans.plan import Plan
from .levels import read_levels
from .loop import Denoiser, show, start


def plan_sampler(plan: Plan) -> Callable[..., Tensor]:
    """fn(model, x, sigmas, extra_args=None, callback=None, disable=None) -> x [B, ...]: the plan's own run.

    plan: of alpha = 1 and prediction "sample", such as `fastdiff.fit(denoiser, fastdiff.Schedule.edm(sigma_min,
    sigma_max), steps, noise, prediction="sample")` finds or `fastdiff.Plan.load` reads. sigmas: their ends must be the
    plan's; what lies between is the plan's own. callback: as for the other samplers, once a model evaluation.
    Raises ValueError for a plan that draws noise, is of another form, or begins or ends elsewhere.
    """
    alphas = [row.alpha for row in plan.rows] + [plan.end[0]]
    if plan.prediction != "sample" or any(alpha != 1 for alpha in alphas) or plan.stochastic:
        raise ValueError(
            "plan: expected a deterministic one with alpha = 1 and prediction 'sample', as for fastdiff.Schedule.edm;"
            f" got prediction {plan.prediction!r}, alpha {min(alphas):.4g} to {max(alphas):.4g}"
        )

    @torch.no_grad()
    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, object] | None = None,
        callback: Callable[[dict], object] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        levels = read_levels(sigmas)
        if len(levels) < 2:
            return x
        ends = plan.rows[0].sigma, plan.end[1]
        if not np.allclose((levels[0], levels[-1]), ends, rtol=1e-4):
            raise ValueError(
                f"sigmas: the plan runs from {ends[0]:.6g} to {ends[1]:.6g}, got {levels[0]:.6g} to {levels[-1]:.6g}"
            )
        run, kwargs = start(plan.rows, plan.end, x), extra_args or {}

        def evaluate(given: Tensor, sigma: Tensor) -> tuple[Tensor]:
            denoised = model(given, sigma, **kwargs)
            if callback is not None:
                t = plan.rows[run.i].t
                show(callback, run, x.dtype, i=run.i, sigma=t, sigma_hat=t, denoised=denoised)
            return (denoised,)

        for _ in tqdm(run.steps(evaluate, run.times(dtype=x.dtype)), total=plan.nfe, disable=disable):
            pass
        return run.x.to(x.dtype)

    return sample
