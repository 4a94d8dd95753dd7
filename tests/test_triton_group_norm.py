"""group_norm in Triton: every way of cutting a tensor into programs computes the formula."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import INTERPRETING, SEED
from test_group_norm import MODULATION, TOLERANCE, error, formula, operands
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import group_norm

pytest.importorskip("triton")

from fastdiff.ops.triton import group_norm_plan as cut

BACKENDS = ("triton",)
# Tiles so small that little tensors are cut as large ones are: elements on chip, in a tile, bytes to read again.
LIMITS = {"whole": (16384, 8192, 0), "looped": (32, 256, 2**30), "two_launches": (32, 256, 0)}
HALF, FLOAT = torch.float16, torch.float32
GROUP_CHANNELS = [(10, HALF), (60, HALF), (7, FLOAT)]
if not INTERPRETING:
    GROUP_CHANNELS += [(10, FLOAT), (20, HALF), (30, FLOAT), (40, FLOAT), (80, HALF)]


@pytest.fixture(params=LIMITS)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    on_chip, tile, redundant = LIMITS[request.param]
    small = cut.Config(on_chip, tile, threads=128, columns=16, redundant=redundant, waves=1)
    monkeypatch.setattr(cut, "CONFIGS", dict.fromkeys(cut.CONFIGS, small))
    cut._plan.cache_clear()
    yield request.param
    cut._plan.cache_clear()


def compute(backend: str, device: str, groups: int, act: str, given: dict[str, Tensor]) -> Tensor:
    with fd.backend(backend):
        return group_norm(groups=groups, act=act, **{name: t.to(device) for name, t in given.items()}).cpu()


def last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [Tensor.contiguous, last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("group_channels", "dtype"), GROUP_CHANNELS, ids=str)
def test_channels_per_group_of_real_networks(
    backend: str, device: str, limits: str, group_channels: int, dtype: torch.dtype, layout
) -> None:
    size = (8, 6) if group_channels % 20 else (7, 5)
    given = operands((1, 2 * group_channels, *size), dtype)
    given["x"] = layout(given["x"])
    plan = cut.plan_of(given["x"], 2, layout is last)
    assert plan.constants["WHOLE"] == (limits == "whole")
    assert plan.twice == (limits == "two_launches")
    y = compute(backend, device, 2, "silu", given)
    assert y.stride() == given["x"].stride()
    assert error(y, formula(2, "silu", **given)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("layout", [Tensor.contiguous, last], ids=["contiguous", "channels_last"])
def test_a_mean_of_a_thousand_deviations_keeps_the_digits(backend: str, device: str, limits: str, layout) -> None:
    given = operands((1, 20, 8, 8), torch.float32)
    given["x"] = layout(given["x"] + 1000)
    given["add"] = torch.zeros(1, 20)
    assert error(compute(backend, device, 2, "none", given), formula(2, "none", **given)) <= 2e-6


@pytest.mark.parametrize("layout", [Tensor.contiguous, last], ids=["contiguous", "channels_last"])
def test_halves_near_their_largest_number(backend: str, device: str, limits: str, layout) -> None:
    given = operands((1, 8, 6, 4), torch.float16)
    given["x"] = layout((65504 * torch.rand(given["x"].shape).sub(0.5).sign()).half())
    assert error(compute(backend, device, 2, "silu", given), formula(2, "silu", **given)) <= 2e-3


@pytest.mark.parametrize("layout", [Tensor.contiguous, last], ids=["contiguous", "channels_last"])
def test_operands_of_other_dtypes_and_strides(backend: str, device: str, limits: str, layout) -> None:
    given = operands((2, 12, 6, 4), torch.float16)
    given["x"] = layout(given["x"])
    given["weight"], given["bias"] = given["weight"].float(), torch.randn(24)[::2]
    given["add"], given["scale"] = torch.randn(2, 40).chunk(2, dim=1)
    given["add"], given["scale"] = given["add"][:, :12], given["scale"][:, 3:15].half()
    given["shift"] = torch.randn(1, 12).expand(2, 12)
    assert error(compute(backend, device, 3, "silu", given), formula(3, "silu", **given)) <= 2e-3


@pytest.mark.parametrize("name", [*MODULATION, "none"])
def test_operands_may_be_absent(backend: str, device: str, limits: str, name: str) -> None:
    given = operands((2, 12, 4, 4), torch.float32)
    kept = {key: given[key] for key in ("x", name) if key in given}
    affine = {"weight": torch.ones(12), "bias": torch.zeros(12)}
    assert error(compute(backend, device, 3, "none", kept), formula(3, "none", **affine | kept)) <= 2e-6


def test_a_constant_gives_the_bias_and_nan_stays_in_its_group(backend: str, device: str, limits: str) -> None:
    given = {"x": torch.full((1, 8, 4, 8), 3.0), "bias": torch.randn(8)}
    y = compute(backend, device, 2, "none", given)
    assert torch.equal(y, given["bias"].view(1, 8, 1, 1).expand_as(y))
    given["x"][0, 5, 1, 1] = torch.nan
    y = compute(backend, device, 2, "none", given)
    assert y[:, 4:].isnan().all()
    assert torch.equal(y[:, :4], given["bias"][:4].view(1, 4, 1, 1).expand_as(y[:, :4]))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="this test starts the interpreter")
def test_the_kernel_agrees_in_the_interpreter() -> None:
    files = [__file__, Path(__file__).with_name("test_group_norm.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FASTDIFF_TEST_SEED": str(SEED)}
    child = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert child.returncode == 0, f"run again: TRITON_INTERPRET=1 {' '.join(command)}\n{child.stdout[-6000:]}"
    assert " passed" in child.stdout
