"""The solver step without the model: fastdiff, of one row and of rows, few eager ops, torch.compile and diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from ..bench_solver_step import PLANS, ROW, check, compiled_step, diffusers_step, fastdiff_step, three_eager_ops
from ..bench_solver_step_rows import Steps
from ..bench_solver_step_rows import check as check_rows
from .session import Calls, Session

SECTION = "solver step"
SHAPES = {
    "SD1.5 latent": (1, 4, 64, 64),
    "eight SDXL latents": (8, 4, 128, 128),
    "video latent": (1, 16, 21, 60, 104),
}
MORE_SHAPES = {"Flux latent": (1, 16, 128, 128), "two SDXL latents": (2, 4, 128, 128)}
QUICK = {"tiny latent": (2, 4, 8, 8)}
BACKENDS = {"cuda": ("cuda", "triton"), "cpu": ("cpu", "reference")}
SETS = 4  # of tensors, which take turns
HOST = 50

Shape = tuple[int, ...]


def solver_steps(session: Session, shapes: dict[str, Shape] = SHAPES) -> None:
    """A row in the middle of the run, with a full history, of three solvers."""
    for title, shape in (QUICK if session.quick else shapes).items():
        for plan, (_, _, operands) in PLANS.items():
            moved = operands * 4 * math.prod(shape)
            for name, make in _contestants(session, plan, shape).items():
                case = f"{plan}, {title} {shape}"
                session.measure(SECTION, case, name, make, host=3 if session.quick else HOST, bytes=moved)


def _contestants(session: Session, plan: str, shape: Shape) -> dict[str, Callable[[], Calls]]:
    device = session.device
    found = {f"fastdiff {name}": partial(_ours, plan, shape, device, name) for name in BACKENDS[device]}
    found |= {f"fastdiff {name}, rows": partial(_rows, plan, shape, device, name) for name in BACKENDS[device]}
    found["diffusers"] = lambda: [diffusers_step(plan, shape, device)]
    if plan == "2m":
        backend = "eager" if session.quick else "inductor"
        found["3 eager ops"] = lambda: [three_eager_ops(shape, device) for _ in range(SETS)]
        found["compiled"] = lambda: [compiled_step(shape, device, backend)]
    return found


def _ours(plan: str, shape: Shape, device: str, backend: str) -> Calls:
    steps = [fastdiff_step(plan, shape, device, backend) for _ in range(SETS)]
    check(*steps[0])
    return [step for step, _, _ in steps]


def _rows(plan: str, shape: Shape, device: str, backend: str) -> Calls:
    """The same with the row of each sample read from a table: every sample is at the same one."""
    rows = torch.full((shape[0],), ROW, device=device)
    steps = [Steps(plan, shape, device, backend) for _ in range(SETS)]
    check_rows(steps[0], steps[0].of_rows(rows), steps[0].common(ROW))
    return [step.of_rows(rows) for step in steps]
