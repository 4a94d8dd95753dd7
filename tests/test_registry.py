"""Which backend serves which call, and what the user is told where none can."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fastdiff as fd
from fastdiff.ops import group_norm, registry

CASE = registry.CallSpec("cpu", torch.float32, (1, 4, 8, 8))


def test_a_forced_backend_that_cannot_serve_says_for_each_backend_why() -> None:
    with fd.backend("cuda"), pytest.raises(RuntimeError) as caught:
        group_norm(torch.randn(1, 4, 8), 2)
    text = str(caught.value)
    assert "backend 'cuda' was asked for and cannot serve group_norm on cpu, torch.float32, shape (1, 4, 8)" in text
    for name in registry.BACKENDS:
        assert f"\n  {name}: " in text
    assert "reference: can" in text


def test_forcing_ends_with_its_block_and_nests() -> None:
    assert registry.forced_backend() is None
    with fd.backend("reference"):
        with fd.backend("auto"):
            assert registry.forced_backend() is None
        assert registry.forced_backend() == "reference"
    assert registry.forced_backend() is None


def test_the_environment_forces_a_backend_and_a_block_overrides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDIFF_BACKEND", "reference")
    assert registry.choose("attention", CASE).__module__ == "fastdiff.ops.reference"
    with fd.backend("torch"):
        assert registry.choose("attention", CASE).__module__ == "fastdiff.ops.torch_ops"


def test_unknown_backends_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of reference, cpu, .*, got 'gpu'"), fd.backend("gpu"):
        pass
    monkeypatch.setenv("FASTDIFF_BACKEND", "gpu")
    with pytest.raises(ValueError, match="got 'gpu'"):
        registry.forced_backend()


def test_devices_without_kernels_fall_back_to_plain_torch() -> None:
    chosen = registry.choose("solver_step", registry.CallSpec("mps", torch.float32, (1, 4)))
    assert chosen.__module__ == "fastdiff.ops.reference"


def test_import_is_silent_and_loads_neither_diffusers_nor_triton_nor_scikit_learn() -> None:
    heavy = "('diffusers', 'triton', 'sklearn', 'matplotlib', 'scipy')"
    code = (
        "import sys, torch; before = set(sys.modules); import fastdiff; "
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
