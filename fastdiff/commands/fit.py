"""fastdiff fit: a plan fitted to a model, as JSON."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from .. import demo, fitting
from ..noise import randn
from ..plan import Plan
from .sample import labels_of

FIRST_SEED = 10**6  # far from the seeds that anybody samples, so that a fit is judged on other noise than it saw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=("demo",), default="demo", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, required=True, help="model evaluations of the plan")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--samples", type=int, default=640, help="noises to fit to and judge by (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, help="of the last stage (default: %(default)s)")
    parser.add_argument("--start-iterations", type=int, default=20, help="of each solver tried (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale to fit for (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="another seed fits to other noise (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="time after which the best plan so far is written")
    parser.add_argument("--evaluations", type=int, help="the same in model evaluations of one sample")
    parser.add_argument("--folder", type=Path, help="keeps the work; the same command goes on where it stopped")


def fit_demo(
    steps: int, *, samples: int = 640, seed: int = 0, guidance: float | None = None, **options: object
) -> Plan:
    """`fastdiff.fit` on the shipped model, with every digit equally often."""
    seeds = list(range(FIRST_SEED * (seed + 1), FIRST_SEED * (seed + 1) + samples))
    uncond = None if guidance is None else {"y": torch.full((1,), demo.NUM_CLASSES)}
    return fitting.fit(
        demo.load_model(), demo.schedule(), steps, randn((samples, *demo.SHAPE), seeds),
        prediction=demo.PREDICTION, y=labels_of(seeds, None), guidance=guidance, uncond=uncond, held_out=0.2,
        batch=48, seed=seed, **options,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Fit, print the table of what was tried, and write the plan."""
    _check_writable(arguments.out)
    print(fitting.HEADER)
    names = ("samples", "iterations", "start_iterations", "guidance", "seed", "seconds", "evaluations", "folder")
    options = {name: getattr(arguments, name) for name in names}
    plan = fit_demo(arguments.steps, progress=True, report=lambda trial: print(trial, flush=True), **options)
    plan.save(arguments.out)
    print(f"{plan.solver}, {plan.nfe} NFE -> {arguments.out}")
    return 0


def _check_writable(out: Path) -> None:
    """Raises OSError now, not after minutes of work."""
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OSError(f"--out: the folder {out.parent} is not there or cannot be written")
