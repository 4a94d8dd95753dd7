"""The CUDA solver_step without a GPU: what the compiler made of it, and its arithmetic run on the CPU."""

from __future__ import annotations

import ctypes
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compile_cache import SANITIZERS, compiled
from cuda_twin.buffers import flat
from cuda_twin.twin import DTYPES, Case, execute
from machine_code import MachineCode, run, tool
from torch import Tensor

from fastdiff.plans.table import empty_table

ROOT = Path(__file__).resolve().parents[1]
TWIN = ROOT / "tests" / "cuda_twin"
SOURCE = ROOT / "csrc" / "cuda" / "solver_step.cu"

# The most registers of a kernel, by compute type and elements a thread takes. 65536 of them make a multiprocessor.
REGISTERS = {
    ("float", 1): 64, ("float", 4): 64, ("float", 8): 128, ("double", 1): 80, ("double", 4): 128,
    ("weighted float", 1): 64, ("weighted float", 4): 96, ("weighted double", 1): 80, ("weighted double", 4): 192,
}  # fmt: skip
DENSE = [kernel for kernel in REGISTERS if kernel[1] > 1]


def kernel_of(mangled: str) -> tuple[str, int]:
    name, code, width = re.search(r"(solver_step|weighted)_kernelI([fd])Li(\d+)E", mangled).groups()
    return ("weighted " if name == "weighted" else "") + {"f": "float", "d": "double"}[code], int(width)


@pytest.fixture(scope="module")
def built() -> MachineCode:
    return MachineCode("(?:solver_step|weighted)_kernel", everywhere=True)


@pytest.fixture(scope="module")
def sass(built: MachineCode) -> dict[tuple, list[str]]:
    """The names of each kernel's instructions, by (arch, (compute type, elements a thread takes))."""
    return {(arch, kernel_of(name)): instructions for (arch, name), instructions in built.instructions.items()}


def test_registers_and_stack(built: MachineCode) -> None:
    """No stack, and so no spills: MachineCode finds none."""
    assert len(built.registers) == len(REGISTERS) * len(built.arches)
    for (arch, name), used in built.registers.items():
        assert used <= REGISTERS[kernel_of(name)], (arch, name)


def test_dense_kernels_use_wide_accesses(sass: dict[tuple, list[str]]) -> None:
    """16 bytes where the elements fill them (four halves fill 8), and never less than 8."""
    for (arch, kernel), instructions in sass.items():
        if kernel in DENSE:
            accesses = [op for op in instructions if re.search(r"\b(LDG|STG)\b", op)]
            for kind in ("LDG", "STG"):
                assert any(re.search(rf"\b{kind}\.E[.A-Z0-9]*\.128", op) for op in accesses), (arch, kernel, kind)
            assert all(re.search(r"\.(64|128)\b", op) for op in accesses), (arch, kernel)


def test_no_local_memory(sass: dict[tuple, list[str]]) -> None:
    for kernel, instructions in sass.items():
        assert not [op for op in instructions if re.search(r"\b(LDL|STL)\b", op)], kernel


def test_loads_are_in_flight_together(sass: dict[tuple, list[str]]) -> None:
    """x, m, m_uncond and four terms, each as halves or as floats, before the first half is converted.

    With weights two more outputs and the state as well.
    """
    for (arch, kernel), instructions in sass.items():
        wanted = {"float": 14, "weighted float": 20}.get(kernel[0])
        if kernel in DENSE and wanted:
            first = next(i for i, op in enumerate(instructions) if "HADD2.F32" in op)
            assert sum("LDG" in op for op in instructions[:first]) >= wanted, (arch, kernel)


@pytest.mark.compiles
def test_without_a_driver_it_answers() -> None:
    sources = [TWIN / "no_driver.cpp", SOURCE]
    made = compiled(tool("nvcc"), "-std=c++17", "-arch=sm_80", "-Werror", "all-warnings", *sources, output="no_driver")
    assert "libcuda" not in run(tool("readelf"), "-d", made / "no_driver").stdout
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "driver" in run(made / "no_driver").stdout
    else:
        pytest.skip("there is a driver here")


@pytest.fixture(scope="session")
def twin() -> Path:
    checks = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    made = compiled(tool("g++"), "-std=c++17", "-Og", "-g1", *checks, *SANITIZERS, TWIN / "twin.cpp", output="twin")
    return made / "twin"


