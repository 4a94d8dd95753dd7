"""A job of a billion samples on a thousand devices: what its folder costs, measured, and failures, simulated.

    python -m bench.scale                          # into bench/results/scale.md
    python -m bench.scale --quick --out build/quick

Ranks of a batch job exchange nothing while they draw, so a rank is a speed, a shard of samples that is written as one
file, and failures. A failure takes the machine's ranks, or those of all machines, back to their last whole file.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastdiff.sampling.ranks import bounds

from .machine import processor
from .markdown import table
from .scale_folder import Costs, measured

RESULTS = Path(__file__).parent / "results"
HOUR = 3600.0
GIVEN_UP = 10
MEBIBYTES = 0.15  # of a sample's file: a picture of 256 x 256 as PNG, roughly


@dataclass(frozen=True)
class Job:
    """What is assumed. rate: samples a second of a device, spread: its standard deviation between devices, relative.

    shard: samples in a file. between_failures: hours between two failures of one device. restart: hours until its
    ranks draw again. per_machine: devices that share one.
    """

    samples: int = 10**9
    devices: int = 1000
    per_machine: int = 8
    rate: float = 4.0
    spread: float = 0.03
    shard: int = 1024
    between_failures: float = 50_000.0
    restart: float = 1 / 6

    @property
    def ideal(self) -> float:
        """Hours without failures, with every device busy to the end."""
        return self.samples / (self.devices * self.rate * HOUR)

    def hours_a_shard(self, rng: np.random.Generator) -> np.ndarray:
        """[devices] of each device. The mean rate is kept, so that `ideal` stays the limit."""
        speed = 1 + self.spread * rng.standard_normal(self.devices)
        return self.shard / (self.rate * HOUR * speed / speed.mean())


def fixed_parts(job: Job, rng: np.random.Generator, together: int) -> float:
    """Hours of a job whose ranks have a part each, where a failure stops `together` devices at once."""
    takes, shards = job.hours_a_shard(rng), parts(job)
    groups = range(0, job.devices, together)
    return max(_group(job, rng, takes[g : g + together], shards[g : g + together]) for g in groups)


def parts(job: Job) -> np.ndarray:
    """[devices] shards of each: as even as whole shards can be."""
    shards = -(-job.samples // job.shard)
    return np.array([last - first for first, last in (bounds(shards, r, job.devices) for r in range(job.devices))])


def _group(job: Job, rng: np.random.Generator, takes: np.ndarray, shards: np.ndarray) -> float:
    """Hours until the last of these devices, which fail together, is done; infinity for more than `GIVEN_UP` ideals."""
    now, left = 0.0, shards.astype(float)
    while now < GIVEN_UP * job.ideal:
        needed = float((left * takes).max())
        failure = rng.exponential(job.between_failures / len(takes))
        if failure >= needed:
            return now + needed
        left = np.maximum(left - np.floor(failure / takes), 0)
        now += failure + job.restart
    return math.inf


def taken(job: Job, rng: np.random.Generator, together: int, takes: np.ndarray | None = None) -> float:
    """Hours of a job whose ranks take the next shard that nobody has. One that a failure ended is drawn again.

    takes: [devices] hours that each takes for a shard, drawn if None.
    """
    takes = job.hours_a_shard(rng) if takes is None else takes
    left = -(-job.samples // job.shard)
    groups = -(-job.devices // together)
    count = 64 + int(4 * GIVEN_UP * job.ideal * together / job.between_failures)
    failures = rng.exponential(job.between_failures / together, (groups, count)).cumsum(1)
    queue = [(0.0, device) for device in range(job.devices)]
    last = 0.0
    while left and queue[0][0] < GIVEN_UP * job.ideal:
        now, device = heapq.heappop(queue)
        group, end = failures[device // together], now + takes[device]
        failure = group[np.searchsorted(group, now)]
        if failure < end:
            heapq.heappush(queue, (failure + job.restart, device))
        else:
            left -= 1
            last = max(last, end)
            heapq.heappush(queue, (end, device))
    return math.inf if left else last


def taken_on_each_machine(job: Job, rng: np.random.Generator) -> float:
    """Hours of the slowest of jobs of a machine each, whose ranks take shards of its part."""
    takes = job.hours_a_shard(rng).reshape(-1, job.per_machine)
    own = replace(job, samples=job.samples // len(takes), devices=job.per_machine)
    return max(taken(own, rng, job.per_machine, each) for each in takes)


POLICIES: dict[str, Callable[[Job, np.random.Generator], float]] = {
    "one launch, fixed parts": lambda job, rng: fixed_parts(job, rng, job.devices),
    "one launch, shards taken": lambda job, rng: taken(job, rng, job.devices),
    "a launch for each machine, fixed parts": lambda job, rng: fixed_parts(job, rng, job.per_machine),
    "a launch for each machine, shards of its part taken": taken_on_each_machine,
}
SHARDS = (1024, 16_384, 262_144)
FAILURES = (50_000.0, 500.0)


def simulated(job: Job, runs: int) -> list[list[object]]:
    """A line for each policy and size of file: how much longer than the ideal, the mean and the worst of the runs."""
    lines: list[list[object]] = []
    for hours in FAILURES:
        for name, policy in POLICIES.items():
            cells = []
            for shard in SHARDS:
                case = replace(job, shard=shard, between_failures=hours)
                found = [policy(case, np.random.default_rng(seed)) / job.ideal - 1 for seed in range(runs)]
                cells.append(f"{np.mean(found):+.1%} ({max(found):+.1%})" if max(found) < math.inf else "not done")
            lines.append([f"{hours:,.0f} h", name, *cells])
    return lines


def folder_lines(job: Job, costs: Costs) -> list[list[object]]:
    """A line for each size of file: what the folder costs each of the job's devices, and all of them together."""
    lines: list[list[object]] = []
    for shard in SHARDS:
        files = -(-job.samples // shard)
        drawing = shard / job.rate
        share = job.samples * MEBIBYTES / job.devices
        lines.append(
            [
                f"{shard:,}",
                f"{files:,}",
                f"{costs.shard / drawing:.1e}",
                f"{files * (costs.entry + costs.order):.1f} s",
                f"{(share * costs.reading + files / job.devices * costs.shard) / 60:.1f} min",
            ]
        )
    return lines


def write(job: Job, costs: Costs, lines: list[list[object]], runs: int, out: Path) -> None:
    files = ", ".join(f"{-(-job.samples // shard):,}" for shard in SHARDS)
    text = f"""# A billion samples on a thousand devices

`python -m bench.scale`, {processor()}; the machine had other work. {job.samples:,} samples of {MEBIBYTES:g} MiB,
{job.devices:,} devices in machines of {job.per_machine}, {job.rate:g} samples a second on each on average,
{job.spread:.0%} standard deviation between devices. The rate, the spread, the size and the failures are assumptions.

## The folder, measured

On this machine's disk: {costs.shard * 1e3:.2f} ms to take a shard and write one without content with its entry,
{costs.entry * 1e6:.1f} µs to list an entry of the journal, {costs.order * 1e6:.2f} µs for a shard in the list that
every process makes, {costs.reading * 1e3:.2f} ms to read a MiB again and take its sha256. By samples in a file that is:

{table(["samples", "files", "files over drawing", "lists at a start", "reading all again"], folder_lines(job, costs))}

"Reading all again" is what a start does when nearly all is there, each device its part, at this disk's speed for each.

## Failures, simulated

{job.restart * 60:.0f} minutes until the ranks of a failed launch draw again: {job.ideal:.1f} hours if nothing fails
and every device is busy to the end. How much longer it takes, the mean and, in brackets, the worst of {runs} runs, by
the hours between two failures of one device and by samples in a file ({files} files).
"Not done": not in {GIVEN_UP} times as long. A failure ends a launch, whose ranks go on from their last whole files.
Fixed parts are what scripts give their ranks; taken are the shards of `fastdiff.distributed.sample_to`.

{table(["failures", "job", *(f"{shard:,} a file" for shard in SHARDS)], lines)}

50,000 hours is what 419 interruptions in 54 days on 16,384 devices come to (Llama Team, The Llama 3 Herd of Models,
2024, section 3.3.4); 500 hours is a guess for devices that are lent and taken back.
"""
    (out / "scale.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="a small job and few runs, to see that it runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    job, runs = (Job(samples=10**8, devices=200), 2) if options.quick else (Job(), 5)
    costs = measured(200, 2000, 32, 10**5) if options.quick else measured(4000, 10**5, 1024, 10**6)
    write(job, costs, simulated(job, runs), runs, options.out)


if __name__ == "__main__":
    main()
