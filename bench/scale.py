"""A job of a billion samples on a thousand devices, simulated: what failures, slow devices and the size of files cost.

    python -m bench.scale                          # into bench/results/scale.md
    python -m bench.scale --quick --out build/quick

Ranks of a batch job exchange nothing while they draw, so a rank is a speed, a block of samples that is written as one
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

from .markdown import table

RESULTS = Path(__file__).parent / "results"
HOUR = 3600.0
GIVEN_UP = 10


@dataclass(frozen=True)
class Job:
    """What is assumed. rate: samples a second of a device, spread: its standard deviation between devices, relative.

    block: samples in a file. between_failures: hours between two failures of one device. restart: hours until its
    ranks draw again. per_machine: devices that share one.
    """

    samples: int = 10**9
    devices: int = 1000
    per_machine: int = 8
    rate: float = 4.0
    spread: float = 0.03
    block: int = 1024
    between_failures: float = 50_000.0
    restart: float = 1 / 6

    @property
    def ideal(self) -> float:
        """Hours without failures, with every device busy to the end."""
        return self.samples / (self.devices * self.rate * HOUR)

    def hours_a_block(self, rng: np.random.Generator) -> np.ndarray:
        """[devices] of each device. The mean rate is kept, so that `ideal` stays the limit."""
        speed = 1 + self.spread * rng.standard_normal(self.devices)
        return self.block / (self.rate * HOUR * speed / speed.mean())


def fixed_shares(job: Job, rng: np.random.Generator, together: int) -> float:
    """Hours of a job whose ranks have a share each, where a failure stops `together` devices at once."""
    takes, blocks = job.hours_a_block(rng), shares(job)
    groups = range(0, job.devices, together)
    return max(_group(job, rng, takes[g : g + together], blocks[g : g + together]) for g in groups)


def shares(job: Job) -> np.ndarray:
    """[devices] blocks of each: as even as whole blocks can be."""
    blocks, bounds = -(-job.samples // job.block), np.arange(job.devices + 1)
    return np.diff(bounds * blocks // job.devices)


def _group(job: Job, rng: np.random.Generator, takes: np.ndarray, blocks: np.ndarray) -> float:
    """Hours until the last of these devices, which fail together, is done; infinity for more than `GIVEN_UP` ideals."""
    now, left = 0.0, blocks.astype(float)
    while now < GIVEN_UP * job.ideal:
        needed = float((left * takes).max())
        failure = rng.exponential(job.between_failures / len(takes))
        if failure >= needed:
            return now + needed
        left = np.maximum(left - np.floor(failure / takes), 0)
        now += failure + job.restart
    return math.inf


def common_counter(job: Job, rng: np.random.Generator, together: int) -> float:
    """Hours of a job whose ranks take the next block from one counter. A block that a failure ended is drawn again."""
    takes, left = job.hours_a_block(rng), -(-job.samples // job.block)
    groups = -(-job.devices // together)
    count = 64 + int(4 * GIVEN_UP * job.ideal * together / job.between_failures)
    failures = rng.exponential(job.between_failures / together, (groups, count)).cumsum(1)
    queue = [(0.0, device) for device in range(job.devices)]
    last = 0.0
    while left:
        now, device = heapq.heappop(queue)
        group, end = failures[device // together], now + takes[device]
        failure = group[np.searchsorted(group, now)]
        if failure < end:
            heapq.heappush(queue, (failure + job.restart, device))
        else:
            left -= 1
            last = max(last, end)
            heapq.heappush(queue, (end, device))
    return last


POLICIES: dict[str, Callable[[Job, np.random.Generator], float]] = {
    "one launch of all devices, fixed shares": lambda job, rng: fixed_shares(job, rng, job.devices),
    "a launch for each machine, fixed shares": lambda job, rng: fixed_shares(job, rng, job.per_machine),
    "a launch for each machine, common counter": lambda job, rng: common_counter(job, rng, job.per_machine),
}
BLOCKS = (1024, 16_384, 262_144)
FAILURES = (50_000.0, 500.0)


def simulated(job: Job, runs: int) -> list[list[object]]:
    """A line for each policy and size of file: how much longer than the ideal, the mean and the worst of the runs."""
    lines: list[list[object]] = []
    for hours in FAILURES:
        for name, policy in POLICIES.items():
            cells = []
            for block in BLOCKS:
                case = replace(job, block=block, between_failures=hours)
                found = [policy(case, np.random.default_rng(seed)) / job.ideal - 1 for seed in range(runs)]
                cells.append(f"{np.mean(found):+.1%} ({max(found):+.1%})" if max(found) < math.inf else "not done")
            lines.append([f"{hours:,.0f} h", name, *cells])
    return lines


def write(job: Job, lines: list[list[object]], runs: int, out: Path) -> None:
    files = ", ".join(f"{-(-job.samples // block):,}" for block in BLOCKS)
    text = f"""# A billion samples on a thousand devices, simulated

`python -m bench.scale`. {job.samples:,} samples, {job.devices:,} devices in machines of {job.per_machine},
{job.rate:g} samples a second on each on average, {job.spread:.0%} standard deviation between devices,
{job.restart * 60:.0f} minutes until the ranks of a failed machine draw again: {job.ideal:.1f} hours if nothing fails
and every device is busy to the end. How much longer it takes, the mean and, in brackets, the worst of {runs} runs, by
the hours between two failures of one device and by samples in a file ({files} files).
"Not done": not in {GIVEN_UP} times as long.

{table(["failures", "job", *(f"{block:,} a file" for block in BLOCKS)], lines)}

The rate, the spread and the failures are assumptions, not measurements. 50,000 hours is what 419 interruptions in 54
days on 16,384 devices come to (Llama Team, The Llama 3 Herd of Models, 2024, section 3.3.4); 500 hours is a guess for
devices that are lent and taken back.
"""
    (out / "scale.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="a small job and few runs, to see that it runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    job, runs = (Job(samples=10**8, devices=200), 2) if options.quick else (Job(), 5)
    write(job, simulated(job, runs), runs, options.out)


if __name__ == "__main__":
    main()
