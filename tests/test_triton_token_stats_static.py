"""token_stats in Triton compiled for devices that are not there: launches, registers, stack, vectors."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

import aot

from fastdiff.ops.triton import token_stats as triton_token_stats

F32, F16, BF16, F64, I64 = torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64
BLOCK = (2, 32, 126_464)
ACCESSES = triton_token_stats.PART // (32 * triton_token_stats.WARPS)  # logits a thread


def launches(
    dtype: torch.dtype = BF16, shape: tuple[int, int, int] = BLOCK, *, full: bool = False, top_p: float = 1.0
) -> list[aot.Launch]:
    """The parts and the rows, with top_p the cut before them. full: every optional tensor is given."""

    def meta(of: torch.dtype, *size: int) -> torch.Tensor:
        return torch.empty(size, dtype=of, device="meta")

    batch, rows = shape[0], shape[:2]
    logits, temperature = meta(dtype, *shape), meta(F64, batch)
    optional = (meta(dtype, *shape), meta(I64, *rows), meta(I64, *rows)) if full else (None, meta(I64, *rows), None)
    numbers = (temperature, *((meta(F64, batch), meta(F64, batch)) if full else (None, None)))
    index = meta(I64, batch) if full else None
    out = meta(F32, 7, *rows), meta(I64, 2, *rows)
    given = (logits, *optional, meta(I64, batch), index, *numbers, 0, top_p, [5] if full else None, *out)
    return aot.all_captured(triton_token_stats, lambda: triton_token_stats.run(*given))


@pytest.mark.compiles
@pytest.mark.parametrize(("dtype", "target"), [(BF16, "sm_80"), (F32, "sm_90"), (F16, "sm_100")], ids=str)
def test_nvidia_kernels_keep_their_budget(dtype: torch.dtype, target: str) -> None:
    """A part's logits are loaded 16 bytes at a time, and once."""
    parts, rows = (aot.compiled(launch, target) for launch in launches(dtype))
    assert (parts.stack, rows.stack) == (0, 0)
    assert parts.registers <= 128
    assert rows.registers <= 255
    assert parts.count(r"LDG\.E(\.\w+)*\.128.*") == ACCESSES * dtype.itemsize // 16
    assert parts.count(r"ATOM.*|RED\..*") == rows.count(r"ATOM.*|RED\..*") == 0


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("form", "targets"),
    [
        ({"full": True, "shape": (2, 3, 1001)}, ("sm_90", "gfx942")),
        ({"top_p": 0.9}, ("sm_100", "gfx942")),
    ],
    ids=["everything_given_odd_sizes", "top_p"],
)
def test_other_forms_compile_without_a_stack(form: dict, targets: tuple[str, ...]) -> None:
    for launch, target in itertools.product(launches(**form), targets):
        assert aot.compiled(launch, target).stack == 0


def test_batches_and_lengths_of_one_kind_share_one_compilation() -> None:
    assert launches(shape=(4, 48, 126_464)) == launches()
