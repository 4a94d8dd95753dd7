"""A model that gives a sample the same bits in any batch, and requests of all kinds for it."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

import fastdiff as fd

SCHEDULE = fd.Schedule.scaled_linear()
SHAPE = (2, 3, 5)
TOLD: dict[str, Tensor] = {"label": torch.tensor(0), "shift": torch.zeros(2)}
WITHOUT: dict[str, Tensor] = {"label": torch.tensor(9)}
NUMBERED = [entry.name for entry in fd.solvers()]


def model(x: Tensor, t: Tensor, label: Tensor, shift: Tensor) -> Tensor:
    """Sums, products and quotients of elements alone: IEEE rounds them in one way, in any batch and layout."""
    time = (t / 1000).to(x.dtype).view(-1, 1, 1, 1)
    return (
        x * (1.3 + time) / (1 + x * x) + 0.1 * label.to(x.dtype).view(-1, 1, 1, 1) + shift.to(x.dtype)[..., None, None]
    )


def plan_of(solver: str, steps: int, **options: Any) -> fd.Plan:
    return fd.plan(solver, SCHEDULE, steps, grid="logsnr", **options)


def some_request(plans: list[fd.Plan], **fixed: Any) -> tuple[fd.Plan, dict[str, Any]]:
    """A plan and options of `StepBatch.add`, at random."""
    plan, n = random.choice(plans), random.choice([1, 1, 1, 2, 3])
    options: dict[str, Any] = {"seeds": [random.randrange(2**62) for _ in range(n)]}
    options["guidance"] = random.choice([None, 1.0, 3.5, -0.5, torch.rand(n, dtype=torch.float64)])
    options["conditions"] = {"label": torch.randint(9, (n,))}
    if random.random() < 0.5:
        options["conditions"]["shift"] = torch.randn(n, 2)
    return plan, options | fixed


def alone(plan: fd.Plan, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any) -> Tensor:
    """`fastdiff.sample` of the same request."""
    options = dict(options)
    options.pop("priority", None)
    n = len(options["seeds"])
    told = {k: v.expand(n, *v.shape) for k, v in TOLD.items()} | options.pop("conditions", {})
    uncond = {k: v.expand(n, *v.shape) for k, v in WITHOUT.items()} | options.pop("uncond", {})
    noise = options.pop("noise", None)
    if noise is None:
        noise = fd.noise.randn((n, *SHAPE), options["seeds"], dtype=dtype, device=device)
    told, uncond = ({k: v.to(device) for k, v in side.items()} for side in (told, uncond))
    result = fd.sample(model, plan, noise, uncond=uncond, **options, **told)
    assert isinstance(result, Tensor)
    return result


def batch_of(slots: int, **options: Any) -> fd.StepBatch:
    return fd.StepBatch(SHAPE, slots, conditions=TOLD, uncond=WITHOUT, **options)


def step(batch: fd.StepBatch) -> list:
    x, t, conditions = batch.inputs()
    return batch.step(model(x, t, **conditions))


def drain(batch: fd.StepBatch) -> list:
    """Step until nobody is left; the tickets in the order in which they finished."""
    finished = []
    while batch:
        finished += step(batch)
    return finished
