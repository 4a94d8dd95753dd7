"""Parareal over a plan (SRDS, Selvam et al. 2024, arXiv 2412.08292).

The rows are cut into segments. A coarse run, one DDIM step G a segment, guesses where each begins; all segments then
run their rows F at once, and the coarse run is made again with what they found:

    U_(k+1) = F(U_k) + (G(U_k new) - G(U_k))

Multistep rows go on from the outputs at the end of the segment before, as the latest round left them; in the first
round the first output of a segment stands for those before it. So after k rounds k segments are those of the run row
after row, whatever the solver. The first output of a segment serves both runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...plans.plan import Plan
from ..registers import Moves, Registers, next_history
from .calls import Asked, TimeCalls, on
from .held import Held
from .rows import Outputs, Rows


class Segment(NamedTuple):
    """Where a segment begins, what the model says there, and where the coarse step leads."""

    start: Registers[Tensor]
    outputs: Outputs
    coarse: Tensor

    def only(self, kept: Tensor) -> Segment:
        """That of some of the samples."""
        start, outputs = _each(self.start, lambda value: value[kept]), self.outputs.each(lambda m: m[kept])
        return Segment(start, outputs, self.coarse[kept])


class Parareal:
    """The segments of one run. Samples that are done leave it, and no sample depends on its neighbours.

    starts: the first row of each segment, see `segments_of`. tolerance: of what moves where segments begin, the root
    mean square of the states over their rows' `scales` and of the outputs. residuals: the largest of each round.
    """

    def __init__(
        self,
        plan: Plan,
        rows: Rows,
        calls: TimeCalls,
        held: Sequence[Held],
        scales: Sequence[float],
        x: Tensor,
        starts: Sequence[int],
        tolerance: float,
    ) -> None:
        self._rows, self._calls, self._held, self._scales, self._tolerance = rows, calls, held, scales, tolerance
        self._starts, self._ends = list(starts), [*starts[1:], plan.nfe]
        self._points = [(plan.rows[i].alpha, plan.rows[i].sigma) for i in starts] + [plan.end]
        self._left = np.arange(len(x))
        self._result, self._exact = x.clone(), 0
        self.residuals: list[float] = []
        lengths, self._segments = _lengths(rows.moves), list[Segment]()
        for k, i in enumerate(starts):
            outputs = self._evaluate({k: Registers(x, x)}, 0)[k]
            d = rows.run(i, Registers(x, x, (torch.zeros_like(x),) * lengths[i]), outputs).history
            history = (d[0] if d else torch.zeros_like(x),) * lengths[i]
            coarse = self._coarse(k, x, outputs)
            self._segments.append(Segment(Registers(x, x, history), outputs, coarse))
            x = coarse

    @property
    def done(self) -> bool:
        """Whether all segments of all samples are."""
        return not len(self._left)

    def result(self) -> Tensor:
        """[B, ...] the end of the run, by what there is."""
        return self._result

    def round(self) -> None:
        """Run the segments that are left, then the coarse run from what they found."""
        first, count = self._exact, len(self._starts)
        ends = self._run_segments()
        self._exact += 1
        shift, moved = torch.zeros_like(ends[first].x), ends[first].x.new_zeros(len(self._left))
        for k in range(first + 1, count):
            start, old = _shifted(ends[k - 1], shift), self._segments[k]
            moved = torch.maximum(moved, self._moved(k, start, old.start))
            outputs = self._evaluate({k: start}, 0)[k]
            coarse = self._coarse(k, start.x, outputs)
            shift = coarse - old.coarse
            self._segments[k] = Segment(start, outputs, coarse)
        self._result = self._result.index_copy(0, on(self._left, shift), ends[count - 1].x + shift)
        residuals = moved.double().cpu().numpy()
        self.residuals.append(float(residuals.max(initial=0.0)))
        self._leave((residuals <= self._tolerance) | (self._exact == count))

    def _run_segments(self) -> dict[int, Registers[Tensor]]:
        """The registers at the end of each segment."""
        states = {k: self._segments[k].start for k in range(self._exact, len(self._starts))}
        for step in range(max(end - start for start, end in zip(self._starts, self._ends, strict=True))):
            going = {k: state for k, state in states.items() if self._starts[k] + step < self._ends[k]}
            outputs = self._evaluate(going, step) if step else {k: self._segments[k].outputs for k in going}
            for k, state in going.items():
                states[k] = self._rows.run(self._starts[k] + step, state, outputs[k])
        return states

    def _evaluate(self, states: dict[int, Registers[Tensor]], step: int) -> dict[int, Outputs]:
        """The outputs of a row of each segment, by one evaluation."""
        if not states:
            return {}
        asked = [Asked(self._starts[k] + step, self._left, state.x) for k, state in states.items()]
        return dict(zip(states, self._calls.outputs(asked), strict=True))

    def _coarse(self, k: int, x: Tensor, outputs: Outputs) -> Tensor:
        """x at the end of the segment, by one DDIM step."""
        (alpha, sigma), (alpha_end, sigma_end) = self._points[k : k + 2]
        x0 = self._held[self._starts[k]].data(x, self._calls.combined(outputs, self._left))
        ratio = sigma_end / sigma if sigma else 1.0
        return ratio * x + (alpha_end - alpha * ratio) * x0

    def _moved(self, k: int, new: Registers[Tensor], old: Registers[Tensor]) -> Tensor:
        """[samples] how far the beginning of a segment moved."""
        scale = self._scales[self._starts[k]]
        pairs = [(new.x, old.x, scale), (new.base, old.base, scale)]
        pairs += [(*pair, 1.0) for pair in zip(new.history, old.history, strict=True)]
        sizes = [(a - b).flatten(1).square().mean(1).sqrt() / by for a, b, by in pairs]
        return torch.stack(sizes).amax(0)

    def _leave(self, done: np.ndarray) -> None:
        places = np.flatnonzero(~done)
        if len(places) < len(self._left):
            kept = on(places, self._result)
            self._segments = [segment.only(kept) for segment in self._segments]
            self._rows = self._rows.only(kept, self._segments[-1].coarse)
            self._left = self._left[places]


def segments_of(plan: Plan, count: int) -> list[int]:
    """The first rows of `count` segments of about as many rows each, or of fewer: one begins where a step does."""
    steps = [0] + [i + 1 for i, row in enumerate(plan.rows[:-1]) if row.accepts]
    wanted = [round(k * plan.nfe / count) for k in range(count)]
    return sorted({min(steps, key=lambda i: abs(i - k)) for k in wanted})


def _each(state: Registers[Tensor], change: Callable[[Tensor], Tensor]) -> Registers[Tensor]:
    """The registers with each tensor changed."""
    return Registers(change(state.x), change(state.base), tuple(map(change, state.history)))


def _shifted(state: Registers[Tensor], shift: Tensor) -> Registers[Tensor]:
    """The registers with the states x and base shifted."""
    return Registers(state.x + shift, state.base + shift, state.history)


def _lengths(moves: Sequence[Moves]) -> list[int]:
    """How many outputs there are before each row."""
    history: tuple[int, ...] = ()
    lengths = []
    for move in moves:
        lengths.append(len(history))
        history = next_history(move, history, 0)
    return lengths
