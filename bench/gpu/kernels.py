"""Each Triton kernel by itself: its first call, which compiles it, registers and spills, the time of each launch."""

from __future__ import annotations

import importlib
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch

import fastdiff as fd
from fastdiff.ops import solver_step
from fastdiff.plans.table import flat_row

from .. import bench_attention, bench_group_norm, bench_solver_step
from .session import Session

LATENT = (8, 4, 128, 128)
# Contiguous, one in each form of the plan: in two launches, in one that reads a slab several times, held in registers.
NORMS = [(1, 128, 1024, 1024), (2, 320, 64, 64), (2, 1280, 16, 16)]
ATTENTIONS = [
    (2, 8, 4096, 77, 40), (2, 8, 1024, 77, 160), (2, 8, 4096, 4096, 40), (2, 10, 4096, 4096, 64),
    (2, 16, 1024, 1024, 72), (1, 24, 4608, 4608, 128),
]  # fmt: skip
QUICK_LATENT, QUICK_NORMS, QUICK_ATTENTIONS = (1, 4, 8, 8), [(1, 64, 8, 8)], [(1, 1, 16, 16, 40)]
LAYOUTS = tuple(bench_group_norm.LAYOUTS)
HISTORY = 4  # outputs given to a step, of which it reads what its row asks for

Call = Callable[[], object]


@dataclass
class Launch:
    """kernel[grid](*arguments, **options), to be made again. first: seconds, with compilation if there was any."""

    kernel: object
    grid: tuple[int, ...]
    arguments: tuple
    options: dict
    first: float = math.nan
    binary: object = None  # what Triton compiled

    def __call__(self) -> None:
        self.binary = self.kernel[self.grid](*self.arguments, **self.options)


def kernels(session: Session) -> None:
    """Compiles everything anew; on a CPU Triton's interpreter shows that all this works."""
    latent, norms, attentions = LATENT, NORMS, ATTENTIONS
    if session.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        latent, norms, attentions = QUICK_LATENT, QUICK_NORMS, QUICK_ATTENTIONS
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        for shape in norms:
            for layout in LAYOUTS:
                make = partial(_norm, shape, layout, session.device)
                _measure(session, "group_norm", f"{shape}, {layout}", make, 2 * 2 * math.prod(shape))
        for plan in bench_solver_step.PLANS:
            _measure(session, "solver_step", f"{plan} {latent}", partial(_step, plan, latent, session.device))
        for shape in attentions:
            _measure(session, "attention", f"{shape}", partial(_attention, shape, session.device))


def _measure(session: Session, op: str, case: str, make: Callable[[], Call], moved: int = 0) -> None:
    """moved: bytes that the op must read and write."""
    session.record("kernels", f"{op} {case}", "fastdiff triton", lambda: _launches(session, op, make()), bytes=moved)


def _launches(session: Session, op: str, call: Call) -> dict:
    with fd.backend("triton"):
        found = recorded(session, op, call)
    return {"launches": [_described(session, launch) for launch in found]}


def _described(session: Session, launch: Launch) -> dict:
    times = session.clock.time([launch])
    options = {name: value for name, value in launch.options.items() if isinstance(value, (bool, int))}
    binary = {
        "registers": getattr(launch.binary, "n_regs", None),
        "spills": getattr(launch.binary, "n_spills", None),
        "shared": getattr(getattr(launch.binary, "metadata", None), "shared", None),
    }
    programs = math.prod(launch.grid)
    return {"first": launch.first, "median": times.median, "programs": programs, **binary, "options": options}


def recorded(session: Session, op: str, call: Call) -> list[Launch]:
    """What `call` launches from the op's Triton module, in order."""
    module, found = importlib.import_module(f"fastdiff.ops.triton.{op}"), []

    class Recorder:
        def __init__(self, kernel: object) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable:
            def launch(*arguments: object, **options: object) -> None:
                made = Launch(self.kernel, grid, arguments, options)
                session.clock.wait()
                began = time.perf_counter()
                made()
                session.clock.wait()
                made.first = time.perf_counter() - began
                found.append(made)

            return launch

    with mock.patch.dict(module.KERNELS, {key: Recorder(kernel) for key, kernel in module.KERNELS.items()}):
        call()
    return found


def _step(name: str, shape: tuple[int, ...], device: str) -> Call:
    row = flat_row(bench_solver_step.make_plan(name).table[bench_solver_step.ROW])
    x, m, base, *history = (torch.randn(shape, device=device) for _ in range(3 + HISTORY))
    corrects = name == "unipc3"
    options = {"base": base if corrects else None, "write_base": corrects}
    seeds = torch.arange(len(x), device=device)
    return lambda: solver_step(x, m, row, history=history, seeds=seeds, **options)


def _norm(shape: tuple[int, ...], layout: str, device: str) -> Call:
    given = bench_group_norm.operands(shape, torch.float16, layout, "modulated", device)
    return lambda: bench_group_norm.ours(**given)


def _attention(shape: tuple[int, ...], device: str) -> Call:
    batch, heads, queries, keys, size = shape
    q, k, v = (torch.randn(batch, heads, n, size, device=device, dtype=torch.float16) for n in (queries, keys, keys))
    return lambda: bench_attention.attention(q, k, v)
