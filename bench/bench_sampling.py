"""The loop around a model that costs nothing: what a whole run spends outside the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd

SHAPES = [(1, 4, 64, 64), (8, 4, 128, 128)]
STEPS = 20
CONTESTANTS = {"2m": "dpmpp_2m", "euler": "euler", "unipc": "unipc"}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CONTESTANTS)
def test_fastdiff_loop(benchmark, name: str, shape: tuple[int, ...]) -> None:
    plan = fd.plan(CONTESTANTS[name], fd.Schedule.scaled_linear(), STEPS, grid="leading", prediction="epsilon")
    noise, m = torch.randn(shape), torch.randn(shape)
    benchmark.group = f"{STEPS} steps of {name} {shape}"
    x = benchmark(lambda: fd.sample(lambda x, t: m, plan, noise))
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CONTESTANTS)
def test_diffusers_loop(benchmark, name: str, shape: tuple[int, ...]) -> None:
    diffusers = pytest.importorskip("diffusers")
    make = {
        "2m": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
    }[name]
    scheduler = make(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noise, m = torch.randn(shape), torch.randn(shape)

    def loop() -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(m, t, x, return_dict=False)[0]
        return x

    benchmark.group = f"{STEPS} steps of {name} {shape}"
    assert torch.isfinite(benchmark(loop)).all()
