"""Drop-ins in diffusers: what a scheduler's step costs the host, and what `accelerate` does for a whole pipeline.

A step is what pipelines call for each time, `scale_model_input` and `step`, with a model that costs nothing. Its
operations are those that pass torch's dispatcher. The networks are Stable Diffusion 1.5's at a quarter of their width.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastdiff as fd

diffusers = pytest.importorskip("diffusers")
networks = pytest.importorskip("bench.networks")
schedulers = pytest.importorskip("fastdiff.schedulers")

SHAPES = [(1, 4, 64, 64), (8, 4, 128, 128)]
STEPS = 20
CLASSES = [name for name in schedulers.__all__ if name != "SchedulerMixin" and hasattr(diffusers, name)]

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


def run(scheduler: object, x: Tensor, m: Tensor) -> Tensor:
    """A sampling run in which every model output is m."""
    scales = hasattr(scheduler, "scale_model_input")
    for t in scheduler.timesteps:
        if scales:
            scheduler.scale_model_input(x, t)
        x = scheduler.step(m, t, x, return_dict=False)[0]
    return x


def paired(
    benchmark,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    fresh: Callable[[], None] = lambda: None,
) -> None:
    """Time ours, and theirs before each round of it, so that both meet the same machine; theirs is extra_info."""
    seconds: list[float] = []

    def other() -> None:
        fresh()
        began = time.perf_counter()
        theirs()
        seconds.append(time.perf_counter() - began)

    benchmark.pedantic(ours, setup=other, rounds=rounds)
    benchmark.extra_info["theirs"] = {"min": min(seconds), "median": statistics.median(seconds)}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_steps(benchmark, name: str, shape: tuple[int, ...]) -> None:
    x, m = torch.randn(shape), torch.randn(shape)
    both = {"fastdiff": getattr(schedulers, name)(), "diffusers": getattr(diffusers, name)()}

    def fresh() -> None:
        for scheduler in both.values():
            scheduler.set_timesteps(STEPS)

    fresh()
    runs = []
    for host, scheduler in both.items():
        start = x * getattr(scheduler, "init_noise_sigma", 1.0)
        with Dispatched() as dispatched:
            assert torch.isfinite(run(scheduler, start, m)).all()
        benchmark.extra_info[host] = round(dispatched.count / len(scheduler.timesteps), 1)
        runs.append(partial(run, scheduler, start, m))
    benchmark.extra_info["steps"] = len(scheduler.timesteps)
    benchmark.group = f"{name} {shape}"
    paired(benchmark, *runs, rounds=20, fresh=fresh)


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
