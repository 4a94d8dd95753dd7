"""fastdiff sample: draw digits with the shipped model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import demo
from ..arguments import finite, whole
from ..distributed.formats import FORMATS
from ..plans.build import plan
from ..plans.default import SOLVER as DEFAULT_SOLVER
from ..plans.plan import Plan
from ..sampling.noise import randn
from ..sampling.sample import sample
from . import pictures
from .output import Output, differ, shows_bars
from .trace import trace_output, write_trace

BATCH = 256
SHARD, MICRO_BATCH = 256, 64  # of jobs
JOB_OPTIONS = ("shards", "shard_size", "micro_batch", "batch", "threads", "measure")
STEPS, GRID = 8, "quadratic"
DIGITS = "digits"  # the model that this file draws with
SEEDS = range(64)
OF_TOKENS = ("rule", "temperature", "prompt", "length", "style")  # options of the models that draw tokens
MOST_SEEDS, MOST_OF_A_JOB = 10**6, 10**12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff sample`."""
    parser.add_argument(
        "--model", choices=(DIGITS, *demo.token_networks()), default=DIGITS, help="(default: %(default)s)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--solver",
        help=f"a solver name or alias, or 'fitted' (default: fitted where there is such a plan, for {_listed()} steps"
        f" without --guidance and --grid; else what fastdiff.plan chooses, on a grid of yours {DEFAULT_SOLVER})",
    )
    source.add_argument("--plan", type=Path, metavar="PLAN.JSON", help="run the plan in this file instead")
    parser.add_argument("--steps", type=whole(1), help=f"steps of the solver (default: {STEPS})")
    parser.add_argument("--grid", help=f"time grid (default: {GRID}, or the default solver's own)")
    parser.add_argument(
        "--seeds", type=seed_list, default=SEEDS, help="such as 0-63 or 3,7,20-29 (default: 0-63; for text 0-3)"
    )
    parser.add_argument("--label", type=digit, help="draw this digit only (default: the seed's last digit)")
    parser.add_argument("--guidance", type=finite, help="classifier-free guidance scale (default: none)")
    parser.add_argument(
        "--out", type=Path, help="file to write, - for standard output (default: samples.png or samples.npy)"
    )
    parser.add_argument("--format", choices=("png", "npy"), help="(default: npy where --out ends in .npy, else png)")
    parser.add_argument("--each", action="store_true", help="one file a seed, named by it, in the folder --out")
    parser.add_argument("--trajectory", type=Path, metavar="STRIP.PNG", help="also write how the first 8 came about")
    job = parser.add_argument_group("jobs", "many samples into the folder --out, by one process or those of torchrun")
    job.add_argument(
        "--shards",
        choices=tuple(FORMATS),
        help="what the folder holds; the same command goes on where it was stopped (default under torchrun: png)",
    )
    job.add_argument("--shard-size", type=whole(1), metavar="N", help=f"seeds in a shard (default: {SHARD})")
    job.add_argument(
        "--micro-batch", type=whole(1), metavar="N", help=f"seeds in a call of the network (default: {MICRO_BATCH})"
    )
    job.add_argument(
        "--batch", type=whole(1), metavar="N", help="seeds that a process draws at a time (default: --micro-batch)"
    )
    job.add_argument("--threads", type=whole(1), metavar="N", help="of each process, part of the job (default: 1)")
    job.add_argument("--measure", action="store_true", help="distances from the data, in scores.json")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="RUN.HTML",
        help="also write what happened at each step of the first 8: .safetensors too",
    )
    parser.add_argument(
        "--compare", nargs="+", metavar="SOLVER:STEPS[:GRID]", help="the same seeds by several plans, side by side"
    )


def seed_list(text: str) -> Sequence[int]:
    """ "0-3,7" -> [0, 1, 2, 3, 7]. One range alone stays one, however long."""
    parts: list[range] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            parts.append(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers and ranges such as 0-63,70, got {text!r}") from None
    if any(part.stop > 2**63 for part in parts):
        raise argparse.ArgumentTypeError(f"expected seeds below 2^63, got {text!r}")
    if not all(part.start < part.stop <= part.start + MOST_OF_A_JOB for part in parts):
        raise argparse.ArgumentTypeError(f"expected ranges that rise, of at most {MOST_OF_A_JOB:,} seeds, got {text!r}")
    if len(parts) == 1:
        return parts[0]
    if sum(map(len, parts)) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"expected one range, or several of {MOST_SEEDS:,} seeds, got {text!r}")
    return [seed for part in parts for seed in part]


def digit(text: str) -> int:
    """A whole number from 0 to 9."""
    if text not in [str(d) for d in range(demo.NUM_CLASSES)]:
        raise argparse.ArgumentTypeError(f"expected a digit 0 to 9, got {text!r}")
    return int(text)


def labels_of(seeds: Sequence[int], label: int | None) -> Tensor:
    """[N] int64: the label asked for, or each seed's last digit."""
    return torch.tensor([seed % 10 if label is None else label for seed in seeds])


