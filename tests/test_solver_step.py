"""solver_step: every backend against the float64 reference, and the public op."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import solver_step_cases as cases
import torch
import without_elements as empty
from conftest import INTERPRETING, SEED
from hypothesis import given
from hypothesis import strategies as st
from solver_step_cases import F16, F32, TOLERANCE, Case, make_call, run

from fastdiff.ops import StepResult, make_row, philox, reference, registry, solver_step
from fastdiff.plans.table import ROW

OP = "solver_step"
SAMPLES = Case("samples", (3, 2, 5, 7), noises=2, base=True, guidance="sample", threshold=True, copies=2)


def relative_error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right).abs().max() / right.abs().max().clamp_min(1e-300))


def skip_if_refused(backend: str, case: Case, device: str) -> None:
    reason = registry.refusal(OP, backend, registry.CallSpec(device, case.state, case.shape))
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


@pytest.mark.parametrize("case", cases.for_the_interpreter() if INTERPRETING else cases.CASES, ids=str)
def test_agrees_with_the_reference(backend: str, device: str, case: Case) -> None:
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    right = cases.expected(call)
    for name, found in run(backend, call).items():
        if found is None:
            continue
        assert not found.isnan().any(), f"{name} was not written whole"
        assert cases.written(found) == found.numel(), f"{name}: memory beside it was written"
        assert relative_error(found, right[name]) <= TOLERANCE[found.dtype], name


def test_an_empty_batch_writes_nothing(backend: str, device: str) -> None:
    skip_if_refused(backend, SAMPLES, device)
    for shape in ((0, 4, 8), (2, 0, 8)):
        run(backend, make_call(replace(SAMPLES, shape=shape), device))


@empty.few
@given(data=st.data())
def test_without_elements_any_strides_give_an_empty_result(backend: str, device: str, data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, 6).flatmap(empty.shapes))
    dtype = data.draw(empty.served(OP, backend, device, shape))
    x, m, m_uncond, base, h = (data.draw(empty.strided(shape, dtype)).to(device) for _ in range(5))
    scalars = st.one_of(st.none(), empty.strided(shape[:1], torch.float64))
    guidance, threshold = (t if t is None else t.to(device) for t in (data.draw(scalars), data.draw(scalars)))
    seeds = data.draw(empty.strided(shape[:1], torch.int64)).to(device)
    row = make_row(p_x=0.5, p_m=0.5, a_x=1.0, a_base=0.5, A=(1.0, 0.5), b_x=1.0, xi_a=(1.0, 0.0), noise=(3, 0))
    copies = data.draw(st.integers(1, 2))
    with registry.backend(backend):
        found = solver_step(
            x, m, row, base=base, history=[h], m_uncond=m_uncond, guidance=guidance, threshold=threshold, seeds=seeds,
            write_base=True, input_dtype=F16, copies=copies,
        )  # fmt: skip
        step = registry.choose(OP, registry.CallSpec(device, dtype, shape))
    empty.check(found.x, shape, dtype, [t for t in (x, m, m_uncond, base, h, guidance, threshold) if t is not None])
    assert found.model_input.shape == (copies * shape[0], *shape[1:])
    assert found.model_input.dtype == F16
    with torch.no_grad():  # as the sampling loop calls it, into outputs of any strides
        outputs = [data.draw(empty.strided(shape, dtype)).to(device) for _ in range(3)]
        table = np.array(row).view(ROW)
        step(table, 0, x, base, m, m_uncond, [h], guidance, threshold, seeds, *outputs, torch.empty_like(found[3]))


def test_operands_without_weight_are_not_read(backend: str, device: str) -> None:
    case = Case("unread", history=3, base=True, row={"a_base": 0.0, "b_base": 0.0, "p_m": 0.0,
                                                      "A": (1, 0, 0.5, 0, 0, 0, 0, 0), "B": (0,) * 8})  # fmt: skip
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    for unread in (call.inputs["base"], call.inputs["m"], call.inputs["history"][0]):
        unread.fill_(torch.nan)
    call.inputs["history"][2] = None
    assert all(out is None or out.isfinite().all() for out in run(backend, call).values())


def test_nan_passes_through_clamp_and_threshold(backend: str, device: str) -> None:
    case = Case("nan", threshold=True, row={"clamp": 1.0})
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    call.inputs["m"][0, 0, 0] = torch.nan
    nan = run(backend, call)["out_d"].isnan()
    assert nan[0, 0, 0].all()
    assert int(nan.sum()) == nan[0, 0, 0].numel()


def test_one_tensor_may_be_x_and_base(backend: str, device: str) -> None:
    case = Case("shared", base=True, noises=1)
    skip_if_refused(backend, case, device)
    call = make_call(case, device)
    call.inputs["base"] = call.inputs["x"]
    right = cases.expected(call)
    found = run(backend, call)
    assert relative_error(found["out_x"], right["out_x"]) <= TOLERANCE[F32]
    assert relative_error(found["out_base"], right["out_base"]) <= TOLERANCE[F32]


def test_per_sample_numbers_may_be_strided(backend: str, device: str) -> None:
    skip_if_refused(backend, SAMPLES, device)
    call = make_call(SAMPLES, device)
    for name in ("guidance", "threshold", "seeds"):
        call.inputs[name] = call.inputs[name].repeat_interleave(2)[::2]
    right = cases.expected(call)
    for name, found in run(backend, call).items():
        assert relative_error(found, right[name]) <= TOLERANCE[F32], name


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 1), (3, 7), (3, 1030)], ids=str)
def test_a_sample_does_not_depend_on_its_batch(backend: str, device: str, shape: tuple[int, ...]) -> None:
    skip_if_refused(backend, SAMPLES, device)
    whole = make_call(replace(SAMPLES, shape=shape), device)
    batched = run(backend, whole)
    for b in range(shape[0]):
        single = make_call(replace(SAMPLES, shape=(1, *shape[1:])), device)
        single.table = whole.table
        for name, value in whole.inputs.items():
            single.inputs[name] = [h[b : b + 1] for h in value] if name == "history" else value[b : b + 1]
        alone = run(backend, single)
        for name, found in alone.items():
            same = batched[name][[b, b + 3]] if name == "out_input" else batched[name][b : b + 1]
            assert torch.equal(found, same), f"{name} of sample {b}"


def test_offsets_of_64_bits_give_the_same_numbers(backend: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend != "triton":
        pytest.skip("only the Triton kernel has a version of its own for them")
    module = importlib.import_module("fastdiff.ops.triton.solver_step")
    narrow = module.joint_layout
    call = make_call(SAMPLES, device)
    right = {name: out.clone() for name, out in run(backend, call).items()}
    monkeypatch.setattr(module, "joint_layout", lambda *args, **kwargs: narrow(*args, **kwargs)._replace(wide=True))
    assert all(torch.equal(found, right[name]) for name, found in run(backend, call).items())


def noise_alone(backend: str, device: str, shape: tuple[int, ...], index: int, seeds: torch.Tensor) -> torch.Tensor:
    row = {"a_x": 0.0, "p_x": 0.0, "p_m": 0.0, "A": (0,) * 8, "xi_a": (1.0, 0.0), "noise": (index, 0)}
    call = make_call(Case("noise", shape, noises=1, row=row), device)
    call.inputs["seeds"] = seeds
    return run(backend, call)["out_x"]


@pytest.mark.parametrize("index", [0, 2**32 - 1] if INTERPRETING else [0, 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("count", [6, 1027] if INTERPRETING else [1, 2, 3, 4, 6, 1027])
def test_noise_is_the_philox_stream(backend: str, device: str, count: int, index: int) -> None:
    skip_if_refused(backend, Case("noise"), device)
    # The last two: at index 0 the first word is 45, close to none, and 2^32 - 77, where u rounds to one.
    seeds = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 2**32, 19781057, 16390493], device=device)
    found = noise_alone(backend, device, (len(seeds), count), index, seeds)
    right = philox.normal(seeds, index, count, torch.float64)
    assert ((found - right).abs() <= 1e-6 * right.abs().clamp_min(1)).all()


@pytest.mark.skipif(INTERPRETING, reason="slow in the interpreter")
def test_noise_is_accurate_where_the_radius_is_small(backend: str, device: str) -> None:
    skip_if_refused(backend, Case("noise"), device)
    seeds = torch.randint(2**62, (4,), device=device)
    found = noise_alone(backend, device, (4, 2**18), 5, seeds)
    right = philox.normal(seeds, 5, 2**18, torch.float64)
    radius = right.view(4, -1, 2).norm(dim=-1, keepdim=True).expand(4, -1, 2).reshape(4, -1)
    assert ((found - right).abs() <= 1e-6 * radius).all()


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="this test starts the interpreter")
def test_the_triton_kernel_agrees_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    files = [__file__, *(str(Path(__file__).with_name(f"test_solver_step_{name}.py")) for name in ("weights", "rows"))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FASTDIFF_TEST_SEED": str(SEED)}
    child = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert child.returncode == 0, f"run again: TRITON_INTERPRET=1 {' '.join(command)}\n{child.stdout[-6000:]}"
    assert " passed" in child.stdout


def public_arguments(dtype: torch.dtype = F32) -> dict:
    """A call of the public op that uses every argument."""
    x = torch.randn(2, 3, 5, dtype=dtype)
    row = make_row(p_x=0.9, p_m=-0.6, clamp=2.0, c_in=0.7, a_base=0.3, a_x=0.4, A=[0.5, -0.2], b_base=0.6, b_x=-0.3,
                   B=[0.2, 0.8], xi_a=[0.4], xi_b=[0.1], noise=[7])  # fmt: skip
    return {
        "x": x,
        "m": torch.randn_like(x),
        "row": row,
        "base": torch.randn_like(x),
        "history": [torch.randn_like(x)],
        "m_uncond": torch.randn_like(x),
        "guidance": torch.tensor([1.5, 7.5], dtype=torch.float64),
        "threshold": torch.tensor([1.2, 1.7], dtype=torch.float64),
        "seeds": torch.tensor([3, -4]),
        "write_base": True,
        "input_dtype": dtype,
        "copies": 2,
    }


def test_the_public_op_returns_what_the_reference_computes() -> None:
    arguments = public_arguments()
    result = solver_step(**arguments)
    table = np.array(arguments["row"]).view(ROW)
    order = ("x", "base", "m", "m_uncond", "history", "guidance", "threshold", "seeds")
    x, base, d = reference.solver_step(table[0], *(arguments[name] for name in order))
    right = StepResult(x, d, base, (0.7 * x).repeat(2, 1, 1))
    assert result.state is None
    for name, found, wanted in zip(StepResult._fields, result[:4], right[:4], strict=False):
        assert relative_error(found, wanted.double()) <= TOLERANCE[F32], name


def test_the_public_op_leaves_out_what_was_not_asked_for() -> None:
    result = solver_step(torch.randn(2, 3), torch.randn(2, 3), make_row(p_m=1.0, A=[1.0]))
    assert result.base is None
    assert result.model_input is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_keep_the_memory_format_of_x(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    result = solver_step(x, x, make_row(p_m=1.0, A=[1.0], a_x=1.0), write_base=True)
    assert all(out.is_contiguous(memory_format=layout) for out in (result.x, result.converted, result.base))


def differentiable(arguments: dict) -> tuple[list[torch.Tensor], Callable]:
    """The floating-point tensors of a call, and the call as a function of them."""
    names = ["x", "m", "base", "m_uncond", "guidance", "threshold"]

    def function(history: torch.Tensor, *tensors: torch.Tensor) -> StepResult:
        return solver_step(**arguments | dict(zip(names, tensors, strict=True)) | {"history": [history]})

    leaves = [arguments["history"][0], *(arguments[name] for name in names)]
    return [leaf.clone().requires_grad_() for leaf in leaves], function


def test_gradients_are_those_of_finite_differences() -> None:
    # No clamp: finite differences are wrong where one is met.
    arguments = public_arguments(torch.float64) | {"threshold": torch.tensor([50.0, 60.0], dtype=torch.float64)}
    arguments["row"][ROW.names.index("clamp")] = float("inf")
    leaves, function = differentiable(arguments)
    assert torch.autograd.gradcheck(lambda *tensors: function(*tensors)[:4], leaves)


def test_gradients_of_half_precision_come_in_half_precision() -> None:
    leaves, function = differentiable(public_arguments(F16))
    function(*leaves).x.sum().backward()
    assert all(leaf.grad.dtype == leaf.dtype and leaf.grad.isfinite().all() for leaf in leaves)


def test_the_op_is_registered_in_full() -> None:
    a = public_arguments(torch.float64)
    order = ("x", "m", "row", "base", "history", "m_uncond", "guidance", "threshold", "seeds", "write_base",
             "input_dtype", "copies")  # fmt: skip
    no_weights = ([], None, None, False)
    torch.library.opcheck(torch.ops.fastdiff.solver_step.default, (*(a[name] for name in order), *no_weights))
    x = torch.randn(2, 3, requires_grad=True)
    least = (x, x.detach(), make_row(p_m=1.0, A=[1.0]), None, [], None, None, None, None, False, None, 1, *no_weights)
    torch.library.opcheck(torch.ops.fastdiff.solver_step.default, least)


def test_compiles_without_a_graph_break() -> None:
    arguments = public_arguments()
    right = solver_step(**arguments)
    found = torch.compile(lambda: solver_step(**arguments), fullgraph=True, backend="aot_eager")()
    assert all(torch.equal(a, b) for a, b in zip(found[:4], right[:4], strict=True))


def test_a_forced_backend_that_cannot_serve_names_each_backend_and_its_reason() -> None:
    x = torch.randn(2, 3)
    with registry.backend("torch"), pytest.raises(RuntimeError) as error:
        solver_step(x, x, make_row(a_x=1.0))
    message = str(error.value)
    assert message.startswith("backend 'torch' was asked for and cannot serve solver_step on cpu, torch.float32")
    for name in registry.BACKENDS:
        assert re.search(rf"^  {name}: \S+", message, re.MULTILINE), name


def test_a_forced_backend_serves_the_call() -> None:
    arguments = public_arguments()
    with registry.backend("reference"):
        right = solver_step(**arguments)
    assert relative_error(solver_step(**arguments).x, right.x.double()) <= TOLERANCE[F32]


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of reference, cpu, .* got 'tritn'"), registry.backend("tritn"):
        pass


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, r"x: expected a torch.Tensor, got list"),
        ({"x": torch.zeros(2, 3, 5, dtype=torch.int32)}, TypeError, r"x: expected float32.*got torch.int32"),
        ({"x": torch.zeros(())}, ValueError, r"x: expected at least one dimension"),
        ({"m": torch.zeros(2, 3, 4)}, ValueError, r"m: expected shape \(2, 3, 5\), got \(2, 3, 4\)"),
        ({"m": None}, TypeError, r"m: expected a torch.Tensor, got NoneType"),
        ({"m": torch.zeros(2, 3, 5, dtype=torch.complex64)}, TypeError, r"m: expected .*got torch.complex64"),
        ({"m": torch.zeros(2, 3, 5, device="meta")}, ValueError, r"m: expected device cpu, got meta"),
        ({"base": torch.zeros(1, 3, 5)}, ValueError, r"base: expected shape .*got \(1, 3, 5\)"),
        ({"m_uncond": torch.zeros(2, 3)}, ValueError, r"m_uncond: expected shape"),
        ({"m_uncond": None}, ValueError, r"guidance: expected m_uncond beside it"),
        ({"history": [torch.zeros(2, 3)]}, ValueError, r"history\[0\]: expected shape"),
        ({"history": [torch.zeros(2, 3, 5)] * 8}, ValueError, r"history: expected at most 7 entries, got 8"),
        ({"history": []}, ValueError, r"history: expected at least 1 entries for this row, got 0"),
        ({"guidance": torch.ones(3, dtype=torch.float64)}, ValueError, r"guidance: expected shape \(2,\), got \(3,\)"),
        ({"guidance": torch.ones(2)}, TypeError, r"guidance: expected torch.float64, got torch.float32"),
        ({"threshold": torch.ones(2, 1, dtype=torch.float64)}, ValueError, r"threshold: expected shape"),
        ({"seeds": torch.zeros(1, dtype=torch.int64)}, ValueError, r"seeds: expected shape \(2,\), got \(1,\)"),
        ({"seeds": torch.zeros(2, dtype=torch.int32)}, TypeError, r"seeds: expected torch.int64, got torch.int32"),
        ({"seeds": None}, ValueError, r"seeds: expected one seed a sample.*got None"),
        ({"copies": 5}, ValueError, r"copies: expected 1 to 4, got 5"),
        ({"copies": 0}, ValueError, r"copies: expected 1 to 4, got 0"),
        ({"row": [1.0, 2.0]}, ValueError, r"row: expected \d+ numbers \(see make_row\), got 2"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solver_step(**public_arguments() | change)


def test_an_unknown_row_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"make_row: expected a field of p_x, .* got 'px'"):
        make_row(px=1.0)
