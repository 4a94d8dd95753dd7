"""The public `solver_step_rows`, and rows of whole plans: a batch whose samples run different solvers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from host_reads import HostReads
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import RowTable, StepResult, make_row, registry, solver_step, solver_step_rows
from fastdiff.ops.row_table import MAX_BUFFERS
from fastdiff.plans.table import OFFSET, ROW, WIDTH
from fastdiff.sampling.program import Program, Slots, program_of

F16, F32, F64 = torch.float16, torch.float32, torch.float64
ROWS = [
    make_row(p_x=0.9, p_m=-0.6, clamp=2.0, c_in=0.7, a_base=0.3, a_x=0.4, A=[0.5, -0.2], b_base=0.6, b_x=-0.3,
             B=[0.2, 0.8], xi_a=[0.4], xi_b=[0.1], noise=[7]),
    make_row(p_m=1.0, A=[0.5], a_x=0.5, b_x=1.0, c_in=1.3),
]  # fmt: skip
INPUTS = ("x", "m", "base", "m_uncond", "guidance", "threshold", "history", "others", "state", "weights")


def arguments(dtype: torch.dtype = F32, sets: int = 0, shape: tuple[int, ...] = (3, 5)) -> dict:
    """A call that uses every argument: samples at rows 0, none, 1 and 0."""
    x, m, base, m_uncond, h, second, state = torch.randn(7, 4, *shape, dtype=dtype)
    given = {
        "x": x,
        "m": m,
        "table": torch.tensor(ROWS, dtype=F64),
        "rows": torch.tensor([0, -1, 1, 0]),
        "base": base,
        "history": [h],
        "m_uncond": m_uncond,
        "threshold": torch.tensor([1.2, 1.5, 1.7, 1.9], dtype=F64),
        "seeds": torch.tensor([3, 5, -4, 6]),
        "write_base": True,
        "input_dtype": dtype,
        "copies": 2,
    }
    if not sets:
        return given | {"guidance": torch.tensor([1.5, 2.0, float("nan"), 7.5], dtype=F64)}
    weights = torch.randn(4, sets, 6, dtype=F64)
    return given | {"others": [second], "state": state, "weights": weights, "write_state": sets == 3}


def of_sample(given: dict, b: int) -> dict:
    """The call of `solver_step` for sample b."""
    alone = dict(given, row=ROWS[int(given["rows"][b])])
    del alone["table"], alone["rows"]
    for name in {*INPUTS, "seeds"} & alone.keys():
        value = alone[name]
        alone[name] = [t[b : b + 1] for t in value] if isinstance(value, list) else value[b : b + 1]
    if "guidance" in alone and alone["guidance"].isnan():
        del alone["guidance"], alone["m_uncond"]
    return alone


@pytest.mark.parametrize("host", ["reference", "cpu"])
@pytest.mark.parametrize("sets", [0, 1, 3])
@pytest.mark.parametrize("dtype", [F32, F64, F16], ids=str)
def test_each_sample_is_a_solver_step_and_one_without_a_row_stays(host: str, dtype: torch.dtype, sets: int) -> None:
    if registry.refusal("solver_step_rows", host, registry.CallSpec("cpu", dtype)) is not None:
        pytest.skip(f"{host} is not built")
    given = arguments(dtype, sets)
    with fd.backend(host):
        found = solver_step_rows(**given)
        alone = {b: solver_step(**of_sample(given, b)) for b in (0, 2, 3)}
    for b, right in alone.items():
        for name, value in right._asdict().items():
            mine = getattr(found, name)
            assert value is None or torch.equal(mine[b::4], value), (name, b)
    still = StepResult(given["x"], torch.zeros_like(given["x"]), given["base"], given["x"].repeat(2, 1, 1))
    for mine, kept in zip(found[:4], still[:4], strict=True):
        assert torch.equal(mine[1::4], kept[1::4])
    assert sets < 3 or torch.equal(found.state[1], given["state"][1])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_keep_the_memory_format_of_x(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    given = {"table": torch.tensor(ROWS[1:], dtype=F64), "rows": torch.tensor([0, -1]), "write_base": True}
    found = solver_step_rows(x, x, input_dtype=F16, copies=2, **given)
    assert all(out.is_contiguous(memory_format=layout) for out in found[:4])
    right = solver_step_rows(x.contiguous(), x.contiguous(), input_dtype=F16, copies=2, **given)
    assert all(torch.equal(a, b) for a, b in zip(found[:4], right[:4], strict=True))


def test_operands_of_any_strides_serve() -> None:
    given = arguments()
    right = solver_step_rows(**given)
    for name in ("base", "m", "x"):
        given[name] = given[name].repeat_interleave(2, -1)[..., ::2]
    given["history"] = [given["history"][0].mT.contiguous().mT]
    found = solver_step_rows(**given)
    assert all(torch.equal(a, b) for a, b in zip(found[:4], right[:4], strict=True))


def without_limits(given: dict) -> dict:
    """Finite differences are wrong where a limit is met."""
    given["table"][:, OFFSET["clamp"]] = torch.inf
    return given | {"threshold": given["threshold"] + 50}


def differentiable(given: dict) -> tuple[list[Tensor], Callable]:
    names = [name for name in INPUTS if isinstance(given.get(name), Tensor) and name != "guidance"]
    lists = [name for name in ("history", "others") if name in given]

    def function(*tensors: Tensor) -> tuple:
        called = dict(zip(names, tensors, strict=False))
        called |= {name: [t] for name, t in zip(lists, tensors[len(names) :], strict=True)}
        return tuple(out for out in solver_step_rows(**given | called) if out is not None)

    leaves = [*(given[name] for name in names), *(given[name][0] for name in lists)]
    return [leaf.clone().requires_grad_() for leaf in leaves], function


@pytest.mark.parametrize("sets", [0, 3])
def test_gradients_are_those_of_finite_differences(sets: int) -> None:
    leaves, function = differentiable(without_limits(arguments(F64, sets, (2,))))
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_the_op_is_registered_in_full() -> None:
    given = arguments(F64, 3) | {"guidance": None}
    order = ("x", "m", "table", "rows", "base", "history", "m_uncond", "guidance", "threshold", "seeds", "write_base",
             "input_dtype", "copies", "others", "state", "weights", "write_state")  # fmt: skip
    torch.library.opcheck(torch.ops.fastdiff.solver_step_rows.default, tuple(given[name] for name in order))


def test_compiles_without_a_graph_break() -> None:
    given = arguments()
    right = solver_step_rows(**given)
    found = torch.compile(lambda: solver_step_rows(**given), fullgraph=True, backend="aot_eager")()
    assert all(torch.equal(a, b) for a, b in zip(found[:4], right[:4], strict=True))


def test_no_value_is_read_by_the_host() -> None:
    for backend in ("reference", "cpu"):
        given = arguments()
        if registry.refusal("solver_step_rows", backend, registry.CallSpec("cpu", F32)) is None:
            with fd.backend(backend), HostReads() as reads:
                solver_step_rows(**given)
            assert reads.seen == []


SHAPE = (4, 3, 5)
BAD = [
    ({"table": ROWS}, TypeError, r"table: expected a torch.Tensor, got list"),
    ({"table": torch.zeros(2, WIDTH)}, TypeError, r"table: expected torch.float64, got torch.float32"),
    ({"table": torch.zeros(2, 5, dtype=F64)}, ValueError, r"table: expected shape \(R, 31\) with R >= 1, got \(2, 5\)"),
    ({"table": torch.zeros(0, WIDTH, dtype=F64)}, ValueError, r"table: expected shape .* got \(0, 31\)"),
    ({"table": torch.zeros(2, WIDTH, dtype=F64, device="meta")}, ValueError, r"table: expected device cpu"),
    ({"rows": torch.zeros(3, dtype=torch.int64)}, ValueError, r"rows: expected shape \(4,\), got \(3,\)"),
    ({"rows": torch.zeros(4)}, TypeError, r"rows: expected torch.int64, got torch.float32"),
    ({"rows": torch.zeros(4, dtype=torch.int64, device="meta")}, ValueError, r"rows: expected device cpu"),
    ({"rows": torch.tensor([0, 1, 2, 0])}, ValueError, r"rows: sample 2 is at row 2 of 2"),
    ({"base": torch.zeros(SHAPE, dtype=F16)}, TypeError, r"base: expected torch.float32, got torch.float16"),
    ({"history": [torch.zeros(SHAPE, dtype=F64)]}, TypeError, r"history\[0\]: expected torch.float32, got"),
    ({"history": []}, ValueError, r"table: row 0: H_1 is buffer -1 of"),
    ({"seeds": None}, ValueError, r"table: row 0: it draws noise and there are no seeds"),
    ({"m": torch.zeros(4, 3)}, ValueError, r"m: expected shape \(4, 3, 5\), got \(4, 3\)"),
    ({"m_uncond": None}, ValueError, r"guidance: expected m_uncond beside it"),
    ({"state": torch.zeros(SHAPE)}, ValueError, r"state: expected weights beside it"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solver_step_rows(**arguments() | change)


SCHEDULE = fd.Schedule.scaled_linear()


def model(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(x) + (t / 1000).view(-1, 1, 1).to(x.dtype)


def slots_of(program: Program) -> list[Slots]:
    return [program.apart.calls[k] for k in program.apart.order]


def test_one_batch_runs_every_solver_of_the_catalogue_with_the_bits_of_each_alone() -> None:
    """Each sample has a plan of its own, of another length; those that have ended wait for the longest."""
    plans = [fd.plan(solver.name, SCHEDULE, 4) for solver in fd.solvers()]
    seeds = torch.randint(2**62, (len(plans),))
    noise = fd.noise.randn((len(plans), 3, 6), seeds=seeds.tolist())
    programs = [program_of(plan) for plan in plans]
    slots = [slots_of(program) for program in programs]
    table = RowTable(sum(map(len, slots)) + 5)
    begins = [table.add(program.table, each) for program, each in zip(programs, slots, strict=True)]
    buffers = list(torch.full((MAX_BUFFERS, *noise.shape), torch.nan))
    scales = torch.tensor([plan.init_scale for plan in plans]).view(-1, 1, 1)
    buffers[0].copy_(noise * scales)
    given = buffers[0] * torch.tensor([plan.rows[0].c_in for plan in plans]).view(-1, 1, 1)
    step = registry.choose("solver_step_rows", registry.CallSpec("cpu", F32, tuple(noise.shape)))
    for i in range(max(plan.nfe for plan in plans)):
        runs = [i < plan.nfe for plan in plans]
        rows = [begin + i if run else -1 for begin, run in zip(begins, runs, strict=True)]
        t = torch.tensor([plan.rows[i].t if run else 0.0 for plan, run in zip(plans, runs, strict=True)])
        step(table.tensor, torch.tensor(rows), buffers, model(given, t), None, None, None, seeds, given)
    for b, (plan, each) in enumerate(zip(plans, slots, strict=True)):
        alone = fd.sample(model, plan, noise[b : b + 1], seeds=[int(seeds[b])])
        assert torch.equal(buffers[each[-1].x_out][b], alone[0]), fd.solvers()[b].name


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["cuda", "triton"])
def test_a_captured_launch_serves_plans_and_rows_that_come_later(kernel: str) -> None:
    x, m, out_x, out_d = torch.randn(4, 3, 64, device="cuda").unbind()
    buffers, table, rows = [x, out_x, out_d], RowTable(4, "cuda"), torch.zeros(3, dtype=torch.int64, device="cuda")
    slots = [(0, 0, [], 1, None, 2)]
    euler, other = (np.array(make_row(p_m=1.0, a_x=a, A=[0.5])).view(ROW) for a in (0.3, 0.7))
    begin = table.add(euler, slots)
    with fd.backend(kernel):
        step = registry.choose("solver_step_rows", registry.CallSpec("cuda", F32, (3, 64)))
    call = (table.tensor, rows, buffers, m, None, None, None, None, None)
    step(*call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*call)
    table.remove(begin)
    table.add(other, slots)
    rows.copy_(torch.tensor([0, -1, 0]))
    out_x.zero_()
    graph.replay()
    right = 0.7 * x + 0.5 * m
    right[1] = 0
    assert torch.allclose(out_x, right, atol=1e-6)
