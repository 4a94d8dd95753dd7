"""The kernels that read a device table of steps, without a GPU: what the compiler made of them.

Their arithmetic is solver_step's; its twin on the CPU (test_cuda_static) runs every case from a packed table entry.
"""

from __future__ import annotations

import re

import pytest
from machine_code import MachineCode

REGISTERS = {"f1": 80, "f4": 96, "f8": 144, "d1": 96, "d4": 144}


@pytest.fixture(scope="module")
def built() -> MachineCode:
    return MachineCode("table_kernel")


def test_the_kernels_spill_nothing(built: MachineCode) -> None:
    """No stack: MachineCode finds none."""
    arches = {arch for arch, _ in built.registers}
    assert len(built.registers) == len(REGISTERS) * len(arches)
    for (arch, name), used in built.registers.items():
        kind, width = re.search(r"table_kernelI([fd])Li(\d)E", name).groups()
        assert used <= REGISTERS[kind + width], (arch, kind, width)


def test_nothing_goes_to_local_memory(built: MachineCode) -> None:
    for kernel, instructions in built.instructions.items():
        assert not [op for op in instructions if op.startswith(("LDL", "STL"))], kernel
