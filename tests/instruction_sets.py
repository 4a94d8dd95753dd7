"""The instruction sets that _C holds and this machine has, and a driver of one op compiled for one of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from compile_cache import SANITIZERS, compiled

_C = pytest.importorskip("fastdiff.ops.native")._C

ISAS = _C.usable_isas()
_LINES = (Path(__file__).parents[1] / "csrc" / "cpu" / "isa_flags.txt").read_text().splitlines()
FLAGS = {name: flags for name, *flags in (line.split() for line in _LINES if not line.startswith("#"))}


SANITIZED = sorted({ISAS[0], ISAS[-1]}, key=ISAS.index)  # the plainest code, and what runs here


def passes_under_sanitizers(source: str, isa: str, optimise: str = "-Og") -> None:
    """Compile tests/<source> with the address and undefined behaviour sanitizers and let it check the op."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-std=c++17", optimise, "-g1", "-ffp-contract=off", "-fno-math-errno", f"-DFASTDIFF_ISA={isa}"]
    path = Path(__file__).with_name(source)
    made = compiled(compiler, *flags, *FLAGS[isa], *SANITIZERS, path, output="driver")
    done = subprocess.run([made / "driver"], capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stdout + done.stderr
