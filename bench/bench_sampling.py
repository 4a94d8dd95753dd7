"""The loop around a model that costs nothing: what a whole run spends outside the network."""

from __future__ import annotations

import pytest
import torch

import fastdiff as fd

from .in_diffusers import draw, make_scheduler

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
    pytest.importorskip("diffusers")
    scheduler, noise, m = make_scheduler(name), torch.randn(shape), torch.randn(shape)
    benchmark.group = f"{STEPS} steps of {name} {shape}"
    assert torch.isfinite(benchmark(lambda: draw(scheduler, lambda x, t: m, STEPS, noise))).all()
