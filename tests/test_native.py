"""fastdiff.ops._C on the CPU: every instruction set, the thread pool, and how tensors come in.

tests/test_solver_step.py holds every backend to the contract; here is what only this backend can get wrong.
"""

from __future__ import annotations

import math
import multiprocessing
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import solver_step_cases as cases
import torch
from instruction_sets import SANITIZED, passes_under_sanitizers
from machine_code import run as run_tool
from machine_code import tool
from solver_step_cases import TOLERANCE, Case, make_call, run

from fastdiff.ops.philox import normal
from fastdiff.plans.table import empty_table

native = pytest.importorskip("fastdiff.ops.native")
_C = native._C


def check(case: Case) -> None:
    call = make_call(case, "cpu")
    right = cases.expected(call)
    for name, found in run("cpu", call).items():
        if found is not None:
            error = (found.double() - right[name]).abs().max() / right[name].abs().max()
            assert error <= TOLERANCE[found.dtype], f"{case}: {name} is off by {error}"


@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_each_instruction_set_agrees_with_the_reference(isa: str, case: Case) -> None:
    check(case)


@pytest.mark.parametrize("noises", [0, 1, 2])
def test_every_small_size(isa: str, noises: int) -> None:
    for n in [*range(1, 71), 255, 256, 257, 1020, *range(1023, 1030), 2047, 2049]:
        check(Case(f"{n}", (2, n), noises=noises, base=noises == 2))


def noise_of(seeds: list[int], index: int, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The kernel's noise by itself."""
    table = empty_table(1)
    table["xi_a"][0, 0], table["noise"][0, 0] = 1.0, index
    zero, out = torch.zeros(len(seeds), count, dtype=dtype), torch.empty(len(seeds), count, dtype=dtype)
    _C.solver_step_cpu(table, 0, zero, None, zero, None, [], None, None, torch.tensor(seeds), out, None, None, None)
    return out


def test_philox_known_answer(isa: str) -> None:
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)  # Random123's kat_vectors: philox4x32-10 at zero
    right = []
    for r, s in (words[:2], words[2:]):
        radius = math.sqrt(-2 * math.log(float(np.float32(np.float32(r) * np.float32(2**-32) + np.float32(2**-33)))))
        right += [radius * math.cos(2 * math.pi * s / 2**32), radius * math.sin(2 * math.pi * s / 2**32)]
    assert noise_of([0], 0, 4, torch.float64)[0].tolist() == pytest.approx(right, rel=1e-14)
    assert noise_of([0], 0, 4)[0].tolist() == pytest.approx(right, rel=5e-7)


def test_noise_is_accurate_to_a_few_roundings(isa: str) -> None:
    seeds = torch.randint(2**63 - 1, (4,)).tolist()
    right = normal(torch.tensor(seeds), 2**32 - 1, 2**18, torch.float64)
    radius = right.view(4, -1, 2).norm(dim=-1).repeat_interleave(2, 1)  # 0 once in 2^25 pairs
    assert ((noise_of(seeds, 2**32 - 1, 2**18) - right).abs() <= 3e-7 * radius).all()
    exact = noise_of(seeds, 2**32 - 1, 2**16, torch.float64)
    assert (exact - right[:, : 2**16]).abs().max() < 1e-14


