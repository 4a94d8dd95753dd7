"""The tests run on a machine that has no k-diffusion: only those that compare with it are skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

RUN_WITHOUT_K_DIFFUSION = """
import importlib.util, sys, pytest
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "k_diffusion" else find_spec(name, *rest)
sys.exit(pytest.main(["-q", "-rs", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_without_k_diffusion_its_face_is_tested_and_only_the_comparison_is_skipped() -> None:
    chosen = ("-k", "levels", "tests/test_kdiffusion.py", "tests/test_parity_kdiffusion.py")
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_K_DIFFUSION, *chosen],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, env={**os.environ, "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "k-diffusion is not installed" in done.stdout
    assert re.search(r"[1-9]\d* passed, [1-9]\d* skipped", done.stdout)
