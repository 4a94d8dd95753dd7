"""The solver step without the model: fastdiff's backends, the fewest eager ops, diffusers where installed."""

from __future__ import annotations

from functools import partial

import torch

import fastdiff as fd
from fastdiff.ops import backend
from fastdiff.sampling.run import Run

from .rows import Calls, Session

SHAPES = {
    "SD1.5 latent": (1, 4, 64, 64),
    "SDXL latent": (2, 4, 128, 128),
    "Flux latent": (1, 16, 128, 128),
    "video latent": (1, 16, 21, 60, 104),
}
PLANS = {"2M": ("dpmpp_2m", {}, 5), "2M SDE": ("dpmpp_2m_sde", {}, 5), "UniPC-3": ("unipc", {"order": 3}, 9)}
STEPS, AT, SETS = 20, 10, 4
BACKENDS = {"cuda": ("cuda", "triton"), "cpu": ("cpu", "reference")}


def solver_steps(session: Session) -> None:
    shapes = dict(list(SHAPES.items())[:1]) if session.quick else SHAPES
    for title, shape in shapes.items():
        for label, (solver, options, operands) in PLANS.items():
            makers = {
                f"fastdiff ({name})": partial(_ours, session, solver, options, shape, name)
                for name in BACKENDS[session.device]
            }
            makers["diffusers"] = partial(_diffusers, session, label, shape)
            if label == "2M":
                makers["3 eager ops"] = partial(_eager, session, shape)
            for name, make in makers.items():
                moved = operands * 4 * torch.Size(shape).numel()
                row = session.measure("solver step", f"{label}, {title} {shape}", name, make, bytes=moved)
                if not row.note:
                    row.host = session.clock.host(make()[0]) * 1e6


def _ours(session: Session, solver: str, options: dict, shape: tuple[int, ...], name: str) -> Calls:
    plan = fd.plan(solver, fd.Schedule.scaled_linear(), STEPS, grid="leading", **options)

    def one() -> object:
        noise, m = (torch.randn(shape, device=session.device) for _ in range(2))
        seeds = torch.arange(shape[0], device=session.device)
        with backend(name):
            run = Run(plan, noise, model_dtype=torch.float32, seeds=seeds)
        for i in range(AT):
            run.apply(i, m)

        def step() -> None:
            run.apply(AT, m)

        return step

    return [one() for _ in range(SETS)]


def _eager(session: Session, shape: tuple[int, ...]) -> Calls:
    def one() -> object:
        x, d, old = (torch.randn(shape, device=session.device) for _ in range(3))
        return lambda: (x * 0.9).add_(d, alpha=0.2).add_(old, alpha=-0.1)

    return [one() for _ in range(SETS)]


def _diffusers(session: Session, label: str, shape: tuple[int, ...]) -> Calls:
    import diffusers

    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if label == "UniPC-3":
        scheduler = diffusers.UniPCMultistepScheduler(solver_order=3, **common)
    else:
        kind = "sde-dpmsolver++" if label == "2M SDE" else "dpmsolver++"
        scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type=kind, **common)
    scheduler.set_timesteps(STEPS, device=session.device)
    x, m = (torch.randn(shape, device=session.device) for _ in range(2))
    for t in scheduler.timesteps[:AT]:
        x = scheduler.step(m, t, x, return_dict=False)[0]
    t, index = scheduler.timesteps[AT], scheduler.step_index

    def step() -> object:
        scheduler._step_index = index
        return scheduler.step(m, t, x, return_dict=False)[0]

    return [step]
