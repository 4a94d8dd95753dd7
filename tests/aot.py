"""Compile a Triton launch for a device that is not there, and read what came out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import compile_cache
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
_POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16",
             torch.int64: "*i64"}  # fmt: skip


class Launch(NamedTuple):
    """One kernel[grid](*args, **options), each parameter as Triton's JIT specialises it."""

    kernel: triton.JITFunction
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]  # parameters known to be multiples of 16
    warps: int


def captured(module: ModuleType, call: Callable[[], None]) -> Launch:
    """What `call` launches from the module's KERNELS; nothing is launched."""
    (launch,) = all_captured(module, call)
    return launch


def all_captured(module: ModuleType, call: Callable[[], object]) -> list[Launch]:
    """The same for a call of several launches."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, kernel: triton.JITFunction) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable:
            return lambda *args, **kwargs: launches.append(_specialise(self.kernel, args, kwargs))

    kernels = {dtype: Recorder(kernel) for dtype, kernel in module.KERNELS.items()}
    with mock.patch.object(module, "KERNELS", kernels):
        call()
    return launches


def _specialise(kernel: triton.JITFunction, args: tuple, kwargs: dict) -> Launch:
    signature, constants, divisible = {}, {}, []
    values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    for param in kernel.params:
        name, value = param.name, values[param.name]
        looked_at = not param.do_not_specialize and (type(value) is int or torch.is_tensor(value))
        if value is None or param.is_constexpr or (looked_at and type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = param.annotation_type or _type(value)
        if looked_at and (value.data_ptr() if torch.is_tensor(value) else value) % 16 == 0:
            divisible.append(name)
    return Launch(kernel, signature, constants, tuple(divisible), kwargs["num_warps"])


def _type(value: object) -> str:
    if torch.is_tensor(value):
        return _POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


class Binary(NamedTuple):
    """What a kernel needs, and how many of each instruction it has."""

    registers: int
    stack: int  # bytes of stack, local memory and spills
    shared: int  # bytes of shared memory
    instructions: Counter

    def count(self, pattern: str) -> int:
        return sum(n for name, n in self.instructions.items() if re.fullmatch(pattern, name))


def compiled(launch: Launch, target: str) -> Binary:
    """The launch compiled for one of TARGETS, now or in an earlier run by the same Triton from the same source."""
    attributes = {(launch.kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in launch.divisible}
    source = ASTSource(launch.kernel, launch.signature, launch.constants, attributes)
    key = (triton.__version__, source.hash(), TARGETS[target], launch.warps, Path(__file__).read_text())

    def make(folder: Path) -> None:
        (folder / "binary.json").write_text(json.dumps(_compile(source, target, launch.warps)))

    made = compile_cache.kept(repr(key), make)
    registers, stack, shared, instructions = json.loads((made / "binary.json").read_text())
    return Binary(registers, stack, shared, Counter(instructions))


def _compile(source: ASTSource, target: str, warps: int) -> Binary:
    """Whatever Triton itself has kept."""
    gpu = TARGETS[target]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, TRITON_CACHE_DIR=folder):
        built = triton.compile(source, target=gpu, options={"num_warps": warps * 32 // gpu.warp_size})
        if gpu.backend == "hip":
            return _amd(built.asm["amdgcn"], built.metadata.shared)
        return _nvidia(built.asm["cubin"], built.metadata.shared, Path(folder, "kernel.cubin"))


def _nvidia(cubin: bytes, shared: int, path: Path) -> Binary:
    path.write_bytes(cubin)
    usage = _run(_CUOBJDUMP, "-res-usage", path)
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    names = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", _run(_CUOBJDUMP, "-sass", path))
    return Binary(registers, stack + local, shared, Counter(names))


def _amd(assembly: str, shared: int) -> Binary:
    vector, spills, scratch = (
        int(re.search(rf"\.{key}:\s+(\d+)", assembly)[1])
        for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    )
    names = re.findall(r"^\s+([a-z]+_\w+)", assembly, re.MULTILINE)
    return Binary(vector, 4 * spills + scratch, shared, Counter(names))


def _run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
