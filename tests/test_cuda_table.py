"""The kernels that read a device table of steps, without a GPU: what the compiler made of them.

Their arithmetic is solver_step's; its twin on the CPU (test_cuda_static) runs every case from a packed table entry.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compile_cache import compiled
from machine_code import run, tool

CUDA = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
REGISTERS = {"f1": 80, "f4": 96, "f8": 144, "d1": 96, "d4": 144}


@pytest.mark.compiles
def test_the_kernels_spill_nothing() -> None:
    nvcc = tool("nvcc")
    known = run(nvcc, "--list-gpu-arch").stdout.split()
    arches = ["80", "90a"] + (["100"] if "compute_100" in known else [])
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in arches]
    checks = ["-Xptxas", "-v,-warn-spills,-Werror", "-Werror", "all-warnings"]
    source = CUDA / "solver_step_table.cu"
    log = compiled(nvcc, "-std=c++17", "-O3", *targets, *checks, "-c", source, output="kernels.o") / "log"
    kernels = re.findall(r"table_kernelI([fd])Li(\d)E.*?(\d+) bytes stack.*?Used (\d+) reg", log.read_text(), re.DOTALL)
    assert len(kernels) == len(REGISTERS) * len(arches)
    for kind, width, stack, registers in kernels:
        assert int(stack) == 0
        assert int(registers) <= REGISTERS[kind + width], (kind, width)
