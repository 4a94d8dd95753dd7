"""The device table of many plans' rows: what is in it, where there is room, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_step_cases import Case, random_row

from fastdiff.ops import RowTable
from fastdiff.ops.row_table import ABSENT, RECORD, find_error, pack_records
from fastdiff.plans.table import WIDTH, empty_table

SLOTS = (0, 0, [1], 2, None, 3)
ROW_WITH_HISTORY = Case("history", history=1)


def rows(count: int) -> np.ndarray:
    return np.concatenate([random_row(ROW_WITH_HISTORY) for _ in range(count)])


def test_a_record_is_the_row_and_the_numbers_of_its_buffers() -> None:
    table = rows(2)
    records = pack_records(table, [SLOTS, (4, 5, [6], 7, 8, None)])
    assert records.shape == (2, RECORD)
    assert np.array_equal(records[:, :WIDTH], table.view(np.float64).reshape(2, WIDTH))
    assert records[0, WIDTH:].tolist() == [0, 0, 1, *[ABSENT] * 6, 2, ABSENT, 3]
    assert records[1, WIDTH:].tolist() == [4, 5, 6, *[ABSENT] * 6, 7, 8, ABSENT]


def test_plans_come_and_go_without_moving_the_memory_or_one_another() -> None:
    table = RowTable(10)
    place = table.tensor.data_ptr()
    plans = [rows(count) for count in (3, 4, 3)]
    begins = [table.add(plan, [SLOTS] * len(plan)) for plan in plans]
    assert begins == [0, 3, 7]
    assert len(table) == 10
    table.remove(begins[1])
    assert table.find(5) is None
    small = rows(2)
    assert table.add(small, [SLOTS] * 2) == 3
    assert table.add(small, [SLOTS] * 2) == 5
    assert table.tensor.data_ptr() == place
    for begin, plan in ((0, plans[0]), (3, small), (5, small), (7, plans[2])):
        found = table.tensor[begin : begin + len(plan)].numpy()
        assert np.array_equal(found, pack_records(plan, [SLOTS] * len(plan)))


def test_a_full_table_says_so() -> None:
    table = RowTable(3)
    table.add(rows(2), [SLOTS] * 2)
    with pytest.raises(ValueError, match=r"table: expected 1 to 3 rows with room for them, got 2"):
        table.add(rows(2), [SLOTS] * 2)
    with pytest.raises(ValueError, match=r"got 0"):
        table.add(rows(1)[:0], [])
    with pytest.raises(ValueError, match=r"capacity: expected at least one row, got 0"):
        RowTable(0)


@pytest.mark.parametrize(
    ("change", "slots", "message"),
    [
        ({}, (0, 0, [], 2, None, 3), r"row 0: H_1 is buffer -1 of 64"),
        ({}, (0, 0, [64], 2, None, 3), r"row 0: H_1 is buffer 64 of 64"),
        ({}, (-1, 0, [1], 2, None, 3), r"row 0: x is buffer -1 of 64"),
        ({}, (0, 0, [1], -1, None, 3), r"row 0: the next x is buffer -1 of 64"),
        ({}, (0, 0, [1], 2, 99, 3), r"row 0: the next base is buffer 99 of 64"),
        ({}, (0, 0, [1], 2, None, 64), r"row 0: D is buffer 64 of 64"),
        ({"a_base": 1.0}, (0, -1, [1], 2, None, 3), r"row 0: base is buffer -1 of 64"),
    ],
)
def test_a_row_that_reads_what_is_not_there_is_refused(change: dict, slots: tuple, message: str) -> None:
    table = random_row(Case("row", history=1, row=change))
    with pytest.raises(ValueError, match=message):
        RowTable(4).add(table, [slots])


def test_noise_wants_seeds_and_what_is_not_read_may_be_absent() -> None:
    table = empty_table(1)
    table["xi_a"][0, 0] = 1.0
    record = pack_records(table, [(ABSENT, ABSENT, [], 0, None, None)])
    assert find_error(record, buffers=1, seeds=True) is None
    assert find_error(record, buffers=1, seeds=False) == (0, "it draws noise and there are no seeds")
    assert find_error(record, buffers=1, seeds=True, weights=True) == (0, "x is buffer -1 of 1")


def test_a_table_lives_on_its_device() -> None:
    assert RowTable(4, "meta").tensor.shape == (4, RECORD)
    assert RowTable(4, torch.device("cpu")).tensor.dtype == torch.float64
