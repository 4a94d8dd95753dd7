"""attention in Triton compiled for devices that are not there, and how real shapes are cut into programs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import aot

from fastdiff.ops.triton import attention as triton_attention
from fastdiff.ops.triton import attention_plan as cut
from fastdiff.ops.triton.group_norm_plan import Device

F32, BF16 = torch.float32, torch.bfloat16
MULTIPROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}  # bytes a program may have
MATRIX = {"sm_80": r"HMMA\..*", "sm_90": r"HGMMA\..*", "sm_100": r"UTC\w*MMA.*", "gfx942": r"v_mfma_\w*_bf16"}
ROUNDED = r"(HMMA|HGMMA|UTC\w*MMA).*|v_mfma_\w*xf32"  # float32 products of fewer digits
NARROW = r"LDG(STS)?\.(?!.*128).*|(global|buffer)_load_(?!dwordx4).*"
# batch, heads, queries, keys, head size; the first is compiled for every target, the others for some
COMPILED = [
    ((2, 8, 4096, 4096, 40), BF16, ("sm_80", "sm_90", "sm_100", "gfx942")),
    ((2, 8, 4096, 77, 40), BF16, ("sm_80", "sm_90")),
    ((2, 16, 258, 258, 72), BF16, ("sm_90", "gfx942")),
    ((2, 8, 256, 77, 160), BF16, ("sm_80", "sm_100")),
    ((1, 24, 4429, 4429, 128), BF16, ("sm_90", "sm_100", "gfx942")),
    ((2, 8, 1024, 1024, 80), F32, ("sm_80", "sm_100")),
]
# SD1.5 at 512 and 768, SDXL, SD3.5, Flux, Wan, PixArt, DiT, U-ViT, ADM, EDM2; two samples where guidance has two
SELF = [
    (2, 8, 4096, 4096, 40), (2, 8, 1024, 1024, 80), (2, 8, 256, 256, 160), (2, 8, 64, 64, 160), (2, 8, 9216, 9216, 40),
    (2, 8, 2304, 2304, 80), (2, 8, 576, 576, 160), (2, 8, 144, 144, 160), (2, 10, 4096, 4096, 64),
    (2, 20, 1024, 1024, 64), (2, 24, 4429, 4429, 64), (2, 38, 4429, 4429, 64), (1, 24, 4608, 4608, 128),
    (1, 40, 32760, 32760, 128), (2, 16, 4096, 4096, 72), (2, 16, 256, 256, 72), (2, 16, 1024, 1024, 72),
    (2, 16, 258, 258, 72), (1, 8, 1024, 1024, 64), (1, 16, 256, 256, 64), (1, 16, 64, 64, 64), (1, 12, 256, 256, 64),
]  # fmt: skip
TEXT = [
    (2, 8, 4096, 77, 40), (2, 8, 1024, 77, 80), (2, 8, 256, 77, 160), (2, 8, 64, 77, 160), (2, 8, 9216, 77, 40),
    (2, 8, 144, 77, 160), (2, 10, 4096, 77, 64), (2, 20, 1024, 77, 64), (2, 16, 4096, 300, 72),
    (1, 40, 32760, 512, 128),
]  # fmt: skip


def launch(
    case: tuple[int, ...], dtype: torch.dtype, target: str, patch: pytest.MonkeyPatch, heads_last: bool = True
) -> aot.Launch:
    """A call on [B, N, H, D], or on [B, H, N, D]."""
    patch.setattr(cut, "device_of", lambda q: Device(target, MULTIPROCESSORS[target], 32))
    batch, heads, queries, keys, size = case

    def operand(n: int) -> torch.Tensor:
        shape = (batch, n, heads, size) if heads_last else (batch, heads, n, size)
        tensor = torch.empty(shape, dtype=dtype, device="meta")
        return tensor.transpose(1, 2) if heads_last else tensor

    q, k, v = operand(queries), operand(keys), operand(keys)
    return aot.captured(triton_attention, lambda: triton_attention.run(q, k, v, 0.1))


def plan(case: tuple[int, ...]) -> cut.Plan:
    batch, heads, queries, keys, size = case
    return cut._plan((batch, heads, queries, size), keys, 2, Device("sm_90", MULTIPROCESSORS["sm_90"], 32))


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("case", "dtype", "target"), [(*case, target) for *case, targets in COMPILED for target in targets], ids=str
)
def test_kernels_keep_their_budget(
    case: tuple[int, ...], dtype: torch.dtype, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products on the matrix units, 16 bytes a load but in a last tile of few keys, and room for two programs."""
    made = launch(case, dtype, target, monkeypatch)
    binary = aot.compiled(made, target)
    half = dtype == BF16
    together = 2 if half and case[-1] <= 80 and target != "gfx942" else 1
    assert binary.stack == 0
    assert binary.shared * together <= SHARED[target]
    assert binary.registers * made.warps * 32 * together <= 65536 * (4 if target == "gfx942" else 1)
    assert (binary.count(MATRIX[target]) > 0) == half
    assert half or binary.count(ROUNDED) == 0
    if half:
        few = 2 * (1 + (made.constants["SECOND"] > 0)) if made.constants["TAIL"] else 0
        assert binary.count(NARROW) <= few
        assert binary.count(r"STG\.(?!.*128).*") == 0


