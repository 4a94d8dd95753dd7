"""gram in Triton: a basis that lies on the device, and every number of parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import INTERPRETING, SEED
from test_gram import BASES, KINDS, assert_right, call, draw

pytest.importorskip("triton")

from fastdiff.ops.triton import gram as triton_gram

BACKENDS = ("triton",)
F32, F64 = torch.float32, torch.float64


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reads the basis from memory, which in the interpreter is the host's."""
    monkeypatch.setattr(triton_gram, "_is_on_device", lambda basis: True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little tensors are cut as large ones are."""
    monkeypatch.setattr(triton_gram, "BLOCK", 32)
    monkeypatch.setattr(triton_gram, "SUMS", 4)


@pytest.mark.parametrize(("name", "dtype"), KINDS, ids=str)
def test_a_basis_on_the_device_is_read_there(
    backend: str, device: str, on_device: None, name: str, dtype: torch.dtype
) -> None:
    basis = torch.tensor(BASES[name], dtype=F64, device=device)
    for shape in ((2, 5, 40), (1, 4100)):
        tensors = draw(basis.shape[1], shape, dtype)
        assert_right(call(backend, device, tensors, basis), tensors, BASES[name])


def test_zeros_of_a_basis_on_the_device_read_nothing(backend: str, device: str, on_device: None) -> None:
    x, y, bad = torch.randn(2, 40), torch.full((2, 40), torch.inf), torch.full((2, 40), torch.nan)
    basis = torch.tensor([[1, 0, 0], [0.5, 2, 0]], dtype=F64, device=device)
    found = call(backend, device, [x, y, bad], basis)
    assert_right(found[:, [0, 2]][:, :, [0, 2]], [x], [[1]])  # to v_0 only x has been added
    assert found[:, 1, 1].isinf().all()
    absent = torch.empty(2, 3, 3, dtype=F64, device=device)
    triton_gram.run(basis, [x.to(device), None, None], absent)
    assert_right(absent, [x], [[1], [0.5]])


@pytest.mark.parametrize("name", ["difference", *["four"] * (not INTERPRETING)])
@pytest.mark.parametrize("n", [1, 128, 129, *[513] * (not INTERPRETING), 1100])
def test_any_number_of_parts(backend: str, device: str, small_parts: None, name: str, n: int) -> None:
    tensors = draw(len(BASES[name][0]), (2, n), F32)
    assert_right(call(backend, device, tensors, BASES[name]), tensors, BASES[name])


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="this test starts the interpreter")
def test_the_kernel_agrees_in_the_interpreter() -> None:
    files = [__file__, Path(__file__).with_name("test_gram.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FASTDIFF_TEST_SEED": str(SEED)}
    child = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert child.returncode == 0, f"run again: TRITON_INTERPRET=1 {' '.join(command)}\n{child.stdout[-6000:]}"
    assert " passed" in child.stdout
