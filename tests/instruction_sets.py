"""The instruction sets that _C holds and this machine has, and a driver of one op compiled for one of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_C = pytest.importorskip("fastdiff.ops.native")._C

ISAS = _C.usable_isas()
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"]
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
}


def passes_under_sanitizers(source: str, isa: str, folder: Path, optimise: str = "-O0") -> None:
    """Compile tests/<source> with the address and undefined behaviour sanitizers and let it check the op."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    driver = str(folder / "driver")
    flags = ["-std=c++17", optimise, "-g", "-ffp-contract=off", "-fno-math-errno", f"-DFASTDIFF_ISA={isa}"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    path = str(Path(__file__).with_name(source))
    subprocess.run([compiler, *flags, *FLAGS[isa], *sanitizers, path, "-o", driver], check=True)
    done = subprocess.run([driver], capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stdout + done.stderr