@pytest.mark.compiles
@pytest.mark.parametrize("target", aot.TARGETS)
def test_both_layouts_are_read_sixteen_bytes_at_a_time(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head's stride of 40 elements is a multiple of eight and not of sixteen."""
    for heads_last in (True, False):
        made = launch((2, 8, 4096, 4096, 40), BF16, target, monkeypatch, heads_last)
        assert made.constants["UNIT"] == 8
    assert made == launch((2, 8, 4096, 4096, 40), BF16, target, monkeypatch, heads_last=True)
    assert aot.compiled(made, target).count(NARROW) == 0


@pytest.mark.compiles
def test_offsets_past_32_bits_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    long = launch((1, 8, 2**24, 2**24, 40), BF16, "sm_90", monkeypatch)
    assert aot.compiled(long, "sm_90").stack == 0
    apart = torch.empty_strided((64, 8, 64, 40), (2**32, 2**29, 40, 1), dtype=BF16, device="meta")
    made = aot.captured(triton_attention, lambda: triton_attention.run(apart, apart, apart, 0.1))
    assert made.signature["q_batch"] == "i32"  # in units of eight
    assert aot.compiled(made, "sm_90").stack == 0
    far = torch.empty_strided((1, 1, 64, 40), (2**30, 2**30, 2**24, 1), dtype=BF16, device="meta")
    assert triton_attention._readable(far).is_contiguous()
    assert triton_attention._readable(apart) is apart


def test_sizes_of_one_kind_share_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    for one, other in (
        ((2, 8, 4096, 4096, 40), (2, 16, 9216, 2048, 40)),
        ((2, 10, 4096, 77, 64), (2, 20, 8192, 77, 64)),
    ):
        assert launch(one, BF16, "sm_90", monkeypatch) == launch(other, BF16, "sm_90", monkeypatch)


@pytest.mark.parametrize("case", SELF + TEXT, ids=str)
def test_real_shapes_fill_the_machine_where_they_can(case: tuple[int, ...]) -> None:
    batch, heads, queries, keys, _ = case
    most = batch * heads * -(-queries // 64)  # programs of the fewest queries that a warpgroup's instruction takes
    assert plan(case).programs >= min(most, MULTIPROCESSORS["sm_90"])
    assert plan(case).programs >= 128 or keys <= 256  # so keys need not be divided


@pytest.mark.parametrize("case", SELF + TEXT, ids=str)
def test_little_is_multiplied_by_zeros(case: tuple[int, ...]) -> None:
    """Head sizes are filled up by a fifth at most; queries and keys by a fifteenth, where there are 300 or more."""
    *_, queries, keys, size = case
    made = plan(case).constants
    rows, block, tail = made["ROWS"], made["KEYS"], made["TAIL"]
    assert made["FIRST"] + made["SECOND"] <= 1.2 * size
    taken = block if made["RESIDENT"] else keys // block * block
    assert taken + tail >= keys
    assert taken + tail <= 1.07 * keys
    assert -(-queries // rows) * rows <= (1.07 if queries >= 300 else 1.34) * queries


def test_a_head_size_is_at_most_two_powers_of_two() -> None:
    for size in range(1, 257):
        parts = [part for part in cut.parts_of(size) if part]
        assert sum(parts) >= size
        assert sum(parts) < 2 * size or sum(parts) == 16
        assert all(part >= 16 and part.bit_count() == 1 for part in parts)
