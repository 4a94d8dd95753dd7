"""group_norm in Triton compiled for devices that are not there: launches, registers, stack, vectors."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import aot

from fastdiff.ops.triton import group_norm as triton_group_norm
from fastdiff.ops.triton import group_norm_plan as triton_group_norm_plan

F32, BF16 = torch.float32, torch.bfloat16
NVIDIA_REGISTERS = 128  # 512 threads of them make a multiprocessor
AMD_REGISTERS = 256
# SD1.5 and SDXL at batch 2, with their channels per group; the VAE; [B, C, H, W] in 32 groups
UNET = [(2, 1280, 8, 8), (2, 1280, 16, 16), (2, 2560, 16, 16), (2, 640, 32, 32), (2, 1920, 32, 32), (2, 320, 64, 64),
        (2, 640, 64, 64), (2, 960, 64, 64)]  # fmt: skip
VAE = [(1, 512, 256, 256), (1, 128, 1024, 1024)]
# (shape, channels_last, dtype, targets): one of each way of cutting, and of each width of a row. Targets share all of
# Triton's choices but the last allocation of registers: each case takes two, and each target both layouts and dtypes.
COMPILED = [
    ((2, 1280, 8, 8), False, BF16, ("sm_80", "gfx942")), ((2, 2560, 8, 8), True, F32, ("sm_80", "sm_90")),
    ((2, 640, 32, 32), False, F32, ("sm_100", "gfx942")), ((2, 960, 32, 32), True, BF16, ("sm_90", "gfx942")),
    ((2, 320, 64, 64), False, BF16, ("sm_90", "sm_100")), ((2, 320, 64, 64), True, F32, ("sm_80", "gfx942")),
    ((1, 128, 1024, 1024), False, BF16, ("sm_80", "sm_90")), ((1, 128, 1024, 1024), True, BF16, ("sm_100", "gfx942")),
]  # fmt: skip


def launches(shape: tuple[int, ...], last: bool, dtype: torch.dtype, act: str = "silu") -> list[aot.Launch]:
    """A call with every operand."""
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.empty(shape, dtype=dtype, device="meta").to(memory_format=layout)
    affine = [torch.empty(shape[1], dtype=dtype, device="meta") for _ in range(2)]
    modulation = [torch.empty(shape[:2], dtype=dtype, device="meta") for _ in range(3)]
    arguments = (x, 32, *affine, 1e-5, *modulation, act)
    return aot.all_captured(triton_group_norm, lambda: triton_group_norm.run(*arguments))


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("shape", "last", "dtype", "target"),
    [(*case, target) for *case, targets in COMPILED for target in targets],
    ids=str,
)
def test_kernels_keep_their_budget(shape: tuple[int, ...], last: bool, dtype: torch.dtype, target: str) -> None:
    """x is read and y written 16 bytes at a time; only per-channel values and partial results may be narrower."""
    for launch in launches(shape, last, dtype):
        binary = aot.compiled(launch, target)
        elements = launch.constants["ROWS"] * launch.constants["COLUMNS"] * dtype.itemsize
        vectors = elements // (16 * 32 * launch.warps)
        passes = 1 if launch.constants["WHOLE"] else launch.constants["STATISTICS"] + launch.constants["OUTPUT"]
        written = vectors * launch.constants["OUTPUT"]
        assert binary.stack == 0
        if target == "gfx942":
            assert binary.registers <= AMD_REGISTERS
            assert binary.count("(global|buffer)_load_dwordx4") >= vectors * passes
            assert binary.count("(global|buffer)_store_dwordx4") == written
        else:
            assert binary.registers <= NVIDIA_REGISTERS
            assert binary.count(r"LDG\.E(\.\w+)*\.128.*") >= vectors * passes
            assert binary.count(r"STG\.E(\.\w+)*\.128.*") == written
            assert binary.count("STG.*") - written == (0 if launch.constants["OUTPUT"] else 2)


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("shape", UNET, ids=str)
def test_a_unets_norms_are_one_launch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert len(launches(shape, False, dtype)) == 1


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", VAE, ids=str)
def test_an_autoencoders_norms_fill_the_machine(shape: tuple[int, ...], last: bool) -> None:
    statistics, output = launches(shape, last, BF16)
    assert statistics.constants["STATISTICS"]
    assert not statistics.constants["OUTPUT"]
    assert output.constants["OUTPUT"]
    x = torch.empty(shape, dtype=BF16, device="meta")
    plan = triton_group_norm_plan.plan_of(x, 32, last)
    assert plan.programs >= triton_group_norm_plan.device_of(x).multiprocessors


def test_sizes_of_one_kind_share_a_compilation() -> None:
    assert launches((2, 320, 64, 64), False, BF16) == launches((3, 640, 64, 64), False, BF16)
    assert launches((1, 128, 1024, 1024), False, BF16) == launches((1, 256, 512, 512), False, BF16)


@pytest.mark.compiles
def test_offsets_past_32_bits_compile() -> None:
    """In channels_last a group's elements are as far apart as the tensor is long."""
    large, huge = (1, 32, 8192, 16384), (1, 32, 65536, 65536)
    assert not any(launch.constants["WIDE"] for launch in launches(large, False, BF16))
    assert all(launch.constants["WIDE"] for launch in launches(huge, True, BF16))
    for shape, last in ((huge, False), (large, True)):
        for launch in launches(shape, last, BF16):
            assert launch.constants["WIDE"]
            assert aot.compiled(launch, "sm_90").stack == 0
