"""sample_to: many samples into a folder, by any number of processes, continued where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import files
from ..sampling.ranks import Ranks
from .digests import digest
from .draw import Draw
from .folder import JobFolder
from .formats import FORMATS
from .job import Job
from .measure import Measure
from .progress import Progress, closing
from .sharding import shard as part_of

SCORES = "scores.json"
PATIENCE = 86_400.0  # seconds without a new shard; where a process dies, torchrun ends the others at once


class Drawn(NamedTuple):
    """What `sample_to` has done. samples: of the job. drawn: here, in this call. scores: those of `Measure`."""

    folder: Path
    samples: int
    drawn: int
    scores: dict[str, Any] | None


def sample_to(
    folder: str | os.PathLike,
    draw: Draw | Callable[[list[int]], Tensor],
    seeds: Sequence[int],
    *,
    format: str = "safetensors",
    shard: int = 256,
    micro_batch: int = 16,
    batch: int | None = None,
    threads: int = 1,
    images: Callable[[Tensor], Any] | None = None,
    told: Mapping[str, object] | None = None,
    measure: Measure | None = None,
    patience: float = PATIENCE,
    progress: bool = False,
    report: Callable[[str], object] | None = None,
    group: Any = None,
) -> Drawn:
    """Draw a sample for each seed into files in a folder, shared by the processes of torch.distributed.

    A sample depends on its seed, the draw, micro_batch and threads: not on the number of processes, on the batch, on
    how samples are put into shards, or on which other seeds are asked for. The network is always called on the
    micro_batch seeds k micro_batch to (k + 1) micro_batch - 1 together, also where only some of them are asked for. So
    samples are the same to the bit on devices of one kind with one version of torch.

    Shards that are whole are not drawn again: the same call goes on where it was stopped or killed, with any number of
    processes. The folder is one that all of them see. Each has a part of the shards, and takes from the others' when it
    is done with its own, so that slow processes do not make the others wait. Nobody waits but the first process, which
    returns when the whole job is done, and all of them under `measure`.

    folder: for the shards, manifest.json, and journal/ with the sha256 of each shard. A damaged shard is drawn again.
    draw: a `fastdiff.distributed.Draw`, or a function of micro_batch seeds that returns their samples [B, ...], such as
        a pipeline with a generator for each.
    seeds: whole numbers, each once: a range, list or tensor.
    format: "safetensors" (x and seeds), "webdataset" (a tar of SEED.png or SEED.npy), or "png" (a folder of SEED.png).
    shard: seeds in a file, a multiple of micro_batch; shard k has those from k shard to (k + 1) shard - 1. A killed
        process loses the shard that it was at. For an even load there should be some for each process.
    micro_batch: seeds in a call of the network. It decides the memory, and the last bits of the samples.
    batch: seeds that a process draws at a time, in calls of micro_batch; rounded up to that. micro_batch if None.
    threads: torch's, on the CPU, in each process. It decides the last bits, too, so that it belongs to the job.
    images: samples [B, ...] to uint8 pictures [B, h, w] or [B, h, w, 3], for "png" and "webdataset".
    told: what the manifest says of a function as draw, to tell it from others: model, plan, ...; of a Draw, more.
    measure: scores of what is written, over all processes, also in scores.json.
    patience: seconds without a new shard after which the first process gives up waiting for others.
    progress: show a bar over all processes, in the first one. report: called there with lines of text, such as `print`.
    group: the processes, all if None.
    Raises TypeError or ValueError naming the argument, also for a folder that was begun with another model, plan,
    option or version; ImportError for a format without its package; BlockingIOError where another run draws into the
    folder; RuntimeError where other processes are gone.
    """
    job, ranks = Job(draw, seeds, format, shard, micro_batch, batch, threads, images, told), Ranks(group)
    where = JobFolder(Path(folder), FORMATS[format])
    say = report if report is not None and ranks.is_first else lambda text: None
    if ranks.count > 1:
        say(f"{ranks.count} processes share the job; the first one reports")
    with where:
        _begin(job.manifest(), where, ranks)
        every = job.seeds.shards(shard)
        whole, damaged = _looked_over(where, ranks)
        for number in damaged:
            say(f"{where.shard(number).name} is not as it was written: it is drawn again")
        left = [number for number in every if number not in whole]
        say(f"{len(job.seeds):,} samples in {len(every):,} shards, of which {len(whole):,} are there")
        bar = Progress(where.journal, lambda n: len(job.wanted(n)), len(job.seeds), progress and ranks.is_first)
        drawn = 0
        with closing(bar):
            if measure is not None:
                for number in part_of(sorted(whole), rank=ranks.rank, ranks=ranks.count):
                    measure.add(where.load(number), job.place(number))
            for number in filter(where.take, _turns(left, ranks)):
                content = _made(job, number, where, bar)
                drawn += len(content)
                if measure is not None:
                    measure.add(content, job.place(number))
            if ranks.is_first:
                bar.wait_for(len(every), patience)
        scores = None if measure is None else measure.scores(len(job.seeds), ranks)
        if scores is not None and ranks.is_first:
            text = json.dumps(scores, indent=1) + "\n"
            files.write(where.path / SCORES, lambda partial: partial.write_text(text))
        return Drawn(where.path, len(job.seeds), drawn, scores)


def _begin(manifest: dict[str, Any], where: JobFolder, ranks: Ranks) -> None:
    """Raises ValueError in all processes where they or the folder's manifest differ, or where one does not see it."""
    ranks.require_same(
        **{name: value if isinstance(value, (int, str)) else digest(value) for name, value in manifest.items()}
    )
    ranks.from_first(lambda: where.claim(manifest))
    try:
        ranks.require_same(folder=where.begun())
    except ValueError:
        raise ValueError(f"folder: expected {where.path} to be one folder for all processes") from None


def _turns(left: list[int], ranks: Ranks) -> Iterator[int]:
    """The shards in the order in which this process asks for them: its part, then those of others, from their ends."""
    own = part_of(left, rank=ranks.rank, ranks=ranks.count)
    return chain(own, sorted(set(left) - set(own), reverse=True))


def _made(job: Job, number: int, where: JobFolder, bar: Progress) -> Tensor:
    """The content of a shard that was taken, drawn and written."""
    seeds, parts = job.wanted(number), []
    try:
        for part in job.contents(seeds):
            parts.append(part)
            bar.drawn(len(part))
        content = torch.cat(parts)
        where.save(number, seeds, content)
    except BaseException:
        where.give_back(number)
        raise
    bar.written()
    return content


def _looked_over(where: JobFolder, ranks: Ranks) -> tuple[set[int], list[int]]:
    """The shards that are whole, and those that are damaged. Each process reads its part."""
    found = ranks.from_first(where.journal)
    own = part_of(found, rank=ranks.rank, ranks=ranks.count)
    whole = {number for each in ranks.every([n for n in own if where.is_whole(n)]) for number in each}
    return whole, sorted(set(found) - whole)
