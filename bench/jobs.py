"""What a batch does to the bits of a sample, and what a job costs beside drawing alone.

python -m bench.jobs                  # two minutes on one core; writes bench/results/jobs.md
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import fastdiff as fd
from fastdiff import demo
from fastdiff.distributed import Draw, sample_to

from .machine import processor
from .markdown import table

RESULTS = Path(__file__).parent / "results" / "jobs.md"
SEEDS, STEPS, SIZES = 64, 8, (1, 2, 4, 8, 16, 32, 64)
COUNT, ROUNDS = 512, 5


def draw_of(name: str) -> Draw:
    """Samples of a shipped network."""
    net = demo.network(name)
    grid = "logsnr" if net.schedule.kind == "ve" else "quadratic"
    plan = fd.plan("dpmpp_2m", net.schedule, STEPS, grid=grid, prediction=net.prediction)
    return Draw(net.model, plan, net.shape, conditions=net.conditions)


def differences(name: str) -> list[object]:
    """The largest difference of a sample in calls of each size from that in one call, 0 where all bits are the same."""
    draw = draw_of(name)
    whole = draw(range(SEEDS))
    parts = {n: torch.cat([draw(range(i, i + n)) for i in range(0, SEEDS, n)]) for n in SIZES}
    moved = torch.randperm(SEEDS, generator=torch.Generator().manual_seed(0)).tolist()
    others = torch.cat([draw(moved[i : i + 16]) for i in range(0, SEEDS, 16)])
    found = [float((x - whole).abs().max()) for x in parts.values()]
    same = "same" if torch.equal(others, parts[16][moved]) else "other"
    return [name, *(f"{each:.1e}" if each else "0" for each in found), same]


def costs() -> list[tuple[object, ...]]:
    """Processor time of a job in each format, as a ratio to that of drawing alone in the same round."""
    draw = draw_of("digits")

    def alone() -> None:
        for first in range(0, COUNT, 64):
            draw(range(first, first + 64))

    def job(format: str, batch: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = {"format": format, "batch": batch, "images": demo.to_images}
            sample_to(folder, draw, range(COUNT), shard=128, micro_batch=64, **options)

    cases = [(format, batch) for format in ("safetensors", "webdataset", "png") for batch in (64, 128)]
    ratios: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        base = seconds(alone)
        for case in cases:
            ratios[case].append(seconds(lambda case=case: job(*case)) / base)
    return [(*case, f"{min(each):.2f}", f"{statistics.median(each):.2f}") for case, each in ratios.items()]


def seconds(call: Callable[[], object]) -> float:
    """Of the processor: others may be at work on the machine."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    RESULTS.write_text(
        f"# Jobs\n\n`python -m bench.jobs`, torch {torch.__version__}, {processor()}; the machine had other work.\n\n"
        f"The largest difference of {SEEDS} samples by {STEPS} steps from those of one call, in calls of each size; and"
        " whether a sample is the same in another place and company of calls of 16.\n\n"
        + table(["network", *SIZES, "places"], map(differences, demo.networks()))
        + f"\n\nProcessor time of a job of {COUNT} digits, over that of drawing them 64 at a time without files, in"
        f" {ROUNDS} rounds.\n\n" + table(["format", "batch", "best", "median"], costs()) + "\n"
    )


if __name__ == "__main__":
    main()