# For halves, the rounding of one store to nearest and next to nothing beside.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 5e-4, torch.bfloat16: 4e-3}
SEEDS = torch.tensor([0, 1, -1, 2**62, -(2**63), 12345], dtype=torch.int64)


def dense(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def misaligned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return dense((math.prod(shape) + 3,), dtype)[1:-2].view(shape)


def half_of_batch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Contiguous samples that are not next to each other."""
    return dense((shape[0], 2, *shape[1:]), dtype)[:, 1]


def padded(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Contiguous samples, only the first of which is aligned."""
    return dense((shape[0], math.prod(shape[1:]) + 1), dtype)[:, :-1].view(shape)


def channels_last(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return dense((shape[0], *shape[2:], shape[1]), dtype).movedim(-1, 1)


def sliced(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return dense((*shape[:-1], 2 * shape[-1] + 1), dtype)[..., 1::2]


Layout = Callable[[tuple[int, ...], torch.dtype], Tensor]


def make_case(
    shape: tuple[int, ...],
    state: torch.dtype,
    model: torch.dtype,
    *layouts: Layout,
    terms: int = 2,
    noise: int = 0,
    full: bool = True,
    copies: int = 2,
    sets: int = 0,
    others: int = 0,
    keeps: bool = False,
) -> Case:
    """A row with `terms` old outputs and `noise` draws; `full` adds guidance, a threshold, a clamp and base.

    sets, others, keeps: sets of weights, outputs beyond the first two, and whether there is a state.
    """
    cycle = itertools.cycle(layouts or (dense,))
    row = empty_table(1)[0]
    for name, value in (("p_x", 0.7), ("p_m", -0.6), ("a_x", 0.8), ("guidance", 4.5), ("c_in", 0.35)):
        row[name] = value
    row["A"][: terms + 1] = np.linspace(0.9, -0.4, terms + 1)
    row["xi_a"][:noise], row["noise"][:noise] = [0.6, -0.3][:noise], [7, 2**32 - 1][:noise]
    if full:
        row["clamp"], row["a_base"], row["b_base"], row["b_x"] = 2.5, 0.3, -0.7, 0.2
        row["B"][: terms + 1 : 2], row["xi_b"][:noise] = 0.15, 0.25
    batch = shape[0]

    def tensor(dtype: torch.dtype, times: int = 1) -> Tensor:
        return next(cycle)((times * batch, *shape[1:]), dtype)

    return Case(
        row=row,
        x=tensor(state),
        base=tensor(state) if full else None,
        m=tensor(model),
        m_uncond=tensor(model) if full else None,
        history=[tensor(state) for _ in range(terms)],
        guidance=torch.linspace(1, 7.5, batch, dtype=torch.float64) if full else None,
        threshold=torch.linspace(1, 2, batch, dtype=torch.float64) if full else None,
        seeds=SEEDS.repeat(batch // 6 + 1)[:batch].clone() if noise else None,
        out_x=tensor(state),
        out_base=tensor(state) if full else None,
        out_d=tensor(state) if full else None,
        out_input=tensor(model, copies) if copies else None,
        others=[tensor(model) for _ in range(others)],
        state=tensor(state) if keeps else None,
        weights=torch.rand(batch, sets, 6, dtype=torch.float64) - 0.4 if sets else None,
        out_state=tensor(state) if sets == 3 else None,
    )


def check(twin: Path, cases: list[Case], *, mixed: bool = False) -> list[np.void]:
    """Run the cases and hold every byte of their buffers to the reference in float64."""
    wanted = [case.expected() for case in cases]
    before = [[flat(t).view(torch.uint8).clone() for t in case.inputs()] for case in cases]
    reports = execute(twin, cases, mixed=mixed)
    for case, want, old, report in zip(cases, wanted, before, reports, strict=True):
        assert report["text"] == b""
        for t, was in zip(case.inputs(), old, strict=True):
            assert torch.equal(flat(t).view(torch.uint8), was)
        for name, t in case.outputs().items():
            assert_close(flat(t).double(), want[name], TOLERANCE[t.dtype], f"{name} {tuple(t.shape)} {t.dtype}")
    return reports


def assert_close(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    assert torch.equal(got.isnan(), want.isnan()), what
    assert torch.equal(got.isfinite(), want.isfinite()), what
    finite = want.isfinite()
    if finite.any():
        # A small tensor's result may happen to be much smaller than the terms it is the sum of.
        error = (got - want)[finite].abs().max() / want[finite].abs().max().clamp_min(4)
        assert error <= tolerance, f"{what}: {error:.2e}"


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_every_mix_of_dtypes(twin: Path, noise: int) -> None:
    pairs = list(itertools.product(DTYPES, DTYPES))
    cases = [make_case((3, 4, 5, 8), state, model, noise=noise) for state, model in pairs]
    for (state, model), report in zip(pairs, check(twin, cases), strict=True):
        assert report["precision"] == (8 if torch.float64 in (state, model) else 4)
        assert report["width"] == 4


COMBINATIONS = [
    {"sets": sets, "others": others, "keeps": keeps, "full": full}
    for sets in (1, 2, 3) for others in (0, 1, 2) for keeps in (False, True) for full in (False, True)
]  # fmt: skip


def test_every_combination_of_outputs(twin: Path) -> None:
    for pair in ((torch.float32, torch.float16), (torch.float64, torch.float32)):
        cases = [make_case((3, 4, 8), *pair, noise=1, **options) for options in COMBINATIONS]
        assert all(report["width"] == 4 for report in check(twin, cases))
        check(twin, [make_case((2, 3, 5), *pair, channels_last, dense, sliced, **options) for options in COMBINATIONS])


def test_weights_that_say_guidance_give_its_bits(twin: Path) -> None:
    guided, weighted = (make_case((3, 4, 8), torch.float32, torch.float32, sets=sets) for sets in (0, 1))
    for name in ("x", "base", "m", "m_uncond", "history"):
        setattr(weighted, name, getattr(guided, name))
    weighted.weights = torch.zeros(3, 1, 6, dtype=torch.float64)
    weighted.weights[:, 0, 0], weighted.weights[:, 0, 1] = guided.guidance, 1
    execute(twin, [guided, weighted])
    for name, out in guided.outputs().items():
        assert torch.equal(out, weighted.outputs()[name])


def test_a_large_weighted_step_takes_four_at_once(twin: Path) -> None:
    (report,) = check(twin, [make_case((2, 4, 256, 257), torch.float32, torch.float16, sets=3, keeps=True)])
    assert report["width"] == 4


def test_with_weights_what_is_absent_counts_as_nothing(twin: Path) -> None:
    """Even m; and a weight of zero takes nothing."""
    lone = make_case((2, 8), torch.float32, torch.float32, sets=2, others=1)
    lone.m = lone.m_uncond = None
    unread = make_case((2, 8), torch.float32, torch.float32, sets=3, others=2, keeps=True)
    unread.row["p_m"], unread.weights[:, :, 2] = 0, 0
    unread.others[0][:] = math.nan
    check(twin, [lone, unread])


@pytest.mark.parametrize("shape", [(3, 4, 5, 8), (2, 3, 5), (2, 4, 256, 257)])
def test_a_table_with_weighted_steps_runs_the_others(twin: Path, shape: tuple[int, ...]) -> None:
    pairs = [(torch.float32, torch.float16), (torch.float64, torch.float64)]
    cases = [make_case(shape, *pair, noise=1, full=full, sets=sets) for pair in pairs for full in (False, True)
             for sets in (0, 1)]  # fmt: skip
    assert all(report["width"] == (1 if shape[-1] == 5 else 4) for report in check(twin, cases, mixed=True))


@pytest.mark.compiles
def test_conversions_of_the_cuda_headers() -> None:
    """The twin built by nvcc, which converts halves with the toolkit's own functions as the kernel does."""
    made = compiled(tool("nvcc"), "-x", "cu", "-std=c++17", "-O0", "-arch=sm_80", TWIN / "twin.cpp", output="twin")
    check(made / "twin", [make_case((3, 4, 5, 8), state, model) for state, model in itertools.product(DTYPES, DTYPES)])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 5), (3, 7, 1), (5, 260), (2, 3, 5, 7), (2, 1, 2, 3, 4, 5), (7,)])
def test_odd_shapes(twin: Path, shape: tuple[int, ...]) -> None:
    pairs = [(torch.float32, torch.float16), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
    options = [{"noise": noise, "full": full} for noise in (0, 2) for full in (False, True)]
    check(twin, [make_case(shape, *pair, **option) for pair in pairs for option in options])


@pytest.mark.parametrize("terms", range(8))
@pytest.mark.parametrize("full", [False, True])
def test_history_of_every_length(twin: Path, terms: int, full: bool) -> None:
    kinds = [(torch.float32, torch.float32), (torch.float64, torch.float64)]
    cases = [make_case(shape, *kind, terms=terms, full=full) for kind in kinds for shape in ((2, 24), (2, 27))]
    assert [report["width"] for report in check(twin, cases)] == [4, 1, 4, 1]


@pytest.mark.parametrize("layout", [misaligned, half_of_batch, padded, channels_last, sliced])
def test_layouts(twin: Path, layout: Layout) -> None:
    """One strided operand is enough to leave the vector path; separated samples do not."""
    pairs = [(torch.float32, torch.bfloat16), (torch.float16, torch.float16), (torch.float64, torch.float64)]
    shapes = [(3, 4, 6, 8), (2, 3, 2, 3, 2, 4)]
    cases = [make_case(shape, *pair, layout, dense, dense, noise=1) for shape in shapes for pair in pairs]
    for report in check(twin, cases):
        assert report["width"] == (4 if layout is half_of_batch else 1)


def test_expanded_inputs(twin: Path) -> None:
    case = make_case((4, 16), torch.float32, torch.float32)
    case.x, case.m = case.x[:1].expand(4, 16), case.m[:, :1].expand(4, 16)
    check(twin, [case])


def test_a_lone_sample_may_have_any_batch_stride(twin: Path) -> None:
    case = make_case((1, 24), torch.float32, torch.float32)
    case.x = case.x.as_strided((1, 24), (1, 1))
    copied = make_case((1, 24), torch.float32, torch.float32)
    copied.out_input = dense((2, 25), torch.float32)[:, :-1]
    assert [report["width"] for report in check(twin, [case, copied])] == [4, 1]


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float16), (torch.bfloat16, torch.bfloat16)])
def test_large_tensors_take_eight_at_once(twin: Path, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    shape = (2, 4, 256, 257)
    (report,) = check(twin, [make_case(shape, *dtypes, terms=1, noise=1)])
    assert (report["width"], report["x"], report["y"]) == (8, math.ceil(4 * 256 * 257 / 1024), 2)


def test_more_samples_than_the_grid_is_high(twin: Path) -> None:
    (report,) = check(twin, [make_case((65537, 4), torch.float32, torch.float32, terms=0, full=False, copies=0)])
    assert report["y"] == 65535


def test_small_latents_spread_over_the_machine(twin: Path) -> None:
    (report,) = check(twin, [make_case((1, 4, 64, 64), torch.float32, torch.float16, full=False)])
    assert report["x"] * report["y"] >= 64


def test_empty_tensors_launch_nothing(twin: Path) -> None:
    for shape in ((0, 4), (2, 0)):
        case = make_case((2, 4), torch.float32, torch.float32, full=False, copies=0)
        (case.x, case.m, case.out_x) = (t[: shape[0], : shape[1]] for t in (case.x, case.m, case.out_x))
        case.history = [t[: shape[0], : shape[1]] for t in case.history]
        (report,) = execute(twin, [case])
        assert report["x"] == 0
        assert report["text"] == b""


def test_nan_and_infinity(twin: Path) -> None:
    """NaN passes the clamp and the threshold, and an operand of weight zero is left alone whatever it holds."""
    case = make_case((2, 8), torch.float32, torch.float32)
    case.x[0, 1], case.m[0, 2], case.m[1, 3], case.m_uncond[1, 4] = math.nan, math.nan, math.inf, -math.inf
    case.row["B"][1], case.row["A"][1] = 0, 1
    case.history[0][0, 5] = math.inf
    quiet = make_case((2, 8), torch.float16, torch.float16, full=False)
    quiet.row["A"][1] = 0
    quiet.history[0][:] = math.nan
    check(twin, [case, quiet])
    assert quiet.out_x.isfinite().all()


@pytest.mark.parametrize("change", [{"a_base": 1.0}, {"xi_a": 1.0}, {"A": 1.0}])
def test_what_the_row_reads_must_be_there(twin: Path, change: dict[str, float]) -> None:
    case = make_case((2, 8), torch.float32, torch.float32, full=False)
    for name, value in change.items():
        case.row[name] = value
    (report,) = execute(twin, [case])
    assert report["text"].startswith(b"solver_step: ")


def test_unread_operands_may_be_absent(twin: Path) -> None:
    """x' may be made of D and noise alone, and nothing is read for base' unless it is wanted."""
    case = make_case((2, 8), torch.float32, torch.float32, terms=0, noise=1, full=False)
    case.row["p_x"] = case.row["a_x"] = 0
    other = make_case((2, 8), torch.float32, torch.float32, full=False)
    other.base, other.row["b_base"] = sliced((2, 8), torch.float64), 1
    check(twin, [case, other])
