"""The CUDA solver_step_rows without a GPU: what the compiler made of it, and its code run on a model of the device."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compile_cache import SANITIZERS, compiled
from cuda_twin.rows import execute
from machine_code import MachineCode, tool
from solver_step_cases import F16, Case
from solver_step_rows_cases import CASES, EVERYTHING, Mixture, assert_close, make_mixture, same_bits, whole

from fastdiff.ops.reference_rows import run_solver_step_rows

TWIN = Path(__file__).parent / "cuda_twin"
# The most registers of a kernel, by compute type and elements a thread takes.
REGISTERS = {
    "rows": {"f1": 80, "f4": 96, "f8": 144, "d1": 96, "d4": 144},
    "weighted_rows": {"f1": 96, "f4": 144, "d1": 128, "d4": 255},
}


@pytest.fixture(scope="module")
def built() -> MachineCode:
    return MachineCode("rows_kernelI[fd]Li")


def test_the_kernels_spill_nothing(built: MachineCode) -> None:
    """No stack: MachineCode finds none."""
    arches = {arch for arch, _ in built.registers}
    assert len(built.registers) == sum(map(len, REGISTERS.values())) * len(arches)
    for (arch, name), used in built.registers.items():
        kernel, kind, width = re.search(r"((?:weighted_)?rows)_kernelI([fd])Li(\d)E", name).groups()
        assert used <= REGISTERS[kernel][kind + width], (arch, kernel, kind, width)


def test_operands_come_in_wide_accesses_and_nothing_goes_to_local_memory(built: MachineCode) -> None:
    for (_, name), instructions in built.instructions.items():
        assert not [op for op in instructions if op.startswith(("LDL", "STL"))], name
        if "Li1E" not in name:
            assert any(re.search(r"LDG\.E[.A-Z0-9]*\.128", op) for op in instructions), name
            assert any(re.search(r"\bSTG?\.E[.A-Z0-9]*\.128", op) for op in instructions), name


@pytest.fixture(scope="session")
def twin() -> Path:
    checks = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    sources = [TWIN / name for name in ("rows_twin.cpp", "grid.cpp", "block.cpp")]
    return compiled(tool("g++"), "-std=c++17", "-Og", "-g1", *checks, *SANITIZERS, *sources, output="twin") / "twin"


def check(twin: Path, mixtures: list[Mixture]) -> list:
    """The bytes of one sample after another, all memory counted, and the reference's numbers."""
    wanted = [mixture.cloned() for mixture in mixtures]
    for mixture in wanted:
        run_solver_step_rows(*mixture.arguments())
    reports = execute(twin, mixtures)
    for mixture, want, report in zip(mixtures, wanted, reports, strict=True):
        assert report["same"]
        assert_close(mixture, want)
    return reports


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mixture_has_the_bytes_of_one_by_one(twin: Path, case: Case) -> None:
    check(twin, [make_mixture(case)])


def test_memory_that_allows_it_is_read_four_and_eight_at_once(twin: Path) -> None:
    large = Case("large", (2, 4, 256, 257), model=F16)
    cases = [replace(large, shape=(3, 4, 8)), large, replace(large, sets=1)]
    reports = execute(twin, [make_mixture(case) for case in cases])
    assert all(report["same"] for report in reports)
    assert [report["width"] for report in reports] == [4, 8, 4]


def test_one_buffer_out_of_line_is_read_element_by_element(twin: Path) -> None:
    mixture = make_mixture(Case("line", (3, 4, 8), **EVERYTHING))
    odd = torch.full((3 * 32 + 1,), torch.nan)[1:].view(3, 4, 8)
    odd.copy_(mixture.buffers[3])
    mixture.buffers[3] = odd
    assert check(twin, [mixture])[0]["width"] == 1


def test_more_samples_than_the_grid_is_high(twin: Path) -> None:
    mixture = make_mixture(Case("many", (65541, 4), guidance="sample"))
    mixture.rows[3:65536] = -1
    (report,) = execute(twin, [mixture])
    assert (report["y"], report["same"]) == (65535, True)


def test_a_record_that_cannot_be_run_touches_no_memory(twin: Path) -> None:
    """Nobody on the host looks at a device's table."""
    mixture = make_mixture(Case("broken", (4, 8)))
    mixture.table[:, -3:] = torch.tensor([-1.0, 99.0, 1e300])
    mixture.rows[:] = torch.tensor([0, len(mixture.table), 2**62, -5])
    before = [whole(t).clone() for t in mixture.buffers]
    execute(twin, [mixture])
    for tensor, was in zip(mixture.buffers, before, strict=True):
        assert same_bits(whole(tensor), was)
