"""attention in Triton: every way of cutting it into programs computes the formula."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import INTERPRETING, SEED
from test_attention import TOLERANCE, attend, error, formula, operands

import fastdiff as fd
from fastdiff.ops import attention, registry

pytest.importorskip("triton")

from fastdiff.ops.triton import attention as triton_attention
from fastdiff.ops.triton import attention_plan as cut
from fastdiff.ops.triton.group_norm_plan import Device

BACKENDS = ("triton",)
HALF, FLOAT = torch.float16, torch.float32
LOOPED = cut.Tile(rows=32, fewest=16, keys=32, warps=4, stages=2, resident=0, tail=True)
WAYS = {"looped": LOOPED, "masked": LOOPED._replace(tail=False), "resident": LOOPED._replace(resident=128)}
SIZES = [(40, HALF), (80, FLOAT), (256, HALF), (7, HALF)]
KEYS = [1, 31, 64, 80, 128]
if not INTERPRETING:
    SIZES += [(40, FLOAT), (64, HALF), (72, HALF), (160, HALF)]
    KEYS += [16, 65, 96, 100]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One way of cutting, for a machine so small that a program walks over several tiles of queries."""
    tiles = {256: WAYS[request.param]}
    monkeypatch.setattr(cut, "TILES", {arch: {2: tiles, 4: tiles} for arch in cut.TILES})
    monkeypatch.setattr(cut, "device_of", lambda q: Device("sm_90", 1, 32))
    cut._plan.cache_clear()
    yield request.param
    cut._plan.cache_clear()


@pytest.mark.parametrize(("size", "dtype"), SIZES, ids=str)
def test_head_sizes_of_real_networks(backend: str, device: str, way: str, size: int, dtype: torch.dtype) -> None:
    q, k, v = operands((1, 2, 70, 77, size), dtype)
    plan = cut.plan_of(q, 77)
    assert plan.constants["RESIDENT"] == (way == "resident")
    assert plan.share == (2 if way == "resident" else 1)
    assert error(attend(backend, device, q, k, v), formula(q, k, v, size**-0.5)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("keys", KEYS)
def test_numbers_of_keys(backend: str, device: str, way: str, keys: int) -> None:
    q, k, v = operands((1, 1, 32, keys, 24), HALF)
    assert error(attend(backend, device, q, k, v), formula(q, k, v, 24**-0.5)) <= TOLERANCE[HALF]


@pytest.mark.parametrize("size", [40, 72, 13])
def test_heads_of_one_projection_are_read_where_they_are(backend: str, device: str, way: str, size: int) -> None:
    packed = torch.randn(2, 33, 3, 2, size, dtype=HALF)  # [B, N, qkv, H, D]
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    y = attend(backend, device, q, k, v)
    assert y.stride() == torch.empty_like(q).stride()
    assert error(y, formula(q, k, v, size**-0.5)) <= TOLERANCE[HALF]


def test_keys_that_are_infinitely_far_weigh_nothing(backend: str, device: str, way: str) -> None:
    q, k, v = operands((1, 1, 16, 75, 24), FLOAT)
    q[..., 0], k[:, :, 3:70, 0] = 1, -torch.inf
    assert error(attend(backend, device, q, k, v), formula(q, k, v, 24**-0.5)) <= TOLERANCE[FLOAT]
    k[..., 0] = -torch.inf
    assert attend(backend, device, q, k, v).isnan().all()


@pytest.mark.parametrize("key", [0, 40, 76])
def test_one_key_may_outweigh_all_others_wherever_it_is(backend: str, device: str, way: str, key: int) -> None:
    q, k, v = operands((1, 1, 16, 77, 24), HALF)
    q[..., 0], k[:, :, key, 0] = 8, 200
    assert error(attend(backend, device, q, k, v), v[:, :, [key]].double().expand(1, 1, 16, 24)) <= TOLERANCE[HALF]


def test_gradients_are_those_of_the_formula(backend: str, device: str) -> None:
    q, k, v = (t.to(device).requires_grad_() for t in operands((1, 2, 17, 77, 40), FLOAT))
    weights = torch.randn_like(q)
    with fd.backend(backend):
        found = torch.autograd.grad((attention(q, k, v) * weights).sum(), (q, k, v))
    right = torch.autograd.grad((formula(q, k, v, 40**-0.5) * weights).sum(), (q, k, v))
    for ours, theirs in zip(found, right, strict=True):
        assert error(ours.cpu(), theirs.cpu()) < 2e-5


def test_what_triton_cannot_serve_is_refused_in_words() -> None:
    def refusal(dtype: torch.dtype, size: int, device: str = "cuda") -> str | None:
        return triton_attention.refuse(registry.CallSpec(device, dtype, (1, 1, 64, 64, size)))

    assert refusal(HALF, 256) is None
    assert refusal(HALF, 257) == "serves head sizes up to 256, not 257"
    assert refusal(torch.float64, 64) == "serves float32, float16 and bfloat16, not torch.float64"
    assert refusal(HALF, 64, "cpu") == "Triton serves CUDA and ROCm devices, not cpu"
    q, k, v = operands((1, 1, 2, 3, 257), FLOAT)
    with fd.backend("triton"), pytest.raises(RuntimeError, match="triton: serves head sizes up to 256, not 257"):
        attention(q, k, v)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="this test starts the interpreter")
def test_the_kernel_agrees_in_the_interpreter() -> None:
    files = [__file__, Path(__file__).with_name("test_attention.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FASTDIFF_TEST_SEED": str(SEED)}
    child = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert child.returncode == 0, f"run again: TRITON_INTERPRET=1 {' '.join(command)}\n{child.stdout[-6000:]}"
    assert " passed" in child.stdout
