"""What a `StepBatch` costs beside the model, against `fd.sample` in one batch and one by one."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

from .markdown import table

STEPS, REPEATS = 40, 15
CASES = [((1, 8, 8), 8), ((1, 8, 8), 32), ((4, 64, 64), 8), ((4, 128, 128), 8)]


def table_of_costs() -> str:
    """For each shape, number of requests and guidance: best and median processor microseconds a step."""
    rows = []
    for shape, count in CASES:
        for scale in (None, 3.0):
            cells = [f"{min(us):.0f}, {statistics.median(us):.0f}" for us in costs(shape, count, scale)]
            rows.append([f"{count} of {shape}", "guided" if scale else "", *cells])
    return table(["requests", "", "StepBatch", "sample, one batch", "sample, one by one"], rows)


def costs(shape: tuple[int, ...], count: int, scale: float | None) -> list[list[float]]:
    """Processor microseconds a step of `count` requests, by turns: in a StepBatch, in one batch, one by one."""
    plan = fd.plan("dpmpp_2m", fd.Schedule.scaled_linear(), STEPS)
    noise, seeds = torch.randn(count, *shape), list(range(count))
    outputs = torch.randn(2 * count, *shape)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return outputs[: len(x)]

    batch = fd.StepBatch(shape, count, uncond={})  # it keeps its memory, as a server's does

    def together() -> Tensor:
        tickets = [batch.add(plan, noise[k : k + 1], guidance=scale) for k in seeds]
        while batch:
            x, t, _ = batch.inputs()
            batch.step(model(x, t))
        return torch.cat([ticket.result for ticket in tickets if ticket.result is not None])

    def one_batch() -> Tensor:
        return drawn(noise)

    def one_by_one() -> Tensor:
        return torch.cat([drawn(noise[k : k + 1]) for k in seeds])

    def drawn(some: Tensor) -> Tensor:
        x = fd.sample(model, plan, some, guidance=scale, uncond={})
        assert isinstance(x, Tensor)
        return x

    assert torch.equal(together(), one_batch())
    found: list[list[float]] = [[], [], []]
    for _ in range(REPEATS):
        for times, call in zip(found, (together, one_batch, one_by_one), strict=True):
            times.append(timed(call) / STEPS * 1e6)
    return found


def table_of_calls() -> str:
    """Processor milliseconds of a call of the digits network by the number of samples, and of a sample."""
    net, rows = demo.load_model(), []
    for n in (1, 2, 4, 8, 16, 32, 64):
        x, t, y = torch.randn(n, *demo.SHAPE), 999 * torch.rand(n), torch.randint(demo.NUM_CLASSES, (n,))
        with torch.no_grad():
            call = functools.partial(net, x, t, y)
            best = 1e3 * min(timed(call) for _ in range(REPEATS))
        rows.append([n, f"{best:.2f}", f"{best / n:.2f}"])
    return table(["samples in a call", "ms", "ms a sample"], rows)


def timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
