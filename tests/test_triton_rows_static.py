"""The Triton solver_step_rows compiled for devices that are not there: what it needs, and what it is specialised on."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("triton")

import aot

from fastdiff.ops.row_table import RECORD
from fastdiff.ops.triton import solver_step_rows as triton_rows

LATENT = (2, 16, 64, 64)
F32, F64, F16 = torch.float32, torch.float64, torch.float16


def meta(dtype: torch.dtype = F32, shape: Sequence[int] = LATENT) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launch(
    *, state: torch.dtype = F32, model: torch.dtype = F32, guided: bool = False, draws: bool = False, copies: int = 0,
    sets: int = 0, others: int = 0, shape: Sequence[int] = LATENT,
) -> aot.Launch:  # fmt: skip
    """The launch of a batch whose rows draw noise where `draws`."""
    batch, x = shape[:1], meta(state, shape)
    weights = ([meta(model, shape)] * others, x, meta(F64, (*batch, sets, 6)), x if sets == 3 else None) if sets else ()
    call = (
        meta(F64, (50, RECORD)), meta(torch.int64, batch), [x] * 5, meta(model, shape),
        meta(model, shape) if guided else None, meta(F64, batch) if guided else None, None,
        meta(torch.int64, batch) if draws else None, meta(model, (copies * shape[0], *shape[1:])) if copies else None,
        *weights,
    )  # fmt: skip
    return aot.captured(triton_rows, functools.partial(triton_rows.run, *call))


# name: (call, 128-bit loads and stores of eight elements a thread, registers on NVIDIA, on AMD). Loads are those of
# the longest row: x, base, seven outputs and the model's.
KERNELS = {
    "plain": ({}, 20, 6, 64, 64),
    "half_guided": ({"state": F16, "model": F16, "guided": True, "copies": 2}, 11, 5, 64, 64),
    "float64_sde": ({"state": F64, "model": F64, "draws": True}, 40, 12, 128, 128),
    "weights": ({"guided": True, "sets": 3, "others": 2, "draws": True}, 28, 8, 144, 144),
}
PAIRS = [("plain", "sm_80"), ("half_guided", "sm_100"), ("float64_sde", "sm_100"), ("weights", "gfx942")]


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_kernels_keep_their_budget(name: str, target: str) -> None:
    options, loads, stores, on_nvidia, on_amd = KERNELS[name]
    binary = aot.compiled(launch(**options), target)
    assert binary.stack == 0
    if target.startswith("gfx"):
        assert binary.registers <= on_amd
        assert binary.count("global_store_dwordx4") == binary.count("global_store_.*") == stores
        return
    assert binary.registers <= on_nvidia
    assert (binary.count(r"LDG\.E(\.\w+)*\.128.*"), binary.count(r"STG\.E(\.\w+)*\.128.*")) == (loads, stores)
    assert binary.count("STG.*") == stores


def test_whatever_rows_the_samples_are_at_one_compilation_serves_them() -> None:
    first = launch(draws=True)
    assert first == launch(draws=True, shape=(3, 4, 96, 64))
    assert first.constants["DIMS"] == 1
    assert not first.constants["WIDE"]
