"""The loop never waits for the device: no tensor's value is read on the host, so a GPU always has work queued."""

from __future__ import annotations

import pytest
import torch
from host_reads import HostReads
from step_batch_cases import batch_of, drain, plan_of, step
from torch import Tensor

import fastdiff as fd

SCHEDULE = fd.Schedule.scaled_linear()
SHAPE = (2, 3, 4, 4)


def model(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
    return torch.sin(x) + (t / 1000).view(-1, 1, 1, 1).to(x.dtype)


def draw(name: str, device: str, **options: object) -> None:
    plan = fd.plan(name, SCHEDULE, 4)
    fd.sample(model, plan, torch.randn(SHAPE, device=device), **options)


def test_the_mode_sees_a_read() -> None:
    with HostReads() as reads:
        float(torch.randn(3).sum())
    assert reads.seen == ["_local_scalar_dense"]


@pytest.mark.parametrize("name", [s.name for s in fd.solvers()])
def test_no_solver_reads_a_value(name: str) -> None:
    with HostReads() as reads:
        draw(name, "cpu")
        draw(name, "cpu", guidance=3.0, uncond={})
        draw(name, "cpu", guidance=torch.tensor([2.0, 3.0]), uncond={}, guidance_mode="calls")
    assert reads.seen == []


def test_neither_do_thresholds_nor_masks() -> None:
    image, mask = torch.rand(SHAPE), torch.rand(SHAPE) > 0.5
    with HostReads() as reads:
        draw("dpmpp_2m", "cpu", threshold=0.9)
        draw("dpmpp_2m", "cpu", image=image, mask=mask)
    assert reads.seen == []


@pytest.mark.parametrize("static", [False, True])
def test_neither_does_a_batch_of_requests(static: bool) -> None:
    batch = batch_of(3, static=static, previews=True)
    with HostReads() as reads:
        for name in ("dpmpp_2m", "unipc", "heun", "dpmpp_sde"):
            options = {} if static else {"threshold": 0.9}
            batch.add(plan_of(name, 3), seeds=[1, 2], guidance=2.0, **options)
        ticket = batch.add(plan_of("ddim", 4), seeds=[1])
        while not ticket.i:
            step(batch)
        batch.x0(ticket)
        drain(batch)
    assert reads.seen == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", [s.name for s in fd.solvers()])
def test_a_gpu_is_never_waited_for(name: str) -> None:
    draw(name, "cuda")  # compiles what has to be compiled
    noise, plan = torch.randn(SHAPE, device="cuda"), fd.plan(name, SCHEDULE, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fd.sample(model, plan, noise, guidance=3.0, uncond={})
    finally:
        torch.cuda.set_sync_debug_mode("default")
