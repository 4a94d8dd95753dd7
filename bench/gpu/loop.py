"""The whole sampling loop: a small and an SD1.5-size U-Net with random weights, in all the ways there are to run it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

import fastdiff as fd

from ..in_diffusers import draw, make_scheduler
from ..unet import UNet
from .session import Calls, Session

SIZES = {
    "small U-Net": ({"channels": 128, "multipliers": (1, 2, 2), "context": 256}, (1, 4, 32, 32)),
    "SD1.5-size U-Net": ({}, (1, 4, 64, 64)),
}
TINY = {"channels": 32, "multipliers": (1, 1), "blocks": 1, "context": 32, "heads": 2}
QUICK = {"tiny U-Net": (TINY, (1, 4, 8, 8))}
STEPS, QUICK_STEPS = (8, 20), (2,)
TOKENS = 77
# The first and the last without graphs of torch's own, so that the whole loop can be one.
COMPILED = {"compiled": "default", "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune-no-cudagraphs"}
OWN_GRAPHS = "reduce-overhead"

Model = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[Tensor], Tensor]


def loops(session: Session) -> None:
    """The network as it is, and with fastdiff's ops in it."""
    _loops(session, {"eager": lambda net: net, "accelerated": _accelerated})


def compiled_loops(session: Session) -> None:
    """The network compiled by torch, on all cores: last, because that takes longer than all the rest."""
    importlib.import_module("torch._inductor.config").compile_threads = os.cpu_count()
    modes = {"compiled": {"backend": "eager"}} if session.quick else {name: {"mode": m} for name, m in COMPILED.items()}
    _loops(session, {name: partial(torch.compile, dynamic=False, **mode) for name, mode in modes.items()})


def _loops(session: Session, changes: dict[str, Callable[[nn.Module], nn.Module]]) -> None:
    """N steps of DPM-Solver++(2M): the seconds of a run, and the host's part of them."""
    for title, (sizes, shape) in (QUICK if session.quick else SIZES).items():
        noise = torch.randn(shape, device=session.device, dtype=_dtype(session))
        for name, change in changes.items():
            model = cache(partial(_model, session, sizes, len(noise), change))  # made by the first case that needs it
            for steps in QUICK_STEPS if session.quick else STEPS:
                for loop, make in LOOPS.items():
                    if loop != "fastdiff graph" or (session.device == "cuda" and name != OWN_GRAPHS):
                        calls = partial(_calls, make, model, steps, noise)
                        case = f"{title}, N = {steps}"
                        session.measure("loop", case, f"{loop}, {name} model", calls, host=3, images=len(noise))


def _model(session: Session, sizes: dict, batch: int, change: Callable[[nn.Module], nn.Module]) -> Model:
    torch.manual_seed(0)
    with torch.device(session.device):
        net = UNet(**sizes).to(_dtype(session)).eval().requires_grad_(False)
    context = torch.randn(batch, TOKENS, sizes.get("context", 768), device=session.device, dtype=_dtype(session))
    net = change(net)
    return lambda x, t: net(x, t, context)


def _accelerated(net: nn.Module) -> nn.Module:
    fd.accelerate(net)
    return net


def _calls(make: Callable[..., Draw], model: Callable[[], Model], steps: int, noise: Tensor) -> Calls:
    run = make(model(), steps, noise)
    if not torch.isfinite(run(noise)).all():
        raise ArithmeticError("the result is not finite")
    return [lambda: run(noise)]


def _plan(steps: int) -> fd.Plan:
    return fd.plan("dpmpp_2m", fd.Schedule.scaled_linear(), steps)


def _fastdiff(model: Model, steps: int, noise: Tensor) -> Draw:
    return partial(fd.sample, model, _plan(steps))


def _graph(model: Model, steps: int, noise: Tensor) -> Draw:
    return fd.capture(model, _plan(steps), noise)


def _diffusers(model: Model, steps: int, noise: Tensor) -> Draw:
    return partial(draw, make_scheduler("2m"), model, steps)


LOOPS = {"diffusers": _diffusers, "fastdiff": _fastdiff, "fastdiff graph": _graph}


def _dtype(session: Session) -> torch.dtype:
    return torch.float16 if session.device == "cuda" else torch.float32
