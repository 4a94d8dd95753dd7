"""The toolkit's programs, and the machine code of fastdiff.ops._C's CUDA kernels as they show it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import compile_cache
import pytest

ARCHES = ["sm_80", "sm_90a"]  # whose instructions are looked at


def tool(name: str) -> str:
    """A program from PATH, from beside nvcc, or from Triton's wheel; skips the test if there is none."""
    places = [shutil.which(name)]
    if nvcc := shutil.which("nvcc"):
        places.append(str(Path(nvcc).resolve().parent / name))
    try:
        import triton

        places.append(str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name))
    except ImportError:
        pass
    found = next((place for place in places if place and Path(place).exists()), None)
    return found or pytest.skip(f"{name} is not installed")


def run(*command: object) -> subprocess.CompletedProcess:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


class MachineCode:
    """The kernels whose mangled names match, by (architecture, mangled name); they have no stack and no local memory.

    registers: of every architecture. instructions: their names in order, of ARCHES, or of every architecture where
    `everywhere`. Skips the test where the build has no CUDA part.
    """

    def __init__(self, pattern: str, everywhere: bool = False) -> None:
        binary = pytest.importorskip("fastdiff.ops.native")._C
        if binary.build_info()["cuda"] is None:
            pytest.skip("fastdiff.ops._C was built without CUDA")
        held = [code for code in binary.build_info()["cuda"].split() if code.startswith("sm_")]
        self.arches = held if everywhere else ARCHES
        self.registers: dict[tuple[str, str], int] = {}
        self.instructions: dict[tuple[str, str], list[str]] = {}
        for arch, name, (registers, stack, local), instructions in _kernels(binary.__file__, pattern, self.arches):
            assert (stack, local) == (0, 0), (arch, name)
            self.registers[arch, name] = registers
            if arch in self.arches:
                self.instructions[arch, name] = instructions
        assert {arch for arch, _ in self.registers} == set(held)
        assert self.instructions.keys() == {key for key in self.registers if key[0] in self.arches}


def _kernels(library: str, pattern: str, arches: list[str]) -> list[tuple[str, str, list[int], list[str]]]:
    """(architecture, mangled name, registers, stack and local bytes, instructions in arches) of each that matches."""
    cuobjdump, parts = tool("cuobjdump"), [Path(library).read_bytes(), Path(__file__).read_bytes(), pattern.encode()]
    key = [run(cuobjdump, "--version").stdout, *arches, *(hashlib.sha256(part).hexdigest() for part in parts)]

    def disassemble(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([cuobjdump, "-xelf", "all", library], cwd=folder, capture_output=True, check=True)
            cubins = sorted(Path(folder).iterdir())
            found = [kernel for cubin in cubins for kernel in _of_cubin(cubin, pattern, arches)]
        (target / "kernels.json").write_text(json.dumps(found))

    return json.loads((compile_cache.kept("\n".join(key), disassemble) / "kernels.json").read_text())


def _of_cubin(cubin: Path, pattern: str, arches: list[str]) -> list[tuple[str, str, list[int], list[str]]]:
    """The whole file is disassembled at once, which is several times faster than its functions by name."""
    arch = cubin.suffixes[-2].lstrip(".")
    usage = run(tool("cuobjdump"), "-res-usage", cubin).stdout
    found = re.findall(rf"Function (\S*{pattern}\S*):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    instructions: dict[str, list[str]] = {}
    if found and arch in arches:
        for part in run(tool("cuobjdump"), "-sass", cubin).stdout.split("Function : ")[1:]:
            names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", part)
            instructions[part.split()[0]] = names
        assert instructions.keys() >= {name for name, *_ in found}
    return [(arch, name, [int(n) for n in numbers], instructions.get(name, [])) for name, *numbers in found]
