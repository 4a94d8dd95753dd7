"""Drop-ins in diffusers: what a scheduler's step costs the host, and what `accelerate` does for a whole pipeline.

A step is what pipelines call for each time, `scale_model_input` and `step`, without gradients and with a model that
costs nothing. Its operations are those that pass torch's dispatcher. The networks are Stable Diffusion 1.5's at a
quarter of their width.
"""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastdiff as fd
from fastdiff.ops import registry

from .paired import paired

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scheduler_protocols import STANDARD

diffusers = pytest.importorskip("diffusers")
networks = pytest.importorskip("bench.networks")
schedulers = pytest.importorskip("fastdiff.schedulers")

SHAPES = [(1, 4, 64, 64), (8, 4, 128, 128)]
STEPS = 20
SECONDS = 1.0  # to time a class at a shape, on both sides together
SDE = {"algorithm_type": "sde-dpmsolver++"}
FIXED = {"DPMSolverSDEScheduler": {"noise_sampler_seed": 0}}
NAMES = [name for name in STANDARD if hasattr(diffusers, name)]
CLASSES = [(name, FIXED.get(name, {})) for name in NAMES]
CLASSES += [("DPMSolverMultistepScheduler", SDE), ("DPMSolverSinglestepScheduler", SDE)]

ALONE = {"attention": False, "group_norm": False, "scheduler": False, "cross_attention_cache": False}
PARTS = {
    "group_norm": ALONE | {"group_norm": True},
    "attention": ALONE | {"attention": True},
    "attention, cache": ALONE | {"attention": True, "cross_attention_cache": True},
    "all": {},
}
IMAGE_STEPS = 8


class Dispatched(TorchDispatchMode):
    """Counts tensor operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def run(scheduler: object, times: list[Tensor], x: Tensor, m: Tensor) -> Tensor:
    """A sampling run in which every model output is m."""
    scales = hasattr(scheduler, "scale_model_input")
    for t in times:
        if scales:
            scheduler.scale_model_input(x, t)
        x = scheduler.step(m, t, x, return_dict=False)[0]
    return x


def parts(scheduler: object, times: list[Tensor], x: Tensor, m: Tensor) -> Counter[str]:
    """Seconds of a run of fastdiff's that its kernel takes, and its random numbers."""
    spent: Counter[str] = Counter()

    def timed(what: str, function: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            began = time.perf_counter()
            result = function(*arguments, **options)
            spent[what] += time.perf_counter() - began
            return result

        return call

    choose = registry.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "choose", lambda *case: timed("kernel", choose(*case)))
        if scheduler.recipe.noise is not None:
            patch.setattr(scheduler, "recipe", replace(scheduler.recipe, noise=timed("noise", scheduler.recipe.noise)))
        run(scheduler, times, x, m)
    return spent


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=str)
@torch.no_grad()
def test_steps(benchmark, name: str, options: dict, shape: tuple[int, ...]) -> None:
    x, m = torch.randn(shape), torch.randn(shape)
    both = {"fastdiff": getattr(schedulers, name)(**options), "diffusers": getattr(diffusers, name)(**options)}

    times: dict[str, list[Tensor]] = {host: [] for host in both}

    def fresh() -> None:
        for host, scheduler in both.items():
            scheduler.set_timesteps(STEPS)
            times[host][:] = scheduler.timesteps

    fresh()
    began = time.perf_counter()
    runs = []
    for host, scheduler in both.items():
        start = x * getattr(scheduler, "init_noise_sigma", 1.0)
        with Dispatched() as dispatched:
            assert torch.isfinite(run(scheduler, times[host], start, m)).all()
        benchmark.extra_info[host] = round(dispatched.count / len(times[host]), 1)
        runs.append(partial(run, scheduler, times[host], start, m))
    rounds = min(max(int(SECONDS / (time.perf_counter() - began)), 2), 100)
    benchmark.extra_info["steps"] = len(times[host])
    benchmark.group = f"{name}{', SDE' if options is SDE else ''} {shape}"
    paired(benchmark, *runs, rounds=rounds, fresh=fresh)
    spent = []
    for _ in range(rounds):
        fresh()
        spent.append(parts(both["fastdiff"], times["fastdiff"], start, m))
    benchmark.extra_info |= {what: min(seconds[what] for seconds in spent) for what in ("kernel", "noise")}


@pytest.mark.parametrize("parts", PARTS)
def test_unet(benchmark, parts: str) -> None:
    plain, t = networks.unet(), torch.tensor(400)
    x, context = torch.randn(2, 4, 64, 64), torch.randn(2, networks.TOKENS, networks.CONTEXT)
    ours = copy.deepcopy(plain)
    fd.accelerate(ours, **PARTS[parts])

    @torch.no_grad()
    def step(unet: nn.Module) -> Tensor:
        return unet(x, t, context, return_dict=False)[0]

    expected = step(plain)
    for _ in range(2):
        assert (step(ours) - expected).abs().max() <= 1e-5 * expected.abs().max()
    benchmark.group = f"U-Net, one step with guidance, 512 x 512: {parts}"
    paired(benchmark, partial(step, ours), partial(step, plain), rounds=6)


def test_pipeline(benchmark) -> None:
    plain, ours = networks.pipeline(), networks.pipeline()
    fd.accelerate(ours)
    prompt, empty = torch.randn(2, 1, networks.TOKENS, networks.CONTEXT)

    def image(pipe: object) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": IMAGE_STEPS, "generator": generator, "output_type": "pt"}
        return pipe(prompt_embeds=prompt, negative_prompt_embeds=empty, **options).images

    benchmark.group = f"text to image, {IMAGE_STEPS} steps, 512 x 512"
    paired(benchmark, partial(image, ours), partial(image, plain), rounds=3)
