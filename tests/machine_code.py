"""The toolkit's programs, and the machine code of fastdiff.ops._C's CUDA kernels as they show it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

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

    registers: of every architecture. instructions: their names in order, of ARCHES. Skips the test where the build has
    no CUDA part.
    """

    def __init__(self, pattern: str) -> None:
        binary = pytest.importorskip("fastdiff.ops.native")._C
        if binary.build_info()["cuda"] is None:
            pytest.skip("fastdiff.ops._C was built without CUDA")
        self.registers: dict[tuple[str, str], int] = {}
        self.instructions: dict[tuple[str, str], list[str]] = {}
        usage = run(tool("cuobjdump"), "-res-usage", binary.__file__).stdout
        for part in usage.split("arch = ")[1:]:
            found = re.findall(rf"Function (\S*{pattern}\S*):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", part)
            for name, registers, stack, local in found:
                assert (stack, local) == ("0", "0"), (part[:6], name)
                self.registers[part.split()[0], name] = int(registers)
        names = ",".join({name for _, name in self.registers})
        for arch in ARCHES:
            text = run(tool("cuobjdump"), "-sass", "-arch", arch, "-fun", names, binary.__file__).stdout
            for part in text.split("Function : ")[1:]:
                found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", part)
                self.instructions[arch, part.split()[0]] = found
        assert self.instructions.keys() == {key for key in self.registers if key[0] in ARCHES}
