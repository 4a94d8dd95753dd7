"""One solver step without the model: fastdiff beside eager torch, torch.compile and diffusers.

Every contestant makes the same update from the same tensors and is checked against float64 before it is timed.
"floor" is the fewest eager ops that make a 2M step from precomputed coefficients; it does not convert the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import reference
from fastdiff.sampling.run import Run

from .accuracy import check_close
from .in_diffusers import make_scheduler
from .machine import copy_bandwidth

SHAPES = [(1, 4, 64, 64), (8, 4, 128, 128)]
THREADS = [1, 2]
STEPS, ROW = 20, 10  # a row in the middle of the run, where the history is full

SCHEDULE = fd.Schedule.scaled_linear()
# solver, options, operands that one pass must read and write
PLANS = {
    "2m": ("dpmpp_2m", {}, 5),
    "2m_sde": ("dpmpp_2m_sde", {}, 5),
    "unipc3": ("unipc", {"order": 3}, 9),
}


@pytest.fixture(params=THREADS, ids=lambda n: f"{n}thread")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def make_plan(name: str) -> fd.Plan:
    solver, options, _ = PLANS[name]
    return fd.plan(solver, SCHEDULE, STEPS, grid="leading", final_sigma="zero", prediction="epsilon", **options)


def fastdiff_step(
    name: str, shape: tuple[int, ...], device: str = "cpu", backend: str = "auto"
) -> tuple[Callable[[], object], Run, Tensor]:
    """A call that applies row ROW again and again, the run it works on, and the model's output."""
    noise, m = (torch.randn(shape, device=device) for _ in range(2))
    with fd.backend(backend):
        run = Run(make_plan(name), noise, model_dtype=torch.float32, seeds=torch.arange(shape[0], device=device))
    for i in range(ROW):
        run.apply(i, torch.randn(shape, device=device))

    def step() -> None:
        run.apply(ROW, m)

    return step, run, m


def check(step: Callable[[], object], run: Run, m: Tensor) -> None:
    x, base, history = run.x.double(), run.base.double(), [h.double() for h in run.history]
    seeds = torch.arange(len(m), device=m.device)
    expected, _, _ = reference.solver_step(run.table[ROW], x, base, m.double(), None, history, None, None, seeds)
    step()
    check_close(run.x, expected, 2e-6)


def three_eager_ops(shape: tuple[int, ...], device: str = "cpu") -> Callable[[], Tensor]:
    x, d, old = (torch.randn(shape, device=device) for _ in range(3))
    a, b, c = 0.9, 0.2, -0.1
    return lambda: (x * a).add_(d, alpha=b).add_(old, alpha=c)


def compiled_step(shape: tuple[int, ...], device: str = "cpu", backend: str = "inductor") -> Callable[[], object]:
    """A 2M step by torch.compile, after it was compiled and checked."""
    row = make_plan("2m").rows[ROW]
    x, m, old = (torch.randn(shape, device=device) for _ in range(3))

    @torch.compile(dynamic=False, backend=backend)
    def step(x: Tensor, m: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        d = row.p_x * x + row.p_m * m
        return row.x.x * x + row.x.history[0] * d + row.x.history[1] * old, d

    d = step(x, m, old)[1]
    assert torch.allclose(d, row.p_x * x + row.p_m * m, atol=1e-4)
    return lambda: step(x, m, old)


def diffusers_step(name: str, shape: tuple[int, ...], device: str = "cpu") -> Callable[[], Tensor]:
    """The same step by diffusers' scheduler, after it was tried. Raises ImportError where there is no diffusers."""
    scheduler = make_scheduler(name)
    scheduler.set_timesteps(STEPS, device=device)
    x, m = (torch.randn(shape, device=device) for _ in range(2))
    for t in scheduler.timesteps[:ROW]:
        x = scheduler.step(m, t, x, return_dict=False)[0]
    t, index = scheduler.timesteps[ROW], scheduler.step_index

    def step() -> Tensor:
        scheduler._step_index = index
        return scheduler.step(m, t, x, return_dict=False)[0]

    assert torch.isfinite(step()).all()
    return step


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_fastdiff(benchmark, name: str, shape: tuple[int, ...], threads: int) -> None:
    step, run, m = fastdiff_step(name, shape)
    check(step, run, m)
    benchmark.group = f"{name} {shape} {threads} thread"
    benchmark(step)
    record_traffic(benchmark, m, PLANS[name][2], threads)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_floor_of_three_eager_ops(benchmark, shape: tuple[int, ...], threads: int) -> None:
    benchmark.group = f"2m {shape} {threads} thread"
    benchmark(three_eager_ops(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_compile(benchmark, shape: tuple[int, ...], threads: int) -> None:
    benchmark.group = f"2m {shape} {threads} thread"
    benchmark(compiled_step(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_diffusers(benchmark, name: str, shape: tuple[int, ...], threads: int) -> None:
    pytest.importorskip("diffusers")
    benchmark.group = f"{name} {shape} {threads} thread"
    benchmark(diffusers_step(name, shape))


def record_traffic(benchmark, like: Tensor, operands: int, threads: int) -> None:
    """Bytes that one pass must move, and the share of the machine's copy bandwidth that the best round reached."""
    moved = operands * like.numel() * like.element_size()
    benchmark.extra_info["bytes"] = moved
    if benchmark.stats is not None:
        rate = moved / benchmark.stats.stats.min
        benchmark.extra_info["of_copy_bandwidth"] = round(rate / copy_bandwidth(moved, threads), 3)
