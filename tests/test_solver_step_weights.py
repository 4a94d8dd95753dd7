"""solver_step with weights of several outputs, x and a state: every backend against the formula, and the public op.

tests/test_solver_step.py holds the cases of `solver_step_cases.WEIGHTED` to the float64 reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import solver_step_cases as cases
import torch
from solver_step_cases import F16, F32, F64, TOLERANCE, Call, Case, make_call, run
from test_solver_step import relative_error, skip_if_refused
from torch import Tensor

from fastdiff.ops import make_row, reference, registry, solver_step

OP = "solver_step"
EVERYTHING = Case("everything", (3, 2, 5, 7), history=2, base=True, guidance="sample", noises=2, copies=4, sets=3,
                  others=2, keeps=True)  # fmt: skip


def literal(
    w: Tensor, x: Tensor, m: Tensor | None, u: Tensor | None, others: Sequence[Tensor], state: Tensor | None
) -> Tensor:
    """w_m (m - u) + w_u u + w_2 (m_2 - u) + w_3 (m_3 - u) + w_x x + w_s s, with zeros for what is absent."""
    zero = torch.zeros_like(x, dtype=F64)
    second, third = (*others, None, None)[:2]
    m, u, second, third, s = (zero if t is None else t.double() for t in (m, u, second, third, state))
    given = [m - u, u, *(zero if k >= len(others) else t - u for k, t in enumerate((second, third))), x.double(), s]
    return torch.einsum("bk,kb...->b...", w, torch.stack(given))


@pytest.mark.parametrize(
    ("uncond", "others", "keeps"), list(itertools.product((False, True), (0, 1, 2), (False, True)))
)
def test_the_reference_is_the_formula(uncond: bool, others: int, keeps: bool) -> None:
    x, m, u, second, third, s = torch.randn(6, 3, 4, 5, dtype=F64)
    operands = (x, m, u if uncond else None, [second, third][:others], s if keeps else None)
    w = torch.randn(3, 6, dtype=F64)
    assert relative_error(reference.weighted_sum(w, *operands), literal(w, *operands)) < 1e-14


@pytest.mark.parametrize("sets", [1, 2, 3])
def test_each_set_makes_its_own_result(backend: str, device: str, sets: int) -> None:
    """y_0 moves x, y_1 goes into the history, y_2 is the state; the limits hold for the first two."""
    skip_if_refused(backend, EVERYTHING, device)
    x, m, u, second, third, s, h = torch.randn(7, 2, 3, 4, 5, device=device)
    w = torch.randn(2, sets, 6, dtype=F64, device=device)
    limit = torch.tensor([1.1, 1.6], dtype=F64, device=device)
    row = make_row(p_x=0.3, p_m=-0.7, a_x=0.5, A=[0.4, 0.2], b_x=0.1, B=[0.6], clamp=1.5)
    with registry.backend(backend):
        found = solver_step(
            x, m, row, history=[h], m_uncond=u, others=[second, third], state=s, weights=w, threshold=limit,
            write_base=True, write_state=sets == 3,
        )  # fmt: skip
    y = [literal(w[:, k], x, m, u, [second, third], s) for k in range(sets)]
    limit = limit.view(2, 1, 1, 1)
    d = [(0.3 * x - 0.7 * v).clamp(-1.5, 1.5).clamp(-limit, limit) / limit for v in y[:2]]
    assert relative_error(found.x, 0.5 * x + 0.4 * d[0] + 0.2 * h) < TOLERANCE[F32]
    assert relative_error(found.base, 0.1 * x + 0.6 * d[0]) < TOLERANCE[F32]
    assert relative_error(found.converted, d[-1]) < TOLERANCE[F32]
    assert found.state is None if sets < 3 else relative_error(found.state, y[2]) < TOLERANCE[F32]


@pytest.mark.parametrize("dtype", [F32, F64, F16], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (3, 5, 7), (2, 1031)], ids=str)
def test_weights_that_say_guidance_give_its_bits(
    backend: str, device: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    case = Case("bits", shape, state=dtype, model=dtype, history=2, base=True, guidance="sample", noises=1,
                threshold=True, copies=2, input=dtype)  # fmt: skip
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    guided = {name: out.clone() for name, out in run(backend, call).items()}
    weights = torch.zeros(shape[0], 1, 6, dtype=F64, device=device)
    weights[:, 0, 0], weights[:, 0, 1] = call.inputs["guidance"], 1
    x = call.inputs["x"]
    call.combined = {"others": [x.clone()], "state": x.clone(), "weights": weights, "out_state": None}
    for name, out in run(backend, call).items():
        assert out is None or torch.equal(out, guided[name]), name


def test_a_sample_does_not_depend_on_its_batch(backend: str, device: str) -> None:
    case = replace(EVERYTHING, shape=(8, 3, 130))
    skip_if_refused(backend, case, device)
    whole = make_call(case, device)
    batched = run(backend, whole)
    for b in (0, 5):
        single = make_call(replace(case, shape=(1, 3, 130)), device)
        single.table = whole.table
        for part, of_whole in ((single.inputs, whole.inputs), (single.combined, whole.combined)):
            for name, value in of_whole.items():
                if name != "out_state" and value is not None:
                    part[name] = [t[b : b + 1] for t in value] if isinstance(value, list) else value[b : b + 1]
        for name, found in run(backend, single).items():
            same = batched[name][b::8] if name == "out_input" else batched[name][b : b + 1]
            assert torch.equal(found, same), name


def results_after(backend: str, call: Call, spoil: Tensor) -> dict:
    spoil[1] = torch.nan
    return run(backend, call)


@pytest.mark.parametrize("operand", ["m", "m_uncond", "second", "third", "state"])
def test_nan_stays_in_its_sample(backend: str, device: str, operand: str) -> None:
    skip_if_refused(backend, EVERYTHING, device)
    call = make_call(EVERYTHING, device)
    second, third = call.combined["others"]
    named = {"second": second, "third": third, "state": call.combined["state"]} | call.inputs
    for found in results_after(backend, call, named[operand]).values():
        bad = found.isnan().flatten(1).any(1)
        assert bad.tolist() == [False, True, False] * (len(found) // 3)


@pytest.mark.parametrize("column", range(6))
def test_a_weight_of_zero_takes_nothing(backend: str, device: str, column: int) -> None:
    """Not even from NaN: what is not read may be memory that nobody has written."""
    case = replace(EVERYTHING, row={"p_x": 0.0, "a_x": 0.0, "b_x": 0.0})
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    operands = [call.inputs["m"], call.inputs["m_uncond"], *call.combined["others"], call.inputs["x"],
                call.combined["state"]]  # fmt: skip
    call.combined["weights"][:, :, column] = 0
    if column == 1:  # the other outputs are differences from it
        call.combined["weights"][:, :, (0, 2, 3)] = 0
    operands[column].fill_(torch.nan)
    assert all(found.isfinite().all() for found in run(backend, call).values())


def test_where_the_row_leaves_out_the_output_nothing_of_it_is_read(backend: str, device: str) -> None:
    case = replace(EVERYTHING, sets=2, row={"p_m": 0.0})
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    for unread in (call.inputs["m"], call.inputs["m_uncond"], *call.combined["others"], call.combined["state"]):
        unread.fill_(torch.nan)
    assert all(found is None or found.isfinite().all() for found in run(backend, call).values())


def test_outputs_may_be_absent(backend: str, device: str) -> None:
    """Without m, and with the third output where there is no second."""
    skip_if_refused(backend, EVERYTHING, device)
    call = make_call(EVERYTHING, device)
    call.inputs["m"], call.combined["others"][0] = None, None
    right = cases.expected(call)
    for name, found in run(backend, call).items():
        assert relative_error(found, right[name]) <= 10 * TOLERANCE[F32], name  # its sums may cancel


def test_weights_of_another_layout_are_the_same_weights(backend: str, device: str) -> None:
    skip_if_refused(backend, EVERYTHING, device)
    call = make_call(EVERYTHING, device)
    right = {name: out.clone() for name, out in run(backend, call).items()}
    call.combined["weights"] = call.combined["weights"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert all(torch.equal(found, right[name]) for name, found in run(backend, call).items())


def test_an_empty_batch_writes_nothing(backend: str, device: str) -> None:
    skip_if_refused(backend, EVERYTHING, device)
    for shape in ((0, 4, 8), (2, 0, 8)):
        run(backend, make_call(replace(EVERYTHING, shape=shape), device))


def arguments(dtype: torch.dtype = F32) -> dict:
    """A call of the public op that uses every argument that goes with weights."""
    x, m, u, second, third, state, h = torch.randn(7, 2, 3, 5, dtype=F64).to(dtype)
    row = make_row(p_x=0.9, p_m=-0.6, c_in=0.7, a_x=0.4, A=[0.5, -0.2], b_x=-0.3, B=[0.2, 0.8])
    return {
        "x": x, "m": m, "row": row, "history": [h], "m_uncond": u, "others": [second, third], "state": state,
        "weights": torch.randn(2, 3, 6, dtype=F64), "write_base": True, "input_dtype": dtype, "copies": 3,
        "write_state": True,
    }  # fmt: skip


def test_gradients_are_those_of_finite_differences() -> None:
    given = arguments(F64)
    names = ["x", "m", "m_uncond", "state", "weights"]
    leaves = [given[name] for name in names] + given["others"]

    def function(*tensors: Tensor) -> tuple:
        return solver_step(**given | dict(zip(names, tensors, strict=False)) | {"others": tensors[len(names) :]})

    assert torch.autograd.gradcheck(function, [leaf.clone().requires_grad_() for leaf in leaves])


def test_a_weight_of_zero_has_a_gradient() -> None:
    given = arguments(F64)
    given["weights"] = torch.zeros(2, 3, 6, dtype=F64, requires_grad=True)
    solver_step(**given).state.sum().backward()
    assert torch.allclose(given["weights"].grad[:, 2, 4], given["x"].sum((1, 2)))


def test_the_op_is_registered_in_full() -> None:
    a = arguments(F64)
    call = (a["x"], a["m"], a["row"], None, a["history"], a["m_uncond"], None, None, None, True, F64, 3, a["others"],
            a["state"], a["weights"], True)  # fmt: skip
    torch.library.opcheck(torch.ops.fastdiff.solver_step.default, call)


def test_compiles_without_a_graph_break() -> None:
    given = arguments()
    right = solver_step(**given)
    found = torch.compile(lambda: solver_step(**given), fullgraph=True, backend="aot_eager")()
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights": [1.0]}, TypeError, r"weights: expected a torch.Tensor, got list"),
        ({"weights": torch.zeros(2, 6, dtype=F64)}, ValueError, r"weights: expected shape \(2, S, 6\), got \(2, 6\)"),
        ({"weights": torch.zeros(3, 1, 6, dtype=F64)}, ValueError, r"weights: expected shape \(2, S, 6\)"),
        ({"weights": torch.zeros(2, 1, 5, dtype=F64)}, ValueError, r"weights: expected shape \(2, S, 6\)"),
        ({"weights": torch.zeros(2, 4, 6, dtype=F64)}, ValueError, r"weights: expected 1 to 3 sets, got 4"),
        ({"weights": torch.zeros(2, 0, 6, dtype=F64)}, ValueError, r"weights: expected 1 to 3 sets, got 0"),
        ({"weights": torch.zeros(2, 3, 6)}, TypeError, r"weights: expected torch.float64, got torch.float32"),
        ({"weights": torch.zeros(2, 3, 6, dtype=F64, device="meta")}, ValueError, r"weights: expected device cpu"),
        ({"weights": torch.zeros(2, 2, 6, dtype=F64)}, ValueError, r"write_state: expected 3 sets of weights, got 2"),
        ({"guidance": torch.ones(2, dtype=F64)}, ValueError, r"weights: expected no guidance beside them"),
        ({"others": [torch.zeros(2, 3, 5)] * 3}, ValueError, r"others: expected at most 2 outputs, got 3"),
        ({"others": [torch.zeros(2, 3)]}, ValueError, r"others\[0\]: expected shape"),
        ({"state": torch.zeros(2, 3)}, ValueError, r"state: expected shape"),
        ({"weights": None}, ValueError, r"others: expected weights beside it, got none"),
        ({"weights": None, "others": ()}, ValueError, r"state: expected weights beside it, got none"),
        ({"weights": None, "others": (), "state": None}, ValueError, r"write_state: expected weights beside it"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solver_step(**arguments() | change)
