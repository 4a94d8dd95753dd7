"""A device table of the rows of many plans, from which `solver_step_rows` takes one for each sample.

A record is a `ROW` followed by the numbers of the buffers that the row reads and writes, as float64:

    x, base, H_1, ..., H_7, x_out, base_out, d_out          -1: absent

A step with it is valid for as long as the plan's rows stay where they are; others come and go beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..plans.table import MAX_HISTORY, ROW, WIDTH

Slots = tuple[int, int, Sequence[int], int, "int | None", "int | None"]  # x, base, history, x_out, base_out, d_out
ABSENT = -1
X, BASE, HISTORY, X_OUT, BASE_OUT, D_OUT = 0, 1, 2, 1 + MAX_HISTORY, 2 + MAX_HISTORY, 3 + MAX_HISTORY
SLOTS = D_OUT + 1
RECORD = WIDTH + SLOTS
MAX_BUFFERS = 64


def slot_numbers(slots: Slots) -> list[float]:
    """The end of a record: [SLOTS] numbers."""
    x, base, history, x_out, base_out, d_out = slots
    numbers = [float(ABSENT)] * SLOTS
    numbers[X], numbers[BASE], numbers[X_OUT] = x, base, x_out
    numbers[HISTORY : HISTORY + len(history)] = map(float, history)
    numbers[BASE_OUT], numbers[D_OUT] = (ABSENT if n is None else n for n in (base_out, d_out))
    return numbers


def pack_records(table: np.ndarray, slots: Iterable[Slots]) -> np.ndarray:
    """[n, RECORD] float64 of n rows of dtype `ROW` and the buffers of each.

    Raises ValueError for a row that reads what has no buffer.
    """
    numbers = np.array([slot_numbers(each) for each in slots], dtype=np.float64).reshape(-1, SLOTS)
    rows = np.ascontiguousarray(table).view(np.float64).reshape(-1, WIDTH)
    records = np.concatenate([rows, numbers], axis=1)
    wrong = find_error(records, buffers=MAX_BUFFERS, seeds=True)
    if wrong is not None:
        raise ValueError(f"row {wrong[0]}: {wrong[1]}")
    return records


def find_error(records: np.ndarray, *, buffers: int, seeds: bool, weights: bool = False) -> tuple[int, str] | None:
    """The first of the records [n, RECORD] that cannot be run with so many buffers, and why; None where all can."""
    rows, slots = np.ascontiguousarray(records[:, :WIDTH]).view(ROW)[:, 0], records[:, WIDTH:]
    wanted = slots >= 0  # what is not wanted may be absent
    wanted[:, X] = weights | (rows["p_x"] != 0) | (rows["a_x"] != 0) | (rows["b_x"] != 0)
    wanted[:, BASE] = (rows["a_base"] != 0) | (rows["b_base"] != 0)
    wanted[:, HISTORY:X_OUT] = (rows["A"][:, 1:] != 0) | (rows["B"][:, 1:] != 0)
    wanted[:, X_OUT] = True
    for i, k in np.argwhere(wanted & ~((slots >= 0) & (slots < buffers))):
        return int(i), f"{_NAMES[k]} is buffer {slots[i, k]:g} of {buffers}"
    draws = ((rows["xi_a"] != 0) | (rows["xi_b"] != 0)).any(axis=1)
    if draws.any() and not seeds:
        return int(draws.argmax()), "it draws noise and there are no seeds"
    return None


_NAMES = ("x", "base", *(f"H_{k}" for k in range(1, MAX_HISTORY)), "the next x", "the next base", "D")


class RowTable:
    """Room for the records of many plans at once, `tensor` [capacity, RECORD] float64 on the device.

    `add` writes a plan's records into free rows and says where they begin; `remove` frees them. The memory stays where
    it is, so that captured launches serve whatever plans are there; a row in use is not written.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected at least one row, got {capacity}")
        self.tensor: Tensor = torch.zeros(capacity, RECORD, dtype=torch.float64, device=device)
        self._used: dict[int, int] = {}  # first row of each plan: how many it has

    def __len__(self) -> int:
        """How many rows are in use."""
        return sum(self._used.values())

    def find(self, rows: int) -> int | None:
        """The first place where so many rows are free, or None."""
        begin = 0
        for first, count in sorted(self._used.items()):
            if first - begin >= rows:
                return begin
            begin = first + count
        return begin if len(self.tensor) - begin >= rows else None

    def add(self, table: np.ndarray, slots: Sequence[Slots]) -> int:
        """The place of the first of these rows (see `pack_records`), which are now in the table.

        Raises ValueError where there are none or no room is left for them side by side.
        """
        records = pack_records(table, slots)
        begin = self.find(len(records))
        if begin is None or not len(records):
            raise ValueError(f"table: expected 1 to {len(self.tensor)} rows with room for them, got {len(records)}")
        # A stream that still reads other rows is not waited for: the copy comes after what was launched before.
        self.tensor[begin : begin + len(records)].copy_(torch.from_numpy(records), non_blocking=True)
        self._used[begin] = len(records)
        return begin

    def remove(self, begin: int) -> None:
        """Free the rows that `add` has put there."""
        del self._used[begin]
