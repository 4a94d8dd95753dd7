"""Drop-ins in diffusers: what a scheduler's step costs the host, and what `accelerate` does for a whole pipeline.

A step is what pipelines call for each time, `scale_model_input` and `step`, with a model that costs nothing. Its
operations are those that pass torch's dispatcher. The networks are Stable Diffusion 1.5's at a quarter of their width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastdiff as fd

diffusers = pytest.importorskip("diffusers")
networks = pytest.importorskip("bench.networks")
schedulers = pytest.importorskip("fastdiff.schedulers")

SHAPES = [(1, 4, 64, 64), (8, 4, 128, 128)]
STEPS = 20
CLASSES = [name for name in schedulers.__all__ if name != "SchedulerMixin" and hasattr(diffusers, name)]
HOSTS = {"fastdiff": schedulers, "diffusers": diffusers}

ALONE = {"attention": False, "group_norm": False, "scheduler": False, "cross_attention_cache": False}
PARTS = {
    "plain": ALONE,
    "group_norm": ALONE | {"group_norm": True},
    "attention": ALONE | {"attention": True},
    "attention, cache": ALONE | {"attention": True, "cross_attention_cache": True},
    "accelerate": {},
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


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_steps(benchmark, host: str, name: str, shape: tuple[int, ...]) -> None:
    scheduler = getattr(HOSTS[host], name)()
    x, m = torch.randn(shape), torch.randn(shape)

    def fresh() -> None:
        scheduler.set_timesteps(STEPS)

    fresh()
    with Dispatched() as dispatched:
        assert torch.isfinite(run(scheduler, x * getattr(scheduler, "init_noise_sigma", 1.0), m)).all()
    steps = len(scheduler.timesteps)
    benchmark.extra_info |= {"steps": steps, "operations": round(dispatched.count / steps, 1)}
    benchmark.group = f"{name} {shape}"
    benchmark.pedantic(run, (scheduler, x * getattr(scheduler, "init_noise_sigma", 1.0), m), setup=fresh, rounds=20)


@pytest.mark.parametrize("parts", PARTS)
def test_unet(benchmark, parts: str) -> None:
    unet, t = networks.unet(), torch.tensor(400)
    x, context = torch.randn(2, 4, 64, 64), torch.randn(2, networks.TOKENS, networks.CONTEXT)

    @torch.no_grad()
    def step() -> Tensor:
        return unet(x, t, context, return_dict=False)[0]

    expected = step()
    fd.accelerate(unet, **PARTS[parts])
    for _ in range(2):
        assert (step() - expected).abs().max() <= 1e-5 * expected.abs().max()
    benchmark.group = "U-Net, one step with guidance, 512 x 512"
    benchmark.pedantic(step, rounds=6)


@pytest.mark.parametrize("parts", ["plain", "accelerate"])
def test_pipeline(benchmark, parts: str) -> None:
    pipe = networks.pipeline()
    fd.accelerate(pipe, **PARTS[parts])
    prompt, empty = torch.randn(2, 1, networks.TOKENS, networks.CONTEXT)

    def image() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": IMAGE_STEPS, "generator": generator, "output_type": "pt"}
        return pipe(prompt_embeds=prompt, negative_prompt_embeds=empty, **options).images

    assert image().shape == (1, 3, 512, 512)
    benchmark.group = f"text to image, {IMAGE_STEPS} steps, 512 x 512"
    benchmark.pedantic(image, rounds=2)
