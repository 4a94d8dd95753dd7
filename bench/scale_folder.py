"""What a job's folder costs beside its samples, measured: a shard's files, a start's lists, reading all again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from fastdiff.distributed.folder import JobFolder, contents
from fastdiff.distributed.formats import FORMATS
from fastdiff.distributed.seeds import Seeds


class Costs(NamedTuple):
    """Seconds. shard: of taking and writing one without content. entry: of listing one in the journal.

    reading: of a MiB. order: of one in the list of shards that every process makes.
    """

    shard: float
    entry: float
    reading: float
    order: float


def measured(shards: int, entries: int, mebibytes: int, listed: int) -> Costs:
    """The costs here, in a temporary folder, from so many of each."""
    with tempfile.TemporaryDirectory() as place:
        return Costs(
            _per(shards, _writing, Path(place, "shards"), shards),
            _listing(Path(place, "entries"), entries),
            _reading(Path(place, "content"), mebibytes),
            _per(listed, lambda: Seeds(range(256 * listed)).shards(256)),
        )


def _per(count: int, run: Callable, *arguments: object) -> float:
    began = time.perf_counter()
    run(*arguments)
    return (time.perf_counter() - began) / count


def _writing(path: Path, count: int) -> None:
    folder = JobFolder(path, FORMATS["safetensors"])
    folder.claim({})
    for number in range(count):
        assert folder.take(number)
        folder.save(number, [number], torch.zeros(1))


def _listing(path: Path, count: int) -> float:
    folder = JobFolder(path, FORMATS["safetensors"])
    folder.claim({})
    for number in range(count):
        (path / "journal" / f"{number:06d}.json").touch()
    return _per(count, folder.journal)


def _reading(path: Path, mebibytes: int) -> float:
    path.write_bytes(torch.randint(0, 256, (2**20,), dtype=torch.uint8).numpy().tobytes() * mebibytes)
    return _per(mebibytes, contents, path)