def test_noise_is_standard_normal(isa: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    sample = noise_of(torch.randint(2**63 - 1, (8,)).tolist(), 1, 2**17).double()
    assert stats.kstest(sample.flatten().numpy(), "norm").pvalue > 1e-11
    n = sample.numel()  # seven standard errors each
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(sample.pow(power).mean() - moment) < 7 * math.sqrt(variance / n)
    for lag in (1, 2, 3, 4):
        assert abs((sample[:, lag:] * sample[:, :-lag]).mean()) < 7 / math.sqrt(n)


def copied(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x through the kernel with weight 1."""
    table = empty_table(1)
    table["a_x"] = 1.0
    out = torch.empty_like(x, dtype=dtype)
    _C.solver_step_cpu(table, 0, x, None, x, None, [], None, None, None, out, None, None, None)
    return out


def same_bits(found: torch.Tensor, right: torch.Tensor) -> bool:
    number = ~right.isnan()
    bits = torch.int16 if right.element_size() == 2 else torch.int32
    return torch.equal(found.isnan(), ~number) and torch.equal(found.view(bits)[number], right.view(bits)[number])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_as_torch_does(isa: str, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    wide = every.float()
    finite = wide[wide.isfinite()].sort().values
    ties = (finite[1:] + finite[:-1]) / 2
    inputs = torch.cat([wide, ties, torch.nextafter(ties, ties + 1), torch.nextafter(ties, ties - 1),
                        torch.tensor([65519.0, 65520.0, 3.4e38, 1e-45, -1e-40])])  # fmt: skip
    for padding in (0, 1, 3):  # an odd tail
        assert same_bits(copied(every[padding:][None], torch.float32), wide[padding:][None])
        assert same_bits(copied(inputs[padding:][None], dtype), inputs[padding:][None].to(dtype))
    assert same_bits(copied(inputs.double()[None], dtype), inputs.double()[None].to(dtype))


def test_infinity_and_nan_pass_where_they_have_weight(isa: str) -> None:
    special = torch.tensor([[math.inf, -math.inf, math.nan, 1.0] * 5])
    table = empty_table(1)
    table["p_m"], table["clamp"], table["A"][0, :2] = 1.0, 2.0, (1.0, 0.5)
    zero, out, d = torch.zeros_like(special), torch.empty_like(special), torch.empty_like(special)
    _C.solver_step_cpu(table, 0, special, None, special, None, [zero], None, None, None, out, None, d, None)
    assert d[0, :4].nan_to_num(9.0).tolist() == [2.0, -2.0, 9.0, 1.0]
    assert torch.equal(out.nan_to_num(9.0), d.nan_to_num(9.0))
    _C.solver_step_cpu(table, 0, special, None, zero, None, [special], None, None, None, out, None, d, None)
    assert d.eq(0).all()
    assert torch.equal(out.nan_to_num(9.0), (0.5 * special).nan_to_num(9.0))


def large_call() -> cases.Call:
    return make_call(Case("large", (3, 2, 333, 501), noises=2, base=True, copies=2, history=2), "cpu")


def outputs_of(call: cases.Call) -> list[torch.Tensor]:
    return [out.clone() for out in run("cpu", call).values()]


def test_results_do_not_depend_on_the_number_of_threads(threads: None) -> None:
    call = large_call()
    torch.set_num_threads(1)
    alone = outputs_of(call)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        for _ in range(5):
            assert all(map(torch.equal, outputs_of(call), alone))


def test_concurrent_calls_do_not_disturb_each_other(threads: None) -> None:
    torch.set_num_threads(3)
    calls = [large_call() for _ in range(4)]
    alone = [outputs_of(call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for found in (list(pool.map(outputs_of, calls)) for _ in range(5)):
            assert all(all(map(torch.equal, f, a)) for f, a in zip(found, alone, strict=True))


def _run_in_a_child(call: cases.Call, right: np.ndarray, found: multiprocessing.Queue) -> None:
    # NumPy compares: torch's own threads do not survive a fork.
    found.put(np.array_equal(run("cpu", call)["out_x"].numpy(), right))


@pytest.mark.skipif(platform.system() == "Windows", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_pool_works_in_a_forked_child(threads: None) -> None:
    torch.set_num_threads(2)
    call = large_call()
    right = run("cpu", call)["out_x"].numpy().copy()
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    child = context.Process(target=_run_in_a_child, args=(call, right, found), daemon=True)
    child.start()
    try:
        assert found.get(timeout=300)
    finally:
        child.kill()


def test_tensors_read_by_attributes_are_the_same_tensors() -> None:
    # How an older torch is served, which has no exchange interface.
    native._bind(use_exchange=False)
    try:
        for layout in ("contiguous", "channels_last", "offset"):
            check(
                Case("attributes", (2, 3, 4, 5), layout=layout, model_layout="transposed", noises=1, guidance="sample")
            )
    finally:
        native._bind()


def test_views_of_many_dimensions_and_other_dtypes_of_guidance() -> None:
    case = Case("many", (2, 2, 3, 2, 3, 2, 3, 2), noises=2, base=True, guidance="sample", threshold=True, copies=2)
    call = make_call(case, "cpu")
    right = [out.clone() for out in run("cpu", call).values()]
    call.inputs["m"] = call.inputs["m"].permute(0, 7, 6, 5, 4, 3, 2, 1).contiguous().permute(0, 7, 6, 5, 4, 3, 2, 1)
    call.outputs["out_x"] = torch.empty_strided(case.shape, (432, 1, 2, 6, 12, 36, 72, 216))
    assert all(map(torch.equal, run("cpu", call).values(), right))
    call.inputs["guidance"] = call.inputs["guidance"].float()
    call.inputs["seeds"] = call.inputs["seeds"][:, None]
    for found, exact in zip(run("cpu", call).values(), right, strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (0, np.zeros(3), TypeError, "table: expected a one-dimensional array of dtype ROW"),
        (1, 1, IndexError, r"expected a row in \[0, 1\), got 1"),
        (2, [1.0], TypeError, "expected a torch.Tensor, got list"),
        (2, torch.zeros(2, 3, 8, 5, dtype=torch.int32), TypeError, "x: expected float32, float64"),
        (3, None, ValueError, "base: the row reads it, got None"),
        (4, torch.zeros(2, 3, 8, 4), ValueError, "m: not of x's shape"),
        (4, torch.zeros(3, 3, 8, 5), ValueError, "m: not of x's batch"),
        (6, [], ValueError, "history: shorter than the row reads"),
        (6, 3, TypeError, "history: expected a list"),
        (7, torch.zeros(3), ValueError, "guidance: not of x's batch"),
        (9, None, ValueError, "seeds: the row draws noise, got None"),
        (10, torch.zeros(2, 3), ValueError, "out_x: not of x's shape"),
        (13, torch.zeros(3, 3, 8, 5), ValueError, "out_input: not of x's batch"),
        (14, 3, TypeError, "others: expected a list"),
        (14, [None] * 3, ValueError, "others: more than two"),
        (14, [torch.zeros(2, 3)], ValueError, "others: not of x's shape"),
        (15, torch.zeros(3, 3, 8, 5), ValueError, "state: not of x's batch"),
        (16, torch.zeros(2, 6), ValueError, r"weights: expected shape \[batch, 1 to 3, 6\]"),
        (16, torch.zeros(2, 4, 6), ValueError, r"weights: expected shape \[batch, 1 to 3, 6\]"),
        (16, torch.zeros(2, 2, 6), ValueError, "out_state: expected three sets of weights"),
        (16, None, ValueError, "out_state: expected weights beside it"),
        (17, torch.zeros(2, 3), ValueError, "out_state: not of x's shape"),
    ],
)
def test_bad_arguments_are_named(place: int, value: object, error: type[Exception], message: str) -> None:
    sets = 3 if place >= 14 else 0
    call = make_call(Case("bad", noises=1, base=True, guidance="sample", sets=sets, keeps=True), "cpu")
    arguments = [call.table, 0, *call.inputs.values(), *call.outputs.values(), *call.combined.values()]
    arguments[place] = value
    with pytest.raises(error, match=message):
        _C.solver_step_cpu(*arguments)


@pytest.mark.parametrize("count", [0, 13, 15, 19])
def test_a_call_has_fourteen_arguments_or_eighteen(count: int) -> None:
    with pytest.raises(TypeError, match=f"solver_step: expected 18 positional arguments, got {count}"):
        _C.solver_step_cpu(*[None] * count)


def test_weights_of_another_dtype_and_views_of_many_dimensions() -> None:
    case = Case("many", (2, 2, 3, 2, 3, 2, 3, 2), base=True, guidance="sample", sets=3, others=2, keeps=True, copies=2)
    call = make_call(case, "cpu")
    call.combined["weights"] = call.combined["weights"].float().double()
    right = outputs_of(call)
    turned = (0, 7, 6, 5, 4, 3, 2, 1)
    call.combined["others"][1] = call.combined["others"][1].permute(turned).contiguous().permute(turned)
    call.combined["out_state"] = torch.empty_strided(case.shape, (432, 1, 2, 6, 12, 36, 72, 216))
    call.combined["weights"] = call.combined["weights"].float()
    assert all(map(torch.equal, outputs_of(call), right))


def test_a_table_may_be_a_view() -> None:
    call = make_call(Case("view", base=True, copies=1), "cpu")
    right = outputs_of(call)
    call.table = np.repeat(call.table, 4)[::2]
    assert all(map(torch.equal, outputs_of(call), right))


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'sse9'"):
        _C.set_isa("sse9")


def test_the_layout_of_dlpack_is_that_of_torchs_header() -> None:
    include = Path(torch.__file__).parent / "include"
    header = include / "ATen" / "dlpack.h"
    if not header.exists() or "DLPackExchangeAPI" not in header.read_text():
        pytest.skip("this torch has no exchange interface")
    source = Path(__file__).with_name("dlpack_layout.cpp")
    run_tool(tool("g++"), "-std=c++17", "-fsyntax-only", f"-I{include}", source)


@pytest.mark.compiles
@pytest.mark.parametrize("isa_name", SANITIZED)
def test_sanitizers_find_nothing(isa_name: str) -> None:
    passes_under_sanitizers("native_driver.cpp", isa_name, "-O1")
