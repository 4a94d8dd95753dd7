"""The checkout's own kernels compiled into it, CUDA included where there is nvcc, for the GPU that is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import torch

from .identity import ROOT
from .process import Cases, Job

COMMAND = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
ASK = (sys.executable, "-c", "import json; from fastdiff.ops import _C; print(json.dumps(_C.build_info()))")
LAST_WORDS = 6000  # characters of the compilers' output that are kept
SILENCE = 300  # seconds that nvcc may say nothing for


def builds(device: str, quick: bool) -> list[Job]:
    """The one job: for the architecture of this GPU alone, where the run is on one."""
    archs = arch_of(*torch.cuda.get_device_capability()) if device == "cuda" else ""
    return [Job("build", build, (COMMAND, archs), silence=SILENCE)]


def arch_of(major: int, minor: int) -> str:
    """nvcc's name for a compute capability; Hopper's own instructions are in 90a."""
    return f"{major}{minor}{'a' * (major == 9)}"


def build(cases: Cases, command: tuple[str, ...] = COMMAND, archs: str = "") -> None:
    """One case: what the build printed and what the extension holds. Raises RuntimeError where it fails.

    archs: as FASTDIFF_CUDA_ARCHS; where it is empty, the user's own choice or all.
    """
    if cases.is_done("build", "build"):
        return
    cases.begin("build", "build")
    # Each source for all architectures at once: there are more cores than sources.
    options = {"FASTDIFF_BUILD": "auto", "NVCC_APPEND_FLAGS": os.environ.get("NVCC_APPEND_FLAGS", "--threads=0")}
    if archs:
        options["FASTDIFF_CUDA_ARCHS"] = archs
    began = time.monotonic()
    ended = _run(command, options)
    output = (ended.stdout + ended.stderr)[-LAST_WORDS:]
    if ended.returncode:
        raise RuntimeError(f"exit code {ended.returncode}\n{output}")
    holds = json.loads(_run(ASK, {}).stdout)
    seconds = round(time.monotonic() - began, 1)
    cases.end("build", "build", {"seconds": seconds, "output": output, "holds": holds})


def _run(command: tuple[str, ...], options: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | options)
