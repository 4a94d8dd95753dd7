"""Schedulers whose protocol is not that of images: how each is made, begun, given a model's output and stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from scheduler_loops import draws, model
from torch import Tensor

from fastdiff import schedulers

SHAPE = (2, 3, 4, 6, 5)
STRUCTURES = {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 2.0, "tsr_sigma": 0.7, "tail_steps": 0}


def plain(scheduler: object, i: int, shape: tuple[int, ...]) -> dict:
    return {}


def dmd(scheduler: object, i: int, shape: tuple[int, ...]) -> dict:
    """As Helios' pipeline calls it: the noise of the stage, and the scheduler's own times."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return {
        "cur_sampling_step": i, "dmd_noisy_tensor": noise.to(torch.get_default_dtype()),
        "dmd_sigmas": scheduler.sigmas, "dmd_timesteps": scheduler.timesteps, "all_timesteps": scheduler.timesteps,
    }  # fmt: skip


def emitted(scheduler: object, i: int, shape: tuple[int, ...]) -> dict:
    return {"emit_mask": torch.arange(shape[1]).remainder(5).ne(2).expand(shape[:2])}


class Protocol(NamedTuple):
    """options: of the constructor. begin: set_timesteps for n steps. step: (scheduler, number, shape) -> arguments."""

    options: dict | None = None
    begin: Callable[[object, int], None] = lambda scheduler, n: scheduler.set_timesteps(n)
    step: Callable[[object, int, tuple[int, ...]], dict] = plain
    shape: tuple[int, ...] = (2, 3, 6, 5)
    outputs: int = 1  # side by side in the last dimension


def stage(scheduler: object, n: int) -> None:
    scheduler.set_timesteps(n, 1, mu=0.6)


PROTOCOLS = {
    "CMStochasticIterativeScheduler": Protocol(),
    "FlowMapEulerDiscreteScheduler": Protocol(),
    "FlowMatchLCMScheduler": Protocol(),
    "HeliosDMDScheduler": Protocol(begin=stage, step=dmd, shape=SHAPE),
    "HeliosScheduler": Protocol(begin=stage),
    "LTXEulerAncestralRFScheduler": Protocol(),
    "MiniMaxH3Scheduler": Protocol(begin=lambda scheduler, n: scheduler.set_timesteps(n + 1)),
    "PiflowScheduler": Protocol(outputs=10),
    "RFD4ProteinaScheduler": Protocol(STRUCTURES, step=emitted, shape=(2, 9, 3)),
    "SCMScheduler": Protocol(
        begin=lambda scheduler, n: scheduler.set_timesteps(n, intermediate_timesteps=1.3 if n == 2 else None)
    ),
}
OWN = ("HeliosDMDScheduler", "HeliosScheduler", "PiflowScheduler", "RFD4ProteinaScheduler", "SCMScheduler")
DIRECT = tuple(  # whose steps get all from their caller, and their loops are in direct_loops
    f"{name}Scheduler"
    for name in ("CogVideoXDPM", "DDPMWuerstchen", "KarrasVe", "RePaint", "ScoreSdeVe", "ScoreSdeVp", "UnCLIP")
)
STANDARD = [n for n in schedulers.__all__ if n not in ("SchedulerMixin", "PlanScheduler", *OWN, *DIRECT)]
BROWNIAN = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")  # noise is torchsde's, which reads values


def make(library: object, name: str, **options: object) -> object:
    return getattr(library, name)(**{**(PROTOCOLS[name].options or {}), **options})


def times_of(scheduler: object) -> Tensor:
    """One for each step: SCM lists the end too."""
    return scheduler.timesteps[:-1] if "SCM" in type(scheduler).__name__ else scheduler.timesteps


def output_of(scheduler: object, x: Tensor, t: Tensor | float) -> Tensor:
    """What the model says of x, as the scheduler's step reads it."""
    read = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    grid = getattr(scheduler, "n_grid", 1)
    return torch.cat([model(read + 0.1 * k, t) for k in range(grid)], dim=-1)


def first_sample(protocol: Protocol, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(protocol.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def walk(
    name: str,
    scheduler: object,
    n: int,
    begin: int = 0,
    dtype: torch.dtype = torch.float32,
    end: int | None = None,
) -> Tensor:
    """The sample after n steps, or those from number `begin` to before `end`."""
    protocol = PROTOCOLS[name]
    protocol.begin(scheduler, n)
    x, options = first_sample(protocol, dtype), {}
    if draws(type(scheduler)):
        options["generator"] = [torch.Generator().manual_seed(3 + b) for b in range(len(x))]
    for i, t in list(enumerate(times_of(scheduler)))[begin:end]:
        arguments = protocol.step(scheduler, i, x.shape)
        x = scheduler.step(output_of(scheduler, x, t), t, x, **arguments, **options, return_dict=False)[0]
    return x
