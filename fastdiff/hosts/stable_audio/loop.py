"""The loop of velocity models: a plan's run with stable-audio-tools' progress bar and callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...plans.plan import Plan
from ...sampling.sample import iter_sample

Callback = Callable[[dict[str, Any]], object] | None


@torch.no_grad()
def draw(
    model: Callable[..., Tensor],
    plan: Plan,
    x: Tensor,
    callback: Callback,
    extra_args: Mapping[str, object],
    *,
    disable: bool = False,
    first: int = 0,
) -> Tensor:
    """x [B, ...] at the plan's end from x at its beginning, in x's dtype.

    model: model(x, t [B], **extra_args). callback: called after each step with x, t, sigma, i and denoised, copies.
    first: the i of the first step.
    """

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t.to(x.dtype), **extra_args)

    state, steps = x, iter_sample(evaluate, plan, x / plan.init_scale)
    for step in tqdm(steps, total=plan.nfe, disable=disable):
        state = step.x
        if callback is not None:
            seen = {"x": step.x.to(x.dtype, copy=True), "denoised": step.x0.to(x.dtype, copy=True)}
            callback({**seen, "t": step.t, "sigma": step.sigma, "i": first + step.i})
    return state.to(x.dtype)
