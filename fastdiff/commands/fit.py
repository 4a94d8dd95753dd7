"""fastdiff fit: a plan fitted to a shipped network or to a pipeline in a folder, as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import demo, fitting
from ..arguments import finite, positive, whole
from ..plans.plan import Plan
from ..sampling.noise import randn
from .output import Output, shows_bars
from .pipeline import DTYPES, fit_folder
from .processes import processes
from .sample import refuse_beside

SAMPLES = {"forward": 32, "full": 640}
BATCH = 48
FIRST_SEED = 10**6  # far from the seeds that anybody samples, so that a fit is judged on other noise than it saw
OF_PIPELINES = ("prompts", "device", "dtype")
OPTIONS = (
    "method",
    "samples",
    "iterations",
    "guidance",
    "seed",
    "tolerance",
    "seconds",
    "evaluations",
    "folder",
    "batch",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff fit`."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--network", choices=demo.networks(), help="one that ships (default: digits)")
    model.add_argument("--pipeline", type=Path, metavar="FOLDER", help="a pipeline of diffusers, as it was saved there")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="texts for the pipeline, one a line")
    parser.add_argument("--device", help="of the pipeline (default: cuda where there is one, else cpu)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the pipeline's networks (default: float32)")
    parser.add_argument("--steps", type=whole(1), required=True, help="model evaluations of the plan")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write, - for standard output")
    parser.add_argument("--method", choices=fitting.METHODS, default="forward", help="(default: %(default)s)")
    parser.add_argument(
        "--samples",
        type=whole(fitting.MIN_SAMPLES),
        help="noises to fit to and judge by (default: 8 for a pipeline, "
        + ", ".join(f"{count} for {method}" for method, count in SAMPLES.items())
        + ")",
    )
    for option, minimum, default, text in (
        ("--iterations", 1, 100, "of the descent by gradients, of --method full"),
        ("--seed", 0, 0, "another seed fits to other noise"),
    ):
        parser.add_argument(option, type=whole(minimum), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--batch", type=whole(1), help=f"samples in a call (default: {BATCH}, 4 for a pipeline)")
    parser.add_argument("--guidance", type=finite, help="classifier-free guidance scale to fit for (default: none)")
    parser.add_argument(
        "--tolerance", type=positive, help="change at which references count as converged (default: as the plan needs)"
    )
    parser.add_argument("--seconds", type=positive, help="time after which the best plan so far is written")
    parser.add_argument("--evaluations", type=whole(1), help="the same in model evaluations of one sample")
    parser.add_argument("--folder", type=Path, help="keeps the work; the same command goes on where it stopped")


def fit_demo(
    steps: int,
    *,
    network: str = "digits",
    samples: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    method: str = "forward",
    batch: int = BATCH,
    **options: Any,
) -> Plan:
    """`fastdiff.fit` on a shipped network, with every label equally often.

    Raises ValueError for guidance of a network without labels, and what `fastdiff.fit` raises.
    """
    net = demo.network(network)
    if guidance is not None and not net.num_classes:
        raise ValueError(f"guidance: {network} has no labels to guide by")
    samples = samples or SAMPLES[method]
    seeds = list(range(FIRST_SEED * (seed + 1), FIRST_SEED * (seed + 1) + samples))
    options |= net.conditions(seeds)
    uncond = None if guidance is None else net.uncond()
    return fitting.fit(
        net.model, net.schedule, steps, randn((samples, *net.shape), seeds),
        prediction=net.prediction, guidance=guidance, uncond=uncond, held_out=0.2, batch=batch, seed=seed,
        method=method, **options,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Fit, print the table of what was tried, and write the plan."""
    if arguments.pipeline is None:
        refuse_beside("a network that ships", arguments, *OF_PIPELINES, why="which takes no texts; give --pipeline")
    out = Output("--out", arguments.out, binary=False)
    if arguments.folder:
        Output("--folder", arguments.folder, folder=True)
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    with processes() as ranks:
        given |= {"progress": shows_bars(), "report": out.say if ranks.is_first else None}
        if arguments.pipeline is None:
            if ranks.is_first:
                out.say(fitting.HEADER)
            plan = fit_demo(arguments.steps, network=arguments.network or demo.networks()[0], **given)
        else:
            of_pipelines = {name: getattr(arguments, name) for name in OF_PIPELINES}
            plan = fit_folder(arguments.pipeline, arguments.steps, **of_pipelines, **given)
        if ranks.is_first:
            out.save(plan.save)
            out.say(f"{plan.solver}, {plan.nfe} NFE -> {out}")
    return 0
