"""The kernels that read a device table of steps, without a GPU: what the compiler made of them.

Their arithmetic is solver_step's; its twin on the CPU (test_cuda_static) runs every case from a packed table entry.
"""

from __future__ import annotations

import re

import pytest
import torch
from machine_code import MachineCode

from fastdiff.ops import step_table

# Of the kernel for steps without weights, and of the one that takes both.
REGISTERS = {
    "table": {"f1": 80, "f4": 96, "f8": 144, "d1": 96, "d4": 144},
    "mixed_table": {"f1": 96, "f4": 144, "d1": 128, "d4": 255},
}


@pytest.fixture(scope="module")
def built() -> MachineCode:
    return MachineCode("table_kernel")


def test_the_kernels_spill_nothing(built: MachineCode) -> None:
    """No stack: MachineCode finds none."""
    arches = {arch for arch, _ in built.registers}
    assert len(built.registers) == sum(map(len, REGISTERS.values())) * len(arches)
    for (arch, mangled), used in built.registers.items():
        name, kind, width = re.search(r"\d((?:mixed_)?table)_kernelI([fd])Li(\d)E", mangled).groups()
        assert used <= REGISTERS[name][kind + width], (arch, name, kind, width)


def test_nothing_goes_to_local_memory(built: MachineCode) -> None:
    for kernel, instructions in built.instructions.items():
        assert not [op for op in instructions if op.startswith(("LDL", "STL"))], kernel


class Packer:
    """The extension's part in `StepTable.write`: it keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def solver_step_pack(self, *call: object) -> tuple[bytes, int, int, int, int, int]:
        self.calls.append(call)
        return bytes(16), 4, 4 if len(self.calls) > 1 else 1, 8, 1, int(len(call) == 18)


def test_beside_a_step_with_weights_all_are_packed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    packer = Packer()
    monkeypatch.setattr(step_table, "_C", lambda: packer)
    table = step_table.StepTable(2, torch.zeros(3))
    plain, weighted = tuple(range(14)), tuple(range(18))
    table.write([plain, weighted], torch.zeros(2, dtype=torch.float64))
    assert packer.calls == [(*plain, (), None, None, None), weighted]
    assert table._launch == (4, 1, 8, 1, 1)
    packer.calls.clear()
    plain_table = step_table.StepTable(2, torch.zeros(3))
    plain_table.write([plain, plain], torch.zeros(2, dtype=torch.float64))
    assert packer.calls == [plain, plain]
    with pytest.raises(RuntimeError, match="differs from the captured one"):
        plain_table.write([plain, weighted], torch.zeros(2, dtype=torch.float64))
