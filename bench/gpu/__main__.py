"""python -m bench.gpu --out DIR: build, test on the device, time everything, write JSON and markdown."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from .ceilings import ceilings
from .loop import loops
from .ops import compiled_ops, ops
from .report import write
from .rows import Session
from .steps import solver_steps
from .timing import Clock

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {"steps": solver_steps, "ops": ops, "loop": loops, "compiled-ops": compiled_ops}
TEST_SECONDS = 180


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small case of everything, for checking the script")
    parser.add_argument("--minutes", type=float, default=8, help="time for everything (default: %(default)s)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="sections to time (default: all)")
    parser.add_argument("--no-build", action="store_true", help="take the package as it is")
    parser.add_argument("--no-tests", action="store_true")
    chosen = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * chosen.minutes
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --quick exercises this script without one")
    if not chosen.no_build:
        build()
    tests = "not run" if chosen.no_tests else run_tests()
    session = Session(Clock(chosen.device, 0.01 if chosen.quick else 0.05), deadline, chosen.quick)
    session.ceilings = ceilings(session.clock, chosen.quick)
    for name in chosen.only or SECTIONS:
        SECTIONS[name](session)
        target = write(chosen.out, session, tests)  # after every section: what is measured is not lost
    print(f"{tests}\n{target}")
    return 0


def build() -> None:
    """Compile the checkout's own kernels into it, CUDA included where there is nvcc."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"FASTDIFF_BUILD": "auto"})


def run_tests() -> str:
    """The last line of `pytest -m gpu`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not finished after {TEST_SECONDS} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print("\n".join(failed))
    return (done.stdout.strip().splitlines() or ["no output"])[-1]


if __name__ == "__main__":
    sys.exit(main())
