"""Jobs under torchrun: one, two and three processes write the same bytes, also where they go on after a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from job_folders import PLAN, files_of, job, labels
from torch import Tensor
from two_ranks import environment, needs_gloo

import fastdiff as fd
from fastdiff import demo
from fastdiff.__main__ import main
from fastdiff.commands.processes import processes

pytestmark = [needs_gloo, pytest.mark.slow]
SEEDS, SHARD, MICRO = range(5, 70), 8, 4
SHARDS = 9
COMMAND = ["sample", "--seeds", "0-39", "--steps", "4", "--shards", "png", "--shard-size", "8", "--micro-batch", "8"]


class Logged:
    """Draws digits, and writes down their seeds."""

    def __init__(self, log: Path) -> None:
        self.log, self.draw = log, fd.distributed.Draw(demo.load_model(), PLAN, demo.SHAPE, conditions=labels)

    def __call__(self, seeds: list[int]) -> Tensor:
        with self.log.open("a") as file:  # short lines, which processes append whole
            file.write(" ".join(map(str, seeds)) + "\n")
        return self.draw(seeds)


class Waiting:
    """Draws digits; in the first process not before the shards of all but one are written."""

    def __init__(self, folder: Path, waits: bool) -> None:
        self.draw = fd.distributed.Draw(demo.load_model(), PLAN, demo.SHAPE, conditions=labels)
        self.folder, self.waits = folder, waits

    def __call__(self, seeds: list[int]) -> Tensor:
        until = time.monotonic() + 100
        while self.waits and len(list(self.folder.glob("journal/*.json"))) < SHARDS - 1:
            assert time.monotonic() < until, "nobody draws the slow process's shards"
            time.sleep(0.05)
        return self.draw(seeds)


def draw(folder: Path, log: Path, **options: object) -> fd.distributed.Drawn:
    return job(folder, Logged(log), SEEDS, shard=SHARD, micro_batch=MICRO, told={"model": "digits"}, **options)


def killed(place: Path) -> None:
    """A process that gets as far as half of its fourth shard's file."""
    write = fd.distributed.folder.files.write

    def torn(path: Path, save: object) -> None:
        if path.name == "shard-000003.safetensors":
            (path.parent / ".ab.partial.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, save)

    fd.files.write = torn
    torch.set_num_threads(1)
    draw(place / "killed", place / "log")


def process(place: Path) -> None:
    """One of three that torchrun has started."""
    torch.set_num_threads(1)
    with processes() as ranks:
        assert main([*COMMAND, "--out", str(place / "command")]) == 0
        told = []
        draw(place / "killed", place / "log", batch=12, report=told.append)
        assert bool(told) == ranks.is_first
        slow = job(
            place / "slow", Waiting(place / "slow", ranks.is_first), SEEDS, shard=SHARD, micro_batch=MICRO,
            told={"model": "digits"},
        )  # fmt: skip
        assert sum(ranks.every(slow.drawn)) == len(SEEDS)
        assert slow.drawn == 3 if ranks.is_first else slow.drawn > len(SEEDS) // 3  # of the first shard, seeds 5 to 7
        for name, members in (("two", [0, 1]), ("one", [2])):
            group = dist.new_group(members)
            if ranks.rank in members:
                draw(place / name, place / f"log-{name}", group=group)
        with pytest.raises(ValueError, match=r"^seeds: expected the same in all processes"):
            job(place / "none", lambda seeds: torch.zeros(8), range(8 + ranks.rank), told={"model": "none"})
    assert not (place / "none").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process was killed and three have gone on."""
    place = tmp_path_factory.mktemp("jobs")
    command = [sys.executable, "-c", "import sys, pathlib, test_jobs_ranks as t; t.killed(pathlib.Path(sys.argv[1]))"]
    assert subprocess.run([*command, str(place)], env=environment(), cwd=place).returncode == -signal.SIGKILL
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run(
        [*torchrun, "-m", "test_jobs_ranks", str(place)], env=environment(), cwd=place, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    return place


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("single")
    draw(place / "job", place / "log")
    assert main([*COMMAND, "--out", str(place / "command")]) == 0
    return place


@pytest.mark.parametrize("folder", ["killed", "two", "one", "slow"])
def test_one_two_and_three_processes_write_the_same_bytes(folder, place, single):
    assert files_of(place / folder) == files_of(single / "job")


def test_the_command_writes_the_same_under_torchrun(place, single):
    found = files_of(place / "command")
    assert found == files_of(single / "command")
    assert sum(name.endswith(".png") for name in found) == 40


def test_what_was_drawn_before_the_kill_is_not_drawn_again(place):
    lines = (place / "log").read_text().splitlines()
    drawn = Counter(int(seed) for line in lines for seed in line.split())
    assert set(drawn) >= set(SEEDS)
    torn = set(range(3 * SHARD, 4 * SHARD))  # was drawn and not yet written
    assert {seed for seed, times in drawn.items() if times > 1} == torn


if __name__ == "__main__":
    process(Path(sys.argv[1]))
