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


def fastdiff_step(name: str, shape: tuple[int, ...]) -> tuple[Callable[[], object], Run, Tensor]:
    """A call that applies row ROW again and again, the run it works on, and the model's output."""
    plan = make_plan(name)
    run = Run(plan, torch.randn(shape), model_dtype=torch.float32, seeds=torch.arange(shape[0]))
    for i in range(ROW):
        run.apply(i, torch.randn(shape))
    m = torch.randn(shape)

    def step() -> None:
        run.apply(ROW, m)

    return step, run, m


def check(step: Callable[[], object], run: Run, m: Tensor) -> None:
    x, base, history = run.x.double(), run.base.double(), [h.double() for h in run.history]
    seeds = torch.arange(len(m))
    expected, _, _ = reference.solver_step(run.table[ROW], x, base, m.double(), None, history, None, None, seeds)
    step()
    assert (run.x - expected).abs().max() <= 2e-6 * expected.abs().max()


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
    x, d, old = (torch.randn(shape) for _ in range(3))
    a, b, c = 0.9, 0.2, -0.1

    def step() -> Tensor:
        return (x * a).add_(d, alpha=b).add_(old, alpha=c)

    benchmark.group = f"2m {shape} {threads} thread"
    benchmark(step)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_compile(benchmark, shape: tuple[int, ...], threads: int) -> None:
    plan = make_plan("2m")
    row = plan.rows[ROW]
    x, m, old = (torch.randn(shape) for _ in range(3))

    @torch.compile(dynamic=False)
    def step(x: Tensor, m: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        d = row.p_x * x + row.p_m * m
        return row.x.x * x + row.x.history[0] * d + row.x.history[1] * old, d

    d = step(x, m, old)[1]
    assert torch.allclose(d, row.p_x * x + row.p_m * m, atol=1e-4)
    benchmark.group = f"2m {shape} {threads} thread"
    benchmark(step, x, m, old)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_diffusers(benchmark, name: str, shape: tuple[int, ...], threads: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if name == "unipc3":
        scheduler = diffusers.UniPCMultistepScheduler(solver_order=3, **common)
    else:
        kind = "sde-dpmsolver++" if name == "2m_sde" else "dpmsolver++"
        scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type=kind, **common)
    scheduler.set_timesteps(STEPS)
    x, m = torch.randn(shape), torch.randn(shape)
    for t in scheduler.timesteps[:ROW]:
        x = scheduler.step(m, t, x, return_dict=False)[0]
    t, index = scheduler.timesteps[ROW], scheduler.step_index

    def step() -> Tensor:
        scheduler._step_index = index
        return scheduler.step(m, t, x, return_dict=False)[0]

    assert torch.isfinite(step()).all()
    benchmark.group = f"{name} {shape} {threads} thread"
    benchmark(step)


def record_traffic(benchmark, like: Tensor, operands: int, threads: int) -> None:
    """Bytes that one pass must move, and the share of the machine's copy bandwidth that the best round reached."""
    moved = operands * like.numel() * like.element_size()
    benchmark.extra_info["bytes"] = moved
    if benchmark.stats is not None:
        rate = moved / benchmark.stats.stats.min
        benchmark.extra_info["of_copy_bandwidth"] = round(rate / copy_bandwidth(moved, threads), 3)