def draw(
    model: torch.nn.Module,
    run: Plan,
    seeds: Sequence[int],
    labels: Tensor,
    guidance: float | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Tensor:
    """The samples of these seeds, in batches; each depends on its own seed alone."""
    options |= guided(guidance)
    parts = []
    for first in range(0, len(seeds), BATCH):
        part = slice(first, first + BATCH)
        noise = randn((len(seeds[part]), *demo.SHAPE), seeds[part], dtype=dtype)
        x = sample(model, run, noise, seeds=seeds[part], y=labels[part], **options)
        assert isinstance(x, Tensor)  # not a pair: no trajectory was asked for
        parts.append(x)
    return torch.cat(parts)


def guided(guidance: float | None) -> dict[str, Any]:
    """The options of a run that is guided, or not."""
    return {} if guidance is None else {"guidance": guidance, "uncond": {"y": torch.full((1,), demo.NUM_CLASSES)}}


def run(arguments: argparse.Namespace) -> int:
    """Draw, write, and say in one line what it took."""
    refuse_tokens(arguments)
    refuse_beside("a single file", arguments, *JOB_OPTIONS, why="give --shards to draw into a folder of shards")
    refuse_many(arguments)
    table = plan_of(arguments)
    suffix = arguments.format or ("npy" if arguments.out and arguments.out.suffix == ".npy" else "png")
    default = Path("samples" if arguments.each else f"samples.{suffix}")
    outputs = [Output("--out", arguments.out or default, folder=arguments.each)]
    if arguments.trajectory:
        outputs.append(Output("--trajectory", arguments.trajectory))
    traced = trace_output(arguments.trace) if arguments.trace else None
    differ(*outputs, *([traced] if traced else []))
    model = demo.load_model()
    labels = labels_of(arguments.seeds, arguments.label)
    began = time.perf_counter()
    x = draw(model, table, arguments.seeds, labels, arguments.guidance, progress=shows_bars())
    seconds = time.perf_counter() - began
    _write(outputs[0], x, arguments, suffix)
    if arguments.trajectory:
        _write_trajectory(outputs[1], model, table, arguments, labels)
    if traced:
        write_trace(traced, model, table, arguments.seeds, labels, **guided(arguments.guidance))
    count, teller = len(arguments.seeds), next((output for output in outputs if output.is_standard), outputs[0])
    teller.say(f"{count} samples, {table.nfe} NFE, {seconds:.2f} s, {count / seconds:.0f} images/s -> {outputs[0]}")
    return 0


def refuse_many(arguments: argparse.Namespace) -> None:
    """Raises ValueError where there are more seeds than are drawn at once."""
    if len(arguments.seeds) > MOST_SEEDS:
        raise ValueError(f"--seeds: expected at most {MOST_SEEDS:,} without --shards, got {len(arguments.seeds):,}")


def refuse_tokens(arguments: argparse.Namespace) -> None:
    """Raises ValueError where an option is given that only models of tokens have."""
    refuse_beside(f"--model {DIGITS}", arguments, *OF_TOKENS, why="which draws no tokens")


def refuse_beside(option: str, arguments: argparse.Namespace, *names: str, why: str) -> None:
    """Raises ValueError where one of the options `names` is given, since it would have no effect beside `option`."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]
    if given:
        raise ValueError(f"{', '.join(given)}: no effect beside {option}, {why}")


def made(solver: str | None, steps: int, grid: str | None, guided: bool = False) -> Plan:
    """A plan for the shipped model; without a solver the default one."""
    if solver is None:
        return plan(None, demo.schedule(), steps, prediction=demo.PREDICTION, guided=guided)
    if solver == "fitted":
        if grid is not None:
            raise ValueError(f"grid: no effect beside a fitted plan, which has its own times; got {grid!r}")
        return demo.fitted_plan(steps)
    return plan(solver, demo.schedule(), steps, grid=grid or GRID, prediction=demo.PREDICTION)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the options name."""
    return _read(arguments) if arguments.plan else _made(arguments)


def _made(arguments: argparse.Namespace) -> Plan:
    steps = arguments.steps or STEPS
    fitted = arguments.guidance is None and arguments.grid is None and steps in demo.fitted_steps()
    # A grid alone is taken by the solver that the default has.
    unnamed = "fitted" if fitted else DEFAULT_SOLVER if arguments.grid is not None else None
    solver = arguments.solver or unnamed
    return made(solver, steps, arguments.grid, guided=solver is None and arguments.guidance is not None)


def _read(arguments: argparse.Namespace) -> Plan:
    refuse_beside("--plan", arguments, "steps", "grid", why="which has its own steps and times")
    path = arguments.plan
    table = Plan.load(path)
    table.check_schedule(demo.schedule())
    if table.prediction != demo.PREDICTION:
        raise ValueError(f"{path}: a plan for {table.prediction}, the shipped model predicts {demo.PREDICTION}")
    return table


def _listed() -> str:
    return ", ".join(map(str, demo.fitted_steps()))


def _write(out: Output, x: Tensor, arguments: argparse.Namespace, suffix: str) -> None:
    images = demo.to_images(x)
    if not arguments.each:
        out.save(pictures.npy(x.numpy()) if suffix == "npy" else pictures.png(pictures.mosaic(images)))
        return
    for seed, values, image in zip(arguments.seeds, x.numpy(), images, strict=True):
        save = pictures.npy(values) if suffix == "npy" else pictures.png(pictures.enlarge(image))
        out.save(save, f"{seed:06d}.{suffix}")


def _write_trajectory(
    out: Output, model: torch.nn.Module, table: Plan, arguments: argparse.Namespace, labels: Tensor
) -> None:
    """One row a sample, one column a step: the data predicted there, and the result."""
    seeds, labels = arguments.seeds[:8], labels[:8]
    columns: list[Tensor] = []
    x = draw(model, table, seeds, labels, arguments.guidance, callback=lambda step: columns.append(step.x0.clone()))
    strip = torch.stack([*columns, x], dim=1).flatten(0, 1)
    out.save(pictures.png(pictures.mosaic(demo.to_images(strip), columns=len(columns) + 1)))
