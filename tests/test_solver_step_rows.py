"""solver_step_rows: a sample of any mixture has the bits that `solver_step` gives it alone, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import INTERPRETING
from solver_step_cases import Case, random_row
from solver_step_rows_cases import (
    CASES,
    EVERYTHING,
    INTERPRETABLE,
    NAN,
    Mixture,
    assert_same,
    make_mixture,
    one_by_one,
    same_bits,
)
from torch import Tensor

from fastdiff.ops import registry
from fastdiff.ops.row_table import pack_records

OP = "solver_step_rows"
EVERYWHERE = Case("everything", (4, 3, 35), **EVERYTHING)
WEIGHTED = Case("weighted", (4, 3, 35), guidance="sample", sets=3, others=2, keeps=True, noises=1, copies=2)


def chosen(op: str, backend: str, x: Tensor) -> Callable[..., None]:
    with registry.backend(backend):
        return registry.choose(op, registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))


def skip_if_refused(backend: str, case: Case, device: str) -> None:
    reason = registry.refusal(OP, backend, registry.CallSpec(device, case.state, case.shape))
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


def run(backend: str, mixture: Mixture) -> Mixture:
    chosen(OP, backend, mixture.buffers[0])(*mixture.arguments())
    return mixture


@pytest.mark.parametrize("case", INTERPRETABLE if INTERPRETING else CASES, ids=str)
def test_a_mixture_has_the_bits_of_one_by_one(backend: str, device: str, case: Case) -> None:
    skip_if_refused(backend, case, device)
    mixture = make_mixture(case, device)
    right = one_by_one(chosen("solver_step", backend, mixture.buffers[0]), mixture.cloned())
    assert_same(run(backend, mixture), right)


def test_samples_without_a_row_keep_every_byte(backend: str, device: str) -> None:
    case = Case("still", (3, 5), **EVERYTHING)
    skip_if_refused(backend, case, device)
    mixture = make_mixture(case, device)
    mixture.rows[:] = -1
    right = mixture.cloned()
    assert_same(run(backend, mixture), right)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_without_elements_nothing_happens(backend: str, device: str, shape: tuple[int, ...]) -> None:
    case = Case("empty", shape)
    skip_if_refused(backend, case, device)
    x = torch.empty(shape, device=device)
    table = make_mixture(Case("one", (1, 4)), device).table
    rows = torch.zeros(shape[0], dtype=torch.int64, device=device)
    chosen(OP, backend, x)(table, rows, [x] * 6, x, None, None, None, rows, None)


def test_operands_without_weight_and_of_other_samples_are_not_read(backend: str, device: str) -> None:
    """A NaN where nobody looks: in what a row has no weight for, in m_uncond without guidance, in a still sample."""
    case = Case("unread", (3, 4, 5), guidance="sample")
    skip_if_refused(backend, case, device)
    mixture = make_mixture(case, device)
    row = random_row(Case("row", history=2, row={"a_base": 0.0, "A": (1, 0, 0.5, 0, 0, 0, 0, 0)}))
    mixture.table[:1] = torch.from_numpy(pack_records(row, [(0, 1, [1, 2], 3, None, 4)]))
    mixture.rows[:] = torch.tensor([0, -1, 0])
    mixture.guidance[:] = torch.tensor([NAN, 2.0, 3.0])
    mixture.buffers[1].fill_(NAN)
    mixture.m_uncond[:2] = NAN
    for operand in (mixture.m, mixture.buffers[0], mixture.buffers[2]):
        operand[1] = NAN
    found = run(backend, mixture).buffers
    assert all(found[k][b].isfinite().all() for k in (3, 4) for b in (0, 2))


@pytest.mark.parametrize("case", [EVERYWHERE, WEIGHTED], ids=str)
def test_numbers_of_each_sample_may_be_strided_and_of_other_dtypes(backend: str, device: str, case: Case) -> None:
    skip_if_refused(backend, case, device)
    mixture = make_mixture(case, device)
    right = run(backend, mixture.cloned())
    for name in ("table", "rows", "guidance", "threshold", "seeds", "weights"):
        numbers = getattr(mixture, name)
        setattr(mixture, name, numbers if numbers is None else numbers.repeat_interleave(2, 0)[::2])
    assert_same(run(backend, mixture), right)


@pytest.mark.parametrize("case", [EVERYWHERE, WEIGHTED], ids=str)
def test_dimensions_that_do_not_merge_are_copied(backend: str, device: str, case: Case) -> None:
    shape = (3, 2, 3, 2, 2, 2, 2)
    skip_if_refused(backend, case, device)
    mixture = make_mixture(replace(case, shape=shape), device)
    right = one_by_one(chosen("solver_step", backend, mixture.buffers[0]), mixture.cloned())
    order = (0, 3, 2, 5, 4, 1, 6)
    turned = torch.empty([shape[d] for d in order], device=device).permute(np.argsort(order).tolist())
    mixture.m = turned.copy_(mixture.m)
    assert_same(run(backend, mixture), right)


def test_buffers_need_not_be_slots_of_one_pool(backend: str, device: str) -> None:
    skip_if_refused(backend, EVERYWHERE, device)
    mixture = make_mixture(EVERYWHERE, device)
    right = run(backend, mixture.cloned())
    pool = torch.stack(mixture.buffers)
    mixture.buffers = list(pool)
    run(backend, mixture)
    for found, wanted in zip(pool, right.buffers, strict=True):
        assert same_bits(found, wanted)


def test_on_the_cpu_the_next_x_may_take_the_place_of_an_output_it_reads() -> None:
    case = Case("in_place", (3, 2060))
    mixture = make_mixture(case)
    row = random_row(Case("row", history=2))
    apart, in_place = (pack_records(row, [(0, 0, [1, 2], x_out, None, 4)]) for x_out in (3, 2))
    mixture.table[:2] = torch.from_numpy(np.concatenate([apart, in_place]))
    for backend in ("reference", "cpu"):
        if registry.refusal(OP, backend, registry.CallSpec("cpu", case.state, case.shape)) is not None:
            continue
        results = []
        for k, x_out in enumerate((3, 2)):
            mixture.rows[:] = k
            results.append(run(backend, mixture.cloned()).buffers[x_out])
        assert torch.equal(*results)


def test_every_instruction_set_gives_a_mixture_its_bits_of_one_by_one(isa: str) -> None:
    for case in (EVERYWHERE, WEIGHTED):
        mixture = make_mixture(case)
        right = one_by_one(chosen("solver_step", "cpu", mixture.buffers[0]), mixture.cloned())
        assert_same(run("cpu", mixture), right)


def test_the_number_of_threads_changes_no_bit(threads: None) -> None:
    case = Case("threads", (5, 70001), **EVERYTHING)
    skip_if_refused("cpu", case, "cpu")
    mixture, results = make_mixture(case), []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(run("cpu", mixture.cloned()))
    assert_same(*results)


UNRUNNABLE = [
    ({"rows": torch.tensor([0, 11, 0])}, r"rows: sample 1 is at row 11 of 11"),
    ({"seeds": None}, r"table: row 0: it draws noise and there are no seeds"),
    ({"slots": (0, 0, [6], 2, None, 3)}, r"table: row 0: H_1 is buffer 6 of 6"),
    ({"slots": (7, 0, [1], 2, None, 3)}, r"table: row 0: x is buffer 7 of 6"),
    ({"slots": (0, 0, [1], 6, None, 3)}, r"table: row 0: the next x is buffer 6 of 6"),
    ({"slots": (0, 0, [1], 2, 8, 3)}, r"table: row 0: the next base is buffer 8 of 6"),
    ({"slots": (0, 0, [1], 2, None, 9)}, r"table: row 0: D is buffer 9 of 6"),
]


@pytest.mark.parametrize("host", ["reference", "cpu"])
@pytest.mark.parametrize(("change", "message"), UNRUNNABLE)
def test_on_the_cpu_what_cannot_be_run_is_named_before_anything_is_written(
    host: str, change: dict, message: str
) -> None:
    case = Case("wrong", (3, 4), noises=1)
    skip_if_refused(host, case, "cpu")
    mixture = make_mixture(case)
    slots = change.get("slots", (0, 0, [1], 2, None, 3))
    mixture.table[:1] = torch.from_numpy(pack_records(random_row(Case("row", noises=1)), [slots]))
    mixture.rows[:] = 0
    mixture = replace(mixture, **{name: value for name, value in change.items() if name != "slots"})
    right = mixture.cloned()
    with pytest.raises(ValueError, match=message):
        run(host, mixture)
    assert_same(mixture, right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(2, dtype=torch.int64)}, r"rows: not of x's batch"),
        ({"rows": None}, r"rows: expected one row a sample, got None"),
        ({"table": torch.zeros(3, 31, dtype=torch.float64)}, r"table: expected the shape of RowTable.tensor"),
        ({"table": torch.zeros(0, 43, dtype=torch.float64)}, r"table: expected the shape of RowTable.tensor"),
        ({"buffers": [torch.zeros(3, 4)] * 65}, r"buffers: expected 1 to 64 tensors"),
        ({"buffers": [torch.zeros(3, 4), torch.zeros(3, 5)]}, r"buffers: expected one shape, dtype, device and layout"),
        ({"buffers": [torch.zeros(3, 4), torch.zeros(4, 3).T]}, r"buffers: expected one shape, dtype, device and lay"),
        ({"m": None}, r"m: the row reads it, got None"),
        ({"m": torch.zeros(3, 5)}, r"m: not of x's shape"),
        ({"out_state": torch.zeros(3, 4)}, r"out_state: expected weights beside it"),
    ],
)
def test_the_compiled_kernel_checks_what_it_is_given(change: dict, message: str) -> None:
    case = Case("wrong", (3, 4))
    skip_if_refused("cpu", case, "cpu")
    with pytest.raises(ValueError, match=message):
        run("cpu", replace(make_mixture(case), **change))
