"""One step with a row for each sample: beside the step with one row for all, and beside one call a sample.

The first has every sample at the same row, so that both do the same arithmetic on the same memory. The second is what a
server does that loops over its requests: every sample is at a row of its own. Both are checked bit for bit before they
are timed, and timed in turns.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import RowTable, registry
from fastdiff.sampling.program import Slots, program_of

from .bench_solver_step import PLANS, ROW, make_plan
from .paired import paired

SHAPES = [(8, 4, 128, 128), (8, 4, 64, 64), (32, 4, 64, 64), (64, 3, 32, 32)]
ROUNDS = 400
OTHERS = ("one row for all", "one call a sample")


class Steps:
    """The buffers of a plan's run at its middle, and a step on them either way."""

    def __init__(self, name: str, shape: tuple[int, ...], device: str = "cpu", backend: str = "auto") -> None:
        self.program = program_of(make_plan(name))
        assigned = self.program.in_place if device == "cpu" else self.program.apart
        self.slots = [assigned.calls[k] for k in assigned.order]
        self.buffers = list(torch.randn(1 + max(map(highest, self.slots)), *shape, device=device))
        self.m, self.seeds = torch.randn(shape, device=device), torch.arange(shape[0], device=device)
        self.table = RowTable(len(self.slots), device)
        self.table.add(self.program.table, self.slots)
        case = registry.CallSpec(device, torch.float32, shape)
        with fd.backend(backend):
            self.one, self.many = registry.choose("solver_step", case), registry.choose("solver_step_rows", case)

    def common(self, i: int, samples: slice = slice(None)) -> Callable[[], None]:
        """The row i of all samples, or of some."""
        x, base, past, x_out, base_out, d_out = self.slots[i]
        x, base, x_out, base_out, d_out, *past = (
            None if n is None else self.buffers[n][samples] for n in (x, base, x_out, base_out, d_out, *past)
        )
        given = (x, base, self.m[samples], None, past, None, None, self.seeds[samples], x_out, base_out, d_out, None)
        return lambda: self.one(self.program.table, i, *given)

    def of_rows(self, rows: Tensor) -> Callable[[], None]:
        """The row rows[b] of sample b."""
        return lambda: self.many(self.table.tensor, rows, self.buffers, self.m, None, None, None, self.seeds, None)


def highest(slots: Slots) -> int:
    return max(slots.x, slots.base, *slots.history, slots.x_out, slots.base_out or 0, slots.d_out)


def check(steps: Steps, ours: Callable[[], None], theirs: Callable[[], None]) -> None:
    """The same bits of all that was written."""
    before, results = [t.clone() for t in steps.buffers], []
    for step in (ours, theirs):
        for buffer, was in zip(steps.buffers, before, strict=True):
            buffer.copy_(was)
        step()
        results.append(torch.stack(steps.buffers))
    assert torch.equal(*results)


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}thread")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("other", OTHERS)
def test_rows(benchmark, other: str, name: str, shape: tuple[int, ...], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    steps, batch = Steps(name, shape), shape[0]
    rows = torch.full((batch,), ROW)
    theirs = steps.common(ROW)
    if other == OTHERS[1]:
        rows = 4 + torch.arange(batch) % 12
        calls = [steps.common(int(i), slice(b, b + 1)) for b, i in enumerate(rows)]

        def theirs() -> None:
            for call in calls:
                call()

    ours = steps.of_rows(rows)
    check(steps, ours, theirs)
    benchmark.group = f"{name} {shape} {threads} thread"
    benchmark.extra_info["other"] = other
    paired(benchmark, ours, theirs, ROUNDS)
    torch.set_num_threads(before)
