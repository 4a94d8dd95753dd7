"""Several processes of torch.distributed on this machine, which share what they import and are forked after it.

Importing takes longer than what the tests do. Nothing has run when the processes part, so no thread is lost.
"""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from two_ranks import environment


def run_ranks(module: str, place: Path, count: int) -> None:
    """Run `process(rank, place)` of a test's module in each of so many processes; all have to end well."""
    command = [sys.executable, __file__, module, str(place), str(count)]
    ended = subprocess.run(command, env=environment(), stderr=subprocess.PIPE, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


def meet(rank: int, place: Path, count: int) -> None:
    """Join the others. Who waits for one that does not come gives up after a minute."""
    meeting = f"file://{place / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=60))


def main(module: str, place: Path, count: int) -> int:
    torch.set_num_threads(1)
    process = importlib.import_module(module).process
    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=process, args=(rank, place)) for rank in range(count)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return max(abs(each.exitcode or 0) for each in running)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
