"""fastdiff sample --shards: many digits into a folder, by one process or by those of torchrun."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from torch import Tensor

from .. import demo
from ..demo.features import measure_of
from ..distributed import Draw, sample_to
from .output import Output, shows_bars
from .processes import are_several, processes
from .sample import MICRO_BATCH, SHARD, guided, labels_of, plan_of, refuse_beside


def is_wanted(arguments: argparse.Namespace) -> bool:
    """Whether the samples go to shards: where it is asked for, and where torchrun has started several processes."""
    return arguments.shards is not None or are_several()


def run(arguments: argparse.Namespace) -> int:
    """Draw the shards that are not there yet, and say in one line what it took."""
    refuse_beside(
        "--shards", arguments, "format", "each", "trajectory", "trace", why="which names the format and fills a folder"
    )
    kind = arguments.shards or "png"
    out = Output("--out", arguments.out or Path("samples"), folder=True)
    table, model = plan_of(arguments), demo.load_model()
    began = time.perf_counter()
    with processes() as ranks:
        say = out.say if ranks.is_first else lambda text: None
        draw = Draw(
            model, table, demo.SHAPE, conditions=partial(_conditions, label=arguments.label),
            **guided(arguments.guidance),
        )  # fmt: skip
        drawn = sample_to(
            out.path, draw, arguments.seeds, format=kind, images=demo.to_images, batch=arguments.batch,
            shard=arguments.shard_size or SHARD, micro_batch=arguments.micro_batch or MICRO_BATCH,
            threads=arguments.threads or 1,
            measure=measure_of("digits", pictures=kind != "safetensors") if arguments.measure else None,
            progress=shows_bars(), report=say,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if drawn.scores is not None:
            say(", ".join(f"{name} {_short(value)}" for name, value in drawn.scores.items()))
        say(f"{drawn.samples} samples, {table.nfe} NFE, {seconds:.2f} s -> {out}")
    return 0


def _conditions(seeds: list[int], label: int | None) -> dict[str, Tensor]:
    return {"y": labels_of(seeds, label)}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
