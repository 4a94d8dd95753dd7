"""A plan's run with the network's own time and the caller's noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...ops.reference import compute_dtype
from ...plans.plan import Plan
from ...sampling.run import Run


@torch.no_grad()
def run_plan(
    plan: Plan,
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    randn_like: Callable[[Tensor], Tensor],
    sigma: float,
    s_noise: float,
    every_step: bool,
) -> Tensor:
    """x0 [B, ...] in noise's dtype, from unit noise [B, ...].

    network: (x, sigma a scalar) -> D. sigma: where x begins; if the plan does above it, by a churn before the first
    step, fresh noise takes it there, s_noise times. every_step: whether a noise is drawn for each step, read or not, as
    PhysicsNeMo does.
    """
    dtype = compute_dtype(noise.dtype)
    first = plan.rows[0].sigma
    begin = min(sigma, first)
    state = noise.to(dtype) * begin
    above = first > begin * (1 + 1e-9)
    if every_step or above:
        spread = math.sqrt((first - begin) * (first + begin)) if above else 0.0
        state = state + s_noise * spread * randn_like(state)
    run = Run(plan, state, model_dtype=noise.dtype, given_noise=True, watched=False)
    levels = torch.tensor([row.t for row in plan.rows], dtype=noise.dtype, device=noise.device)
    for i, level in enumerate(levels):
        d = network(run.model_input, level).to(dtype)
        read = run.moves[i].noises
        drawn = int(plan.rows[i].accepts and run.i + 1 < plan.nfe) if every_step else read
        run.apply(i, d, noises=[randn_like(run.x) for _ in range(drawn)][:read])
    return run.x.to(noise.dtype)
