"""Ways to draw chunks of actions from one policy: lerobot's own, fastdiff's, and those of a flow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.hosts.lerobot import accelerate_policy, plan_for

from .demonstrations import HORIZON
from .policy import Policy

FLOW = fd.Schedule.flow()
Draw = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # features, noise [B, 16, 2], generator -> chunks


class Sampler(NamedTuple):
    name: str
    evaluations: int
    draw: Draw
    flow: bool = False


def samplers(policy: Policy, velocity: nn.Module | None, quick: bool) -> Iterator[Sampler]:
    """One after another: each is to be used before the next is asked for. velocity: None for no rows of a flow."""

    def own(told: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        return policy.conditional_sample(len(noise), told, generator, noise)

    for name, counts in (("DDPM", (100,)), ("DDIM", (100, 10, 4, 2))):
        for steps in counts if not quick else counts[-1:]:
            policy.use(name, min(steps, 10) if quick else steps)
            yield Sampler(name, policy.num_inference_steps, own)
    for steps in (10, 4) if not quick else (4,):
        handle = accelerate_policy(policy, steps)  # the one line
        yield Sampler("**fastdiff**", steps, own)
        handle.undo()
    if not quick:
        plan, rounds = plan_for(policy, 25, "dpmpp_2m"), 6

        def in_time(told: Tensor, noise: Tensor, _: torch.Generator) -> Tensor:
            return fd.sample_in_time(policy.unet, plan, noise, clamp=1.0, max_rounds=rounds, global_cond=told)[0]

        yield Sampler("in time, 25 rows", rounds, in_time)
    for steps in (10, 4) if velocity is not None else ():
        yield Sampler("Euler, flow", steps, by_plan(velocity, fd.plan("ddim", FLOW, steps, grid="time")), True)
        yield Sampler("**fastdiff**, flow", steps, by_plan(velocity, fd.plan(None, FLOW, steps)), True)


def by_plan(network: nn.Module | None, plan: fd.Plan) -> Draw:
    """`fd.sample` by a plan."""
    return lambda told, noise, _: fd.sample(network, plan, noise, global_cond=told)


class Converged:
    """Where runs end that start from some noise [N, 16, 2], given features [N, 86]: 400 steps of each view's ODE."""

    def __init__(self, policy: Policy, velocity: nn.Module | None, told: Tensor, steps: int = 400) -> None:
        self.told, self.reach = told, policy.reach
        self.noise = torch.randn(len(told), HORIZON, 2, generator=torch.Generator().manual_seed(1))
        handle = accelerate_policy(policy, plan_for(policy, steps, "dpmpp_2m", grid="logsnr"))
        self.ends = {False: policy.conditional_sample(len(told), told, None, self.noise)}
        handle.undo()
        if velocity is not None:
            plan = fd.plan("midpoint", FLOW, steps // 2, grid="time")
            self.ends[True] = by_plan(velocity, plan)(told, self.noise, torch.Generator())

    def apart(self, sampler: Sampler) -> float:
        """Pixels (root mean square) between the sampler's chunks and those."""
        drawn = sampler.draw(self.told, self.noise, torch.Generator().manual_seed(2))
        return float((self.reach * (drawn - self.ends[sampler.flow])).square().mean().sqrt())


def milliseconds(sampler: Sampler, told: Tensor, noise: Tensor, times: int) -> float:
    """The median time of one robot's chunk."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        sampler.draw(told[:1], noise[:1], torch.Generator().manual_seed(2))
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken))
