"""fastdiff bench: a one-minute summary of what `pytest bench/` and `python -m bench.quality` measure in full."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer

from .. import demo
from ..arguments import positive
from ..plans.build import plan
from ..plans.schedule import Schedule
from ..sampling.run import Run
from .compare import converged, distances
from .sample import draw, labels_of

SHAPES = ((1, 4, 64, 64), (8, 4, 128, 128))
ENTRIES = ("ddim:8", "ddim:20", "unipc:8", "dpmpp_2m:8", "dpmpp_2m:20", "heun:10")
ROW, COUNT = 10, 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff bench`."""
    parser.add_argument("--seconds", type=positive, default=0.5, help="for each measurement (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Print both tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; median microseconds\n")
    print(f"{'one DPM-Solver++(2M) step':28s} {'fastdiff':>10s} {'3 torch ops':>12s} {'diffusers':>10s}")
    for shape in SHAPES:
        times = [measure(step, arguments.seconds) for step in _steps(shape)]
        print(f"{shape!s:28s} {times[0]:10.1f} {times[1]:12.1f} " + (f"{times[2]:10.1f}" if times[2:] else " " * 10))
    print(f"\n{f'{COUNT} digits':28s} {'NFE':>10s} {'median error':>12s} {'images/s':>10s}")
    model, seeds = demo.load_model(), list(range(COUNT))
    labels = labels_of(seeds, None)
    exact = converged(model, seeds, labels)
    for entry in ENTRIES:
        solver, _, steps = entry.partition(":")
        table = plan(solver, demo.schedule(), int(steps), grid="quadratic", prediction=demo.PREDICTION)
        error = np.median(distances(draw(model, table, seeds, labels), exact))
        microseconds = measure(partial(draw, model, table, seeds, labels), arguments.seconds)
        print(f"{entry:28s} {table.nfe:10d} {error:12.4f} {len(seeds) / microseconds * 1e6:10.0f}")
    return 0


def measure(call: Callable[[], object], seconds: float) -> float:
    """Median microseconds of a call."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median * 1e6


def _steps(shape: tuple[int, ...]) -> list[Callable[[], object]]:
    """One update without the model: ours, the fewest eager ops, and diffusers' where it is installed."""
    table = plan("dpmpp_2m", Schedule.scaled_linear(), 2 * ROW, grid="leading")
    run = Run(table, torch.randn(shape), model_dtype=torch.float32)
    for i in range(ROW):
        run.apply(i, torch.randn(shape))
    x, m, old = (torch.randn(shape) for _ in range(3))

    def ours() -> None:
        run.apply(ROW, m)

    def eager() -> None:
        (x * 0.9).add_(m, alpha=0.2).add_(old, alpha=-0.1)

    try:
        from diffusers import DPMSolverMultistepScheduler
    except ImportError:
        return [ours, eager]
    scheduler: Any = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(2 * ROW)
    for t in scheduler.timesteps[:ROW]:
        scheduler.step(m, t, x)
    t, index = scheduler.timesteps[ROW], scheduler.step_index

    def theirs() -> None:
        scheduler._step_index = index
        scheduler.step(m, t, x)

    return [ours, eager, theirs]
