"""fastdiff fit: a plan fitted to a model, as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from .. import demo, fitting
from ..arguments import finite, positive, whole
from ..plans.plan import Plan
from ..sampling.noise import randn
from .output import Output, shows_bars
from .sample import labels_of

SAMPLES = {"forward": 32, "full": 640}
FIRST_SEED = 10**6  # far from the seeds that anybody samples, so that a fit is judged on other noise than it saw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff fit`."""
    parser.add_argument("--model", choices=("demo",), default="demo", help="(default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), required=True, help="model evaluations of the plan")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write, - for standard output")
    parser.add_argument("--method", choices=fitting.METHODS, default="forward", help="(default: %(default)s)")
    parser.add_argument(
        "--samples",
        type=whole(fitting.MIN_SAMPLES),
        help="noises to fit to and judge by (default: "
        + ", ".join(f"{count} for {method}" for method, count in SAMPLES.items())
        + ")",
    )
    for option, minimum, default, text in (
        ("--iterations", 1, 100, "of the descent by gradients, of --method full"),
        ("--seed", 0, 0, "another seed fits to other noise"),
    ):
        parser.add_argument(option, type=whole(minimum), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--guidance", type=finite, help="classifier-free guidance scale to fit for (default: none)")
    parser.add_argument("--seconds", type=positive, help="time after which the best plan so far is written")
    parser.add_argument("--evaluations", type=whole(1), help="the same in model evaluations of one sample")
    parser.add_argument("--folder", type=Path, help="keeps the work; the same command goes on where it stopped")


def fit_demo(
    steps: int,
    *,
    samples: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    method: str = "forward",
    **options: Any,
) -> Plan:
    """`fastdiff.fit` on the shipped model, with every digit equally often."""
    samples = samples or SAMPLES[method]
    seeds = list(range(FIRST_SEED * (seed + 1), FIRST_SEED * (seed + 1) + samples))
    uncond = None if guidance is None else {"y": torch.full((1,), demo.NUM_CLASSES)}
    return fitting.fit(
        demo.load_model(), demo.schedule(), steps, randn((samples, *demo.SHAPE), seeds),
        prediction=demo.PREDICTION, y=labels_of(seeds, None), guidance=guidance, uncond=uncond, held_out=0.2,
        batch=48, seed=seed, method=method, **options,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Fit, print the table of what was tried, and write the plan."""
    out = Output("--out", arguments.out, binary=False)
    if arguments.folder:
        Output("--folder", arguments.folder, folder=True)
    out.say(fitting.HEADER)
    names = ("method", "samples", "iterations", "guidance", "seed", "seconds", "evaluations", "folder")
    options = {name: getattr(arguments, name) for name in names}
    plan = fit_demo(arguments.steps, progress=shows_bars(), report=out.say, **options)
    out.save(plan.save)
    out.say(f"{plan.solver}, {plan.nfe} NFE -> {out}")
    return 0
