"""estimate_statistics: the model statistics that DPM-Solver-v3 needs, from one long run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks
from ..ops.reference import compute_dtype
from ..plans.build import plan as make_plan
from ..plans.plan import Plan
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Schedule
from ..plans.solvers.dpm_solver_v3 import Statistics
from .model import Model
from .sample import iter_sample

__all__ = ["Statistics", "estimate_statistics"]

_PROBE = 1e-2  # length of the finite difference, in units of a component's standard deviation
_RIDGE = 1e-6  # f this small beside sigma eps / alpha is noise; s is 0 there


@torch.no_grad()
def estimate_statistics(
    model: Model,
    schedule: Schedule,
    noise: Tensor,
    *,
    steps: int = 60,
    prediction: str | None = None,
    **options: Any,
) -> Statistics:
    """Estimate l and s of DPM-Solver-v3 (Zheng et al. 2023, arXiv 2310.13268, eq. 7 and 11) along a run of the model.

    The run is `steps` steps of DPM-Solver++(2M); the model is called 3 steps times. With f = (sigma eps - l x) / alpha:
    l(lambda) is the mean diagonal entry of sigma d(eps)/dx, by Hutchinson's estimator and central differences, with one
    random sign vector and two evaluations per state. s(lambda) is the slope of the regression of df/dlambda on f
    without intercept, df/dlambda by central differences along the run.
    noise: [B, ...]; a few tens of samples are enough, fewer if they are large. options: those of `fastdiff.iter_sample`
    and the model's own, such as guidance and uncond; draw with the same ones:
    fd.plan("dpm_solver_v3", ..., statistics=).
    Raises TypeError or ValueError naming the argument, ValueError if the model returns numbers that are not finite.
    """
    checks.require_float("noise", noise)
    own = options_of(iter_sample)
    check_keywords(model, [name for name in options if name not in own], (*options_of(estimate_statistics), *own))
    if options.get("shard") is not None:
        raise ValueError("shard: not here, where means are over whole samples")
    noise = noise.to(compute_dtype(noise.dtype))
    run = make_plan("dpmpp_2m", schedule, steps, grid="logsnr", prediction=prediction, final_sigma="sigma_min")
    generator = torch.Generator().manual_seed(0)
    states, outputs, log_snr, slopes = [], [], [], []
    x = noise * run.init_scale
    for step, row in zip(iter_sample(model, run, noise, **options), run.rows, strict=True):
        if row.alpha > 0:
            signs = (2 * torch.randint(0, 2, x.shape, generator=generator) - 1).to(x)
            h = _PROBE * float(np.hypot(row.alpha, row.sigma)) * signs
            above, below = (_eps(model, run, row, x + d, options) for d in (h, -h))
            # Hutchinson: the mean of signs (eps(x + h) - eps(x - h)) / 2 |h| is that of the diagonal of d(eps)/dx.
            slopes.append(row.sigma * float(((above - below) * signs).mean()) / (2 * float(h.abs().mean())))
            states.append(x.double().cpu())
            outputs.append(((x - row.alpha * step.x0) / row.sigma).double().cpu())
            log_snr.append(float(np.log(row.alpha / row.sigma)))
        x = step.x.clone()
    at, l = np.array(log_snr), np.array(slopes)  # noqa: E741
    ratio = np.exp(-at)
    alphas = [row.alpha for row in run.rows if row.alpha > 0]
    f = torch.stack([r * e - k * x / a for r, e, k, x, a in zip(ratio, outputs, l, states, alphas, strict=True)])
    if not torch.isfinite(f).all():
        raise ValueError("model: gave numbers that are not finite")
    df = torch.gradient(f, spacing=(torch.from_numpy(at),), dim=0)[0]
    scale = torch.stack([r * e for r, e in zip(ratio, outputs, strict=True)])
    products = [(a * b).flatten(1).sum(1) for a, b in ((f, df), (f, f), (scale, scale))]
    s = (products[0] / (products[1] + _RIDGE * products[2])).numpy()
    return Statistics(at, l, s)


def _eps(model: Model, run: Plan, row: Row, x: Tensor, options: dict[str, Any]) -> Tensor:
    """eps at one row of the run for another state, with the run's guidance."""
    here = Plan((replace(row, x=LinearUpdate(x=1.0), base=None),), run.end, run.prediction)
    step = next(iter_sample(model, here, x / here.init_scale, **options))
    return (x - row.alpha * step.x0) / row.sigma
