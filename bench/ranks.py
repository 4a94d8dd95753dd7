"""Runs that two processes share: what they exchange, what it costs, and how long a failure goes unnoticed.

`torchrun --nproc-per-node 2 -m bench.ranks` writes bench/results/ranks.md. What concerns diffusers is in
`bench.ranks_peers`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import fastdiff as fd
from fastdiff import demo
from fastdiff.sampling.guidance_ranks import OutputRanks
from fastdiff.sampling.noise import randn

from .machine import processor
from .markdown import table
from .ranks_peers import context_parallel, pipeline

PATH = Path(__file__).parent / "results" / "ranks.md"
SHAPES = {"an image": (1, 4, 64, 64), "a large image": (1, 16, 128, 128), "a video": (1, 16, 21, 60, 104)}
TIMEOUT = 3.0  # seconds, of the group that a process does not come to


def seconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The least and the median of so many."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times), statistics.median(times)


def ms(times: tuple[float, float]) -> str:
    return " / ".join(f"{1e3 * t:.2f}" for t in times)


def exchange() -> str:
    """Two outputs of bfloat16 a row, and a failure's word before them."""
    rows = []
    for name, shape in SHAPES.items():
        ranks, m = OutputRanks(None, (0, 1)), torch.randn(shape, dtype=torch.bfloat16)
        times = seconds(lambda r=ranks, m=m, s=shape: r.outputs((1, 0), lambda call: m, s, m.device), 50)
        rows.append((name, shape, f"{2 * m.nbytes / 2**20:.2f}", ms(times)))
    return table(("latents", "shape", "MiB exchanged a row", "ms, best / median"), rows)


def guided() -> str:
    """The digits network under guidance, each in separate calls: one process against two."""
    model, x, y = demo.load_model(), randn((32, *demo.SHAPE), seeds=range(32)), torch.arange(32) % 10
    plan = fd.plan("dpmpp_2m", demo.schedule(), 8, prediction="v_prediction")
    given = {"guidance": 3.0, "uncond": {"y": torch.full((32,), 10)}, "y": y}
    drawn = {mode: fd.sample(model, plan, x, guidance_mode=mode, **given) for mode in ("calls", "ranks")}
    assert torch.equal(drawn["calls"], drawn["ranks"])
    found: dict[str, list[float]] = {"calls": [], "ranks": []}
    for _ in range(9):
        for mode, times in found.items():
            dist.barrier()
            if mode == "ranks" or dist.get_rank() == 0:
                times.append(seconds(lambda m=mode: fd.sample(model, plan, x, guidance_mode=m, **given), 1)[0])
    if dist.get_rank():
        return ""
    ratios = [a / b for a, b in zip(found["calls"], found["ranks"], strict=True)]
    return (
        f"8 steps of the shipped digits network, 32 samples, the same bits: one process takes {max(ratios):.2f} times"
        f" as long as two at best, {statistics.median(ratios):.2f} times in the median of 9."
    )


def noises() -> str:
    """A process's half of the noise of a row, drawn whole and cut, beside the row's own draw."""
    rows = []
    for name, shape in SHAPES.items():
        dim = max(range(1, len(shape)), key=lambda d, s=shape: s[d])
        shard, seeds = fd.Sharded(dim, shape[dim]), torch.tensor([7])
        half = shard.part(torch.zeros(shape))
        parts = seconds(lambda s=shard, h=half, k=seeds: s.noise(k, 1, h), 30)
        own = seconds(lambda h=half, k=seeds: randn(h.shape, k, index=1), 30)
        rows.append((name, f"{4 * half.numel() * 2 / 2**20:.2f}", ms(parts), ms(own), f"{parts[0] / own[0]:.2f}"))
    return table(("latents", "MiB for a moment", "drawn whole, ms", "drawn by itself, ms", "ratio of the best"), rows)


def failures() -> str:
    """How long a process waits for another: that raises in its call, that ends, that does not come."""
    rows = []
    for kind in ("raises", "ends", "does not come"):
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "bench.ranks", kind, place]
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "MASTER"))}
            running = [subprocess.Popen([*command, str(r)], env=environment, stdout=subprocess.PIPE) for r in (0, 1)]
            rows.append((kind, *running[0].communicate()[0].decode().strip().splitlines()[-1].split("|")))
            running[1].wait()
    return table(("the other process", "seconds until this one raises", "what"), rows)


def fail(kind: str, place: str, rank: int) -> None:
    """One of two; the first one tells what it sees."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    dist.barrier()  # joining a group has its timeout, too
    group = dist.new_group(timeout=timedelta(seconds=TIMEOUT))
    moment: list[float] = []

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if float(t[0]) < 0.5:
            moment[:] = moment or [time.perf_counter()]
            if rank and kind == "raises":
                raise ArithmeticError
            if rank and kind == "ends":
                os._exit(1)
            if rank:
                time.sleep(2 * TIMEOUT)
        return x

    plan = fd.plan("euler", fd.Schedule.flow(), 8, prediction="flow_prediction")
    try:
        fd.sample(model, plan, torch.ones(1, 4), guidance=2.0, uncond={}, guidance_mode="ranks", guidance_group=group)
    except (RuntimeError, ArithmeticError) as error:
        words = str(error).split("] ")[-1].partition(" [")[0]
        print(f"{time.perf_counter() - moment[0]:.2f}|{type(error).__name__}: {words}", flush=True)
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    first = dist.get_rank() == 0
    sections = [
        ("What is exchanged", "Each of two processes makes one output and gets the other, on the loopback.", exchange),
        ("Guidance on two processes", "", guided),
        ("Noise of sharded samples", "Half of a sample in each of two processes.", noises),
        ("diffusers' context parallelism", context_parallel.__doc__ or "", context_parallel),
        ("A pipeline whose batch is divided", pipeline.__doc__ or "", pipeline),
    ]
    text = [
        f"# Runs that processes share\n\n`torchrun --nproc-per-node 2 -m bench.ranks`, torch {torch.__version__}, gloo,"
        f" {processor()}, on a machine that was busy: only ratios mean anything."
    ]
    for title, what, part in sections:
        found = part()
        text.append("\n\n".join(piece for piece in (f"## {title}", what, found) if piece))
    if first:
        text.append(f"## Failures\n\nGroups of gloo with a timeout of {TIMEOUT:g} s.\n\n{failures()}")
        PATH.write_text("\n\n".join(text) + "\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fail(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
