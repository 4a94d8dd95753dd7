"""token_stats in Triton: every number of parts, in the interpreter too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import INTERPRETING, SEED
from test_token_stats import OPTIONS, call, draw_seeds
from token_rows import assert_right

pytest.importorskip("triton")

from fastdiff.ops.triton import token_cut
from fastdiff.ops.triton import token_stats as triton_token_stats

BACKENDS = ("triton",)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rows are cut as long ones are."""
    monkeypatch.setattr(triton_token_stats, "PART", 64)
    monkeypatch.setattr(token_cut, "BLOCK", 64)


@pytest.mark.parametrize("name", ["cold", *["top_k", "top_p", "excluded"] * (not INTERPRETING), "both"])
def test_any_number_of_parts(backend: str, device: str, small_parts: None, name: str) -> None:
    for size in (1, 63, 64, 65, 300) if INTERPRETING else (1, 63, 64, 65, 128, 300, 4097):
        z = 3 * torch.randn(1, 2, size)
        options = OPTIONS[name]
        if size <= len(options.exclude):
            continue
        current, seeds = torch.randint(0, size, (1, 2)), draw_seeds(1)
        found = call(backend, device, z, current, seeds=seeds, **options._asdict())
        assert_right(found, z, options, current, seeds)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="this test starts the interpreter")
def test_the_kernels_agree_in_the_interpreter() -> None:
    files = [__file__, Path(__file__).with_name("test_token_stats.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FASTDIFF_TEST_SEED": str(SEED)}
    child = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert child.returncode == 0, f"run again: TRITON_INTERPRET=1 {' '.join(command)}\n{child.stdout[-6000:]}"
    assert " passed" in child.stdout
