"""The register machine: what a row does to x, base and history, whatever the registers are; and a plan's buffers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastdiff as fd
from fastdiff.plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate, Row
from fastdiff.plans.table import MAX_HISTORY
from fastdiff.sampling import program as programs
from fastdiff.sampling.program import Assignment, program_of
from fastdiff.sampling.registers import Moves, Registers, advance, moves_of, noise_as_history
from fastdiff.sampling.run import Run

VP = fd.Schedule.scaled_linear()
SOLVERS = [entry.name for entry in fd.solvers()]
BASES = {"next": None, "keep": BASE_UNCHANGED, "here": BASE_FROM_X, "write": LinearUpdate(x=0.5, history=(0.5,))}


def named(x: str, base: str, history: tuple[str, ...]) -> tuple[str, str | None, str]:
    return "x'", "base'", "D"


@pytest.mark.parametrize(("base", "expected"), [("next", "x'"), ("keep", "base"), ("here", "x"), ("write", "base'")])
def test_the_next_base_is_where_the_move_says(base: str, expected: str) -> None:
    before = Registers("x", "base", ("H1", "H2"))
    after = advance(before, Moves(2, 0, base), named)
    assert after == Registers("x'", expected, ("D", "H1", "H2"))
    assert before == Registers("x", "base", ("H1", "H2"))


def test_a_step_is_given_the_outputs_that_the_row_reads() -> None:
    given = []
    advance(Registers("x", "base", ("H1", "H2", "H3")), Moves(2, 0, "next"), lambda *a: given.append(a) or named(*a))
    assert given == [("x", "base", ("H1", "H2"))]


def test_outputs_are_dropped_by_their_places_after_the_update_and_then_cut() -> None:
    before = Registers("x", "base", ("H1", "H2", "H3"))
    assert advance(before, Moves(3, 0, "next", (0, 2)), named).history == ("H1", "H3")
    assert advance(before, Moves(3, 0, "next", (0, 2), keeps=1), named).history == ("H1",)


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(list(BASES)), st.sets(st.integers(0, 3), max_size=2)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_buffers_hold_what_a_machine_of_values_holds_and_no_row_writes_what_it_or_a_later_one_reads(choices) -> None:
    """A plan of random rows, run on values that are never written again, and by its program on buffers."""
    rows, kept = [], 0
    for reads, base, drop in choices:
        kept += 1
        drop = tuple(k for k in drop if k < kept)
        weights = (1.0,) * min(reads, kept)
        rows.append(Row(0.0, 1.0, 1.0, "data", 0.0, 1.0, LinearUpdate(history=weights), BASES[base], drop_history=drop))
        kept -= len(drop)
    plan = fd.Plan(tuple(rows), (1.0, 0.0), "sample")
    check_assignment(plan, program_of(plan).apart, in_place=False)
    check_assignment(plan, program_of(plan).in_place, in_place=True)


def check_assignment(plan: fd.Plan, assigned: Assignment, in_place: bool) -> None:
    memory = {0: "start"}
    values = Registers("start", "start")
    for i, move in enumerate(moves_of(plan.rows, keeps=MAX_HISTORY * 2)):
        slots = assigned.calls[assigned.order[i]]

        def step(x: str, base: str, history: tuple[str, ...], i: int = i) -> tuple[str, str, str]:
            return f"x{i}", f"base{i}", f"D{i}"

        read = [memory[slots.x], memory[slots.base], *(memory[k] for k in slots.history)]
        assert read == [values.x, values.base, *values.history[: move.reads]]
        written = [slots.x_out, slots.d_out, *([] if slots.base_out is None else [slots.base_out])]
        assert len(set(written)) == len(written)
        overlap = set(written) & {slots.x, slots.base, *slots.history}
        if in_place and slots.base_out is None:
            overlap -= set(slots.history) & {slots.x_out}
        assert not overlap
        memory |= {slots.x_out: f"x{i}", slots.d_out: f"D{i}"}
        if slots.base_out is not None:
            memory[slots.base_out] = f"base{i}"
        values = advance(values, move, step)
    last = assigned.states[-1]
    assert (memory[last.x], memory[last.base]) == (values.x, values.base)


def test_a_run_holds_no_more_buffers_than_its_registers_need() -> None:
    for solver in SOLVERS:
        plan = fd.plan(solver, VP, 9)
        for assigned in (program_of(plan).apart, program_of(plan).in_place):
            most = max(len({s.x, s.base, *s.history}) for s in assigned.states)
            slots = {slot for call in assigned.calls for slot in (call.x, call.x_out, call.base_out, call.d_out)}
            assert len(slots - {None}) <= most + 3, solver  # a row writes three at most


def test_in_place_a_multistep_run_needs_one_buffer_less() -> None:
    program = program_of(fd.plan("dpmpp_2m", VP, 9))
    for assigned, count in ((program.apart, 4), (program.in_place, 3)):
        assert {slot for call in assigned.calls for slot in (call.x, call.x_out, call.d_out)} == set(range(count))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_row_run_twice_gives_what_it_gave(solver: str) -> None:
    plan, x = fd.plan(solver, VP, 6), torch.randn(2, 5)
    run = Run(plan, x, model_dtype=torch.float32, seeds=torch.tensor([1, 2]))
    outputs = torch.randn(plan.nfe, 2, 5)
    for i, m in enumerate(outputs):
        run.apply(i, torch.randn(2, 5))
        run.apply(i, m)
        first = run.x.clone(), run.base.clone()
        run.apply(i, m)
        assert torch.equal(run.x, first[0])
        assert torch.equal(run.base, first[1])


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 1031)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_that_nobody_watches_ends_where_a_watched_one_does(solver: str, shape: tuple[int, ...]) -> None:
    plan, noise = fd.plan(solver, VP, 6), torch.randn(shape)

    def evaluate(x: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return torch.sin(x + t.view(-1, *[1] * (x.ndim - 1)) / 500), None

    ends = []
    for watched in (False, True):
        run = Run(plan, noise.clone(), model_dtype=torch.float32, seeds=torch.tensor([1, 2]), watched=watched)
        if watched:
            assert list(run.steps(evaluate, run.times())) == list(range(plan.nfe))
        else:
            assert run.drive(evaluate, run.times()) is run.x
        ends.append(run.x)
    assert torch.equal(*ends)


@pytest.mark.parametrize("solver", [entry.name for entry in fd.solvers() if entry.stochastic])
def test_noises_given_as_tensors_are_those_of_the_row(solver: str) -> None:
    plan, x, seeds = fd.plan(solver, VP, 6), torch.randn(2, 5, dtype=torch.float64), torch.tensor([5, 6])
    drawn = Run(plan, x.clone(), model_dtype=x.dtype, seeds=seeds)
    given = Run(plan, x.clone(), model_dtype=x.dtype, given_noise=True)
    for i, row in enumerate(plan.rows):
        m = torch.randn_like(x)
        indices = sorted({j for line in (row.x, row.base or LinearUpdate()) for j, _ in line.noise})
        drawn.apply(i, m)
        given.apply(i, m, noises=[fd.noise.randn(x.shape, seeds, index=j, dtype=x.dtype) for j in indices])
        torch.testing.assert_close(given.x, drawn.x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(given.base, drawn.base, rtol=1e-12, atol=1e-12)


def test_a_row_with_more_outputs_and_noises_than_the_history_holds_is_refused() -> None:
    line = LinearUpdate(history=(1.0,) * MAX_HISTORY, noise=((1, 1.0),))
    rows = [Row(0.0, 1.0, 1.0, "data", 0.0, 1.0, LinearUpdate(x=1.0)) for _ in range(MAX_HISTORY - 1)]
    plan = fd.Plan((*rows, Row(0.0, 1.0, 1.0, "data", 0.0, 1.0, line)), (1.0, 0.0), "sample")
    with pytest.raises(ValueError, match="row 7: it reads 8 outputs and 1 noises, at most 8 are kept"):
        noise_as_history(plan.table, moves_of(plan.rows))


def test_a_plans_program_goes_with_the_plan() -> None:
    plan = fd.plan("ddim", VP, 3)
    made = program_of(plan)
    assert program_of(plan) is made
    name = id(plan)
    del plan
    assert name not in programs._programs
