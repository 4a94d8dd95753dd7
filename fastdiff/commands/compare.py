"""fastdiff sample --compare: the same seeds by several plans, with each one's distance from the converged solution."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import demo
from ..plans.build import plan
from ..plans.plan import Plan
from . import pictures
from .output import Output, shows_bars
from .sample import JOB_OPTIONS, draw, labels_of, made, refuse_beside, refuse_many, refuse_tokens

CONVERGED_STEPS = 200
MAX_PICTURES = 12


def converged(
    model: torch.nn.Module, seeds: Sequence[int], labels: Tensor, guidance: float | None = None, **options: Any
) -> Tensor:
    """`sample.draw` by a plan that stands for the exact solution: its error is far below that of any plan in use."""
    fine = plan("dpmpp_3m_exact", demo.schedule(), CONVERGED_STEPS, grid="quadratic", prediction=demo.PREDICTION)
    return draw(model, fine, seeds, labels, guidance, **options)


def distances(x: Tensor, exact: Tensor) -> np.ndarray:
    """[N] root mean square difference of each sample."""
    return (x.double() - exact.double()).flatten(1).square().mean(1).sqrt().cpu().numpy()


def run(arguments: argparse.Namespace) -> int:
    """Print the table and write the picture."""
    refuse_tokens(arguments)
    others = ("solver", "plan", "steps", "format", "each", "trajectory", "trace", *JOB_OPTIONS)
    refuse_beside("--compare", arguments, *others, why="which takes SOLVER:STEPS[:GRID] and writes one picture")
    refuse_many(arguments)
    if arguments.grid is not None and all(entry.count(":") > 1 for entry in arguments.compare):
        raise ValueError("--grid: no effect, since every plan of --compare names its own")
    plans = [_parse(entry, arguments.grid) for entry in arguments.compare]
    out = Output("--out", arguments.out or Path("compare.png"))
    model = demo.load_model()
    labels = labels_of(arguments.seeds, arguments.label)
    exact = converged(model, arguments.seeds, labels, arguments.guidance, progress=shows_bars())
    rows = [("converged", _strip(exact))]
    out.say(f"{'plan':28s} {'NFE':>4s} {'seconds':>8s} {'median error':>13s} {'RMSE':>7s}")
    for name, table in plans:
        began = time.perf_counter()
        x = draw(model, table, arguments.seeds, labels, arguments.guidance)
        seconds = time.perf_counter() - began
        error = distances(x, exact)
        median, rmse = np.median(error), np.sqrt(np.mean(error**2))
        note = "  (stochastic: its samples are not meant to meet the ODE's)" if table.stochastic else ""
        out.say(f"{name:28s} {table.nfe:4d} {seconds:8.2f} {median:13.4f} {rmse:7.4f}{note}")
        rows.append((f"{name}\n{table.nfe} NFE\nmedian error {median:.3f}", _strip(x)))
    out.save(pictures.png(pictures.captioned(rows)))
    out.say(f"{len(arguments.seeds)} seeds, the first {min(MAX_PICTURES, len(arguments.seeds))} shown -> {out}")
    return 0


def _strip(x: Tensor) -> np.ndarray:
    return pictures.mosaic(demo.to_images(x[:MAX_PICTURES]), columns=MAX_PICTURES)


def _parse(entry: str, default_grid: str | None) -> tuple[str, Plan]:
    solver, _, rest = entry.partition(":")
    steps, _, grid = rest.partition(":")
    if not steps.isdecimal() or int(steps) < 1:
        raise ValueError(f"--compare: expected SOLVER:STEPS or SOLVER:STEPS:GRID, got {entry!r}")
    try:
        return entry, made(solver, int(steps), grid or default_grid)
    except ValueError as error:
        raise ValueError(f"--compare {entry}: {error}") from error
