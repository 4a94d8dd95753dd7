"""The memory of a `StepBatch`: the buffers of all slots, the rows of all plans, and the launch that steps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...ops import registry
from ...ops.row_table import RowTable
from ...plans.plan import Plan
from ..program import Assignment, Slots, program_of

IDLE = -1


@dataclass
class Entry:
    """A plan's rows in the table. first: where they begin. It keeps the plan, so that no other has its identity."""

    first: int
    plan: Plan
    bounds: object
    users: int = 0


class Rows:
    """Where the rows of each plan stand in the device table. A plan that several requests share stands there once."""

    def __init__(self, capacity: int, device: torch.device, stores_d: bool) -> None:
        self._table, self._stores_d = RowTable(capacity, device), stores_d
        self._entries: dict[tuple[int, object], Entry] = {}  # by the plan's identity and its bounds

    def __len__(self) -> int:
        """How many rows are in use."""
        return len(self._table)

    @property
    def tensor(self) -> Tensor:
        """[capacity, numbers] float64 on the device."""
        return self._table.tensor

    def has_room(self, plan: Plan, bounds: object) -> bool:
        """Whether `acquire` will find a place."""
        return (id(plan), bounds) in self._entries or self._table.find(plan.nfe) is not None

    def acquire(self, plan: Plan, bounds: object, table: np.ndarray) -> Entry:
        """The plan's rows, written where they are not there yet. bounds: what `table` depends on besides the plan."""
        key = id(plan), bounds
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(self._table.add(table, self._slots(plan)), plan, bounds)
        entry.users += 1
        return entry

    def release(self, entry: Entry) -> None:
        """Undo one `acquire`."""
        entry.users -= 1
        if not entry.users:
            self._table.remove(entry.first)
            del self._entries[id(entry.plan), entry.bounds]

    def _slots(self, plan: Plan) -> list[tuple]:
        program = program_of(plan)
        stores, assigned = self._stores_d or program.keeps_outputs, program.apart
        calls = [call if stores else (*call[:-1], None) for call in assigned.calls]
        return [tuple(calls[k]) for k in assigned.order]


class Pool:
    """Buffers [B, ...] for B slots, and what each slot is at.

    shape: [B, ...]. copies: of what the model reads next, `model_input` [copies * B, ...].

    row: [B] the row of the table that each slot runs next, IDLE where it runs none. t, scale: [B] the model's time and
    the scale of guidance there, NaN for none. seed: [B]. These are arrays of the host: it counts the steps itself, and
    `send` copies them to the device without waiting for it.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, model_dtype: torch.dtype, device: torch.device, copies: int
    ) -> None:
        batch = shape[0]
        self.dtype, self._like = dtype, torch.empty(0, dtype=dtype, device=device)
        self.shape, self.buffers = tuple(shape), list[Tensor]()
        self.model_input = torch.zeros(copies * batch, *shape[1:], dtype=model_dtype, device=device)
        self._run = registry.choose("solver_step_rows", registry.CallSpec(device.type, dtype, self.shape))
        numbers = np.zeros((4, batch), dtype=np.int64)
        self.row, self.seed = numbers[0], numbers[1]
        self.t, self.scale = numbers[2].view(np.float64), numbers[3].view(np.float64)
        self.row[:], self.t[:], self.scale[:] = IDLE, 1.0, np.nan
        self._numbers = numbers
        self._sent = torch.from_numpy(numbers).to(device)

    def grow(self, buffers: int) -> None:
        """Have at least so many buffers."""
        while len(self.buffers) < buffers:
            self.buffers.append(self._like.new_zeros(self.shape))

    def send(self) -> Tensor:
        """Copy the host's numbers to the device; the model's t, [B] in the state's dtype."""
        self._sent.copy_(torch.from_numpy(self._numbers), non_blocking=True)
        return self._sent[2].view(torch.float64).to(self.dtype)

    def scales(self) -> Tensor:
        """[B] float64 on the device, as `send` has sent them."""
        return self._sent[3].view(torch.float64)

    def launch(self, table: Tensor, m: Tensor, m_uncond: Tensor | None, scales: Tensor) -> None:
        """Run the row of every slot on the model's outputs [B, ...], and write what the model reads next."""
        row, seed = self._sent[0], self._sent[1]
        guidance = None if m_uncond is None else scales
        self._run(
            table, row, self.buffers, m, m_uncond, guidance, None, seed, self.model_input, (), None, None, None
        )  # fmt: skip

    def write_input(self, index: Tensor, x: Tensor, c_in: float) -> None:
        """Make c_in x what the model reads of some slots. x: [n, ...] of the slots index [n]."""
        scaled = (x * c_in).to(self.model_input.dtype)
        for half in self.model_input.split(self.shape[0]):
            half.index_copy_(0, index, scaled)

    def read(self, buffer: int, index: Tensor) -> Tensor:
        """[n, ...] a copy of what some slots hold in a buffer."""
        return self.buffers[buffer].index_select(0, index)


def buffers_of(assigned: Assignment) -> int:
    """How many buffers the rows need."""
    numbers = {n for call in assigned.calls for n in _numbers(call)}
    return max(numbers) + 1


def _numbers(call: Slots) -> tuple[int, ...]:
    base_out = () if call.base_out is None else (call.base_out,)
    return call.x, call.base, *call.history, call.x_out, *base_out, call.d_out
