"""The whole sampling loop: a small and an SD1.5-size U-Net with random weights, in all the ways there are to run it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import fastdiff as fd

from ..unet import UNet
from .rows import Session

SIZES = {
    "small U-Net": ({"channels": 128, "multipliers": (1, 2, 2), "context": 256}, (1, 4, 32, 32)),
    "SD1.5-size U-Net": ({}, (1, 4, 64, 64)),
}
QUICK = {"tiny U-Net": ({"channels": 32, "multipliers": (1, 2), "context": 32, "heads": 2}, (1, 4, 8, 8))}
STEPS = (8, 20)
TOKENS = 77
# torch's own graphs, and none, so that the whole loop can be one
COMPILED = {"max-autotune": "max-autotune", "compiled": "max-autotune-no-cudagraphs"}
COMPILE_SECONDS = 150  # what compiling the large U-Net may need; started only while so much time is left

Draw = Callable[[Tensor], Tensor]


def loops(session: Session) -> None:
    """Images a second for N steps of DPM-Solver++(2M), and host microseconds a run."""
    dtype = torch.float16 if session.device == "cuda" else torch.float32
    for title, (sizes, shape) in (QUICK if session.quick else SIZES).items():
        torch.manual_seed(0)
        net = UNet(**sizes).to(session.device, dtype).eval().requires_grad_(False)
        context = torch.randn(shape[0], TOKENS, sizes.get("context", 768), device=session.device, dtype=dtype)
        noise = torch.randn(shape, device=session.device, dtype=dtype)
        for name, model in _models(session, net, context).items():
            for steps in STEPS[:1] if session.quick else STEPS:
                case = f"{title}, N = {steps}"
                for loop, make in LOOPS.items():
                    if loop != "fastdiff graph" or (session.device == "cuda" and name != "max-autotune"):
                        _measure(session, case, f"{loop}, {name} model", partial(make, model, steps, noise), noise)


def _models(session: Session, net: nn.Module, context: Tensor) -> dict[str, Callable]:
    """The network as it is, with fastdiff's ops in it, and compiled."""
    ours = copy.deepcopy(net)
    fd.accelerate(ours)
    found = {"eager": _with(net, context), "accelerated": _with(ours, context)}
    if session.quick:
        found["compiled"] = _with(torch.compile(net, backend="eager"), context)
    elif session.seconds_left > COMPILE_SECONDS:
        for name, mode in COMPILED.items():
            found[name] = _with(torch.compile(net, mode=mode, dynamic=False), context)
    return found


def _with(net: nn.Module, context: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: net(x, t, context)


def _plan(steps: int) -> fd.Plan:
    return fd.plan("dpmpp_2m", fd.Schedule.scaled_linear(), steps)


def _fastdiff(model: Callable, steps: int, noise: Tensor) -> Draw:
    return partial(fd.sample, model, _plan(steps))


def _graph(model: Callable, steps: int, noise: Tensor) -> Draw:
    return fd.capture(model, _plan(steps), noise)


def _diffusers(model: Callable, steps: int, noise: Tensor) -> Draw:
    import diffusers

    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.DPMSolverMultistepScheduler(**common)

    @torch.no_grad()
    def draw(noise: Tensor) -> Tensor:
        scheduler.set_timesteps(steps, device=noise.device)
        x = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            m = model(scheduler.scale_model_input(x, t), t.expand(len(x)))
            x = scheduler.step(m, t, x, return_dict=False)[0]
        return x

    return draw


LOOPS = {"diffusers": _diffusers, "fastdiff": _fastdiff, "fastdiff graph": _graph}


def _measure(session: Session, case: str, name: str, make: Callable[[], Draw], noise: Tensor) -> None:
    made: list[Draw] = []

    def calls() -> list[Callable[[], object]]:
        made.append(make())
        drawn = made[0](noise)
        if not torch.isfinite(drawn).all():
            raise ArithmeticError("the result is not finite")
        return [lambda: made[0](noise)]

    row = session.measure("loop", case, name, calls)
    if not row.note:
        row.host = session.clock.host(lambda: made[0](noise), count=3) * 1e6
        row.note = f"{len(noise) / row.median * 1e6:.2f} images/s"
