"""Two processes of torch.distributed on this machine, for the tests of what they share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

import fastdiff as fd

GLOO = dist.is_available() and dist.is_gloo_available()
needs_gloo = pytest.mark.skipif(not GLOO, reason="torch was built without gloo")


def environment() -> dict[str, str]:
    """That of a process that imports this folder's modules and fastdiff, and finds the others on this machine.

    It has to begin in another folder than the checkout, whose fastdiff would be imported first and has no kernels.
    """
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(fd.__file__).parents[1])])
    found = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    if Path("/sys/class/net/lo").exists():
        found["GLOO_SOCKET_IFNAME"] = "lo"  # else the machine's name has to be one that resolves
    return found


def run_two(module: str, place: Path) -> None:
    """Run `process(rank, place)` of a test's module in each of two processes, and wait until both have ended well."""
    code = f"import sys, pathlib, {module} as t; t.process(int(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen([*command, str(rank), str(place)], env=environment(), cwd=place, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        for each in running:
            words = each.communicate(timeout=300)[1].decode()
            assert each.returncode == 0, words
    finally:
        for each in running:
            each.kill()
