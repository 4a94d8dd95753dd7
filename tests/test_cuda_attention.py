"""The CUDA attention without a GPU: what the compiler made of it, and its code run on a model of a block."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from compile_cache import SANITIZERS, compiled
from cuda_twin.attention import Case, execute
from cuda_twin.buffers import flat
from machine_code import ARCHES, MachineCode, tool
from test_attention import TOLERANCE, deviation, error, formula
from torch import Tensor

import fastdiff as fd

TWIN = Path(__file__).resolve().parent / "cuda_twin"
HALVES = [torch.float16, torch.bfloat16]

# Kernels by head size and queries of a warp in sixteens (flash) or keys (short), and the blocks of each that the
# registers of a multiprocessor must hold.
FLASH = {(40, 1): 3, (40, 2): 2, (64, 1): 2, (64, 2): 2, (72, 1): 2, (72, 2): 2, (80, 1): 2, (80, 2): 2}
FLASH |= {(128, 1): 2, (160, 1): 2}
MASKED = {(64, 1): 2, (128, 1): 2, (256, 1): 2}
SHORT = {(40, 80): 3, (40, 128): 2, (64, 80): 3, (64, 128): 2, (72, 80): 3, (72, 128): 2, (80, 80): 3, (80, 128): 2}
SHORT |= {(128, 80): 2, (128, 128): 2, (160, 80): 2, (160, 128): 2}
SINGLE = {(64,): 4, (128,): 2, (256,): 2}
HOPPER = {(size,): 1 for size in (40, 64, 72, 80, 128, 160)}
BLOCKS = {"Flash": FLASH, "Masked": MASKED, "ShortKeys": SHORT, "Float32": SINGLE, "Hopper": HOPPER}
THREADS = {"Hopper": 384}  # 128 of the others


def kernel_of(mangled: str) -> tuple[str, tuple[int, ...]]:
    """Its kind and numbers, whatever the dtype."""
    kind, arguments = re.search(
        r"attention_kernelINS\w*?_\d+(Flash|ShortKeys|Float32|Hopper)I(.*?)EEEvNS", mangled
    ).groups()
    numbers = tuple(int(n) for n in re.findall(r"Li(\d+)E", arguments))
    return ("Masked" if kind == "Flash" and arguments.rstrip("E").endswith("Lb1") else kind), numbers


def count(instructions: list[str], *starts: str) -> int:
    return sum(op.startswith(starts) for op in instructions)


class Built(MachineCode):
    def __init__(self) -> None:
        super().__init__("attention_kernel")

    def of(self, *kinds: str):
        """(place for a message, numbers, count of the instructions that begin so) for all kernels of these kinds."""
        for (arch, name), instructions in self.instructions.items():
            kind, numbers = kernel_of(name)
            if kind in kinds:
                yield (arch, kind, numbers), numbers, partial(count, instructions)


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


def test_every_kernel_is_there_for_every_architecture(built: Built) -> None:
    wanted = sum(len(sizes) * (1 if kind == "Float32" else 2) for kind, sizes in BLOCKS.items())
    arches = {arch for arch, _ in built.registers}
    assert arches >= set(ARCHES)
    for arch in arches:
        assert sum(arch == a for a, _ in built.registers) == wanted


def test_registers_leave_room_for_several_blocks(built: Built) -> None:
    for (arch, name), used in built.registers.items():
        kind, numbers = kernel_of(name)
        block = -(-used // 8) * 8 * THREADS.get(kind, 128)
        assert block * BLOCKS[kind][numbers] <= 65536, (arch, kind, numbers, used)


def test_nothing_goes_to_local_memory(built: Built) -> None:
    for where, _, count in built.of(*BLOCKS):
        assert count("LDL", "STL") == 0, where


def keys_of_a_tile(size: int, tiles: int) -> int:
    return 32 if size > 160 else 64 if tiles == 1 or size <= 64 else 48 if size <= 72 else 32


def test_no_product_is_wider_than_the_head(built: Built) -> None:
    """A tile takes exactly the tensor-core instructions that its keys and head size need, in eights."""
    for where, (size, tiles), count in built.of("Flash", "Masked"):
        keys = keys_of_a_tile(size, tiles)
        assert count("HMMA.16816.F32") == tiles * (keys // 8 * (size // 16) + keys // 16 * (size // 8)), where
        assert count("HMMA.1688.F32") == tiles * keys // 8 * (size % 16 // 8), where
    for where, (size, keys), count in built.of("ShortKeys"):
        assert count("HMMA.16816.F32") == keys // 8 * (size // 16) + keys // 16 * (size // 8), where
        assert count("HMMA.1688.F32") == keys // 8 * (size % 16 // 8), where


def test_operands_come_from_shared_memory_as_matrices(built: Built) -> None:
    """An eight by eight matrix for each eight keys and each eight of the head, and again as values, transposed."""
    for where, (size, keys), count in built.of("ShortKeys"):
        assert 4 * count("LDSM.16.MT88.4") + 2 * count("LDSM.16.MT88.2") == keys // 8 * (size // 8), where
    for where, (size, tiles), count in built.of("Flash"):
        wanted = keys_of_a_tile(size, tiles) // 8 * (size // 8)
        assert 4 * count("LDSM.16.MT88.4") + 2 * count("LDSM.16.MT88.2") == wanted, where


def test_memory_is_read_and_written_in_sixteen_bytes(built: Built) -> None:
    """Straight into shared memory; only rows that begin anywhere are read otherwise."""
    for where, _, count in built.of("Flash", "ShortKeys"):
        assert count("LDGSTS.E.BYPASS.128") == count("LDGSTS") > 0, where
        assert count("LDG.") == 0, where
        assert count("STG.E.128") == count("STG") > 0, where
    for where, _, count in built.of("Masked", "Float32"):
        assert count("LDGSTS.E.BYPASS.128") == count("LDGSTS") > 0, where
        assert count("STG.E.128") > 0, where


def test_tiles_are_copied_while_others_are_multiplied(built: Built) -> None:
    """One barrier a tile, and groups of copies that stay on their way past it."""
    for where, _, count in built.of("Flash", "Masked"):
        assert count("BAR.SYNC") == 3, where  # queries there, tile there, all done
        assert count("LDGDEPBAR") == 3, where  # queries, first tile, next tile


def test_products_on_hopper_are_as_wide_as_the_head(built: Built) -> None:
    """A tile of 128 keys: its logits in steps of sixteen columns, its values in steps of sixteen keys."""
    for (arch, kind, _), (size,), count in built.of("Hopper"):
        if arch != "sm_90a":
            assert count("HGMMA", "HMMA", "LDGSTS") == 0  # never launched
            continue
        logits, values = -(-size // 16), 8
        assert count("HGMMA") == logits + values, (kind, size)
        assert count("HGMMA.64x128x16.F32") == logits + (values if size == 128 else 0), size
        assert count(f"HGMMA.64x{size}x16.F32") == values + (logits if size == 128 else 0), size


def test_warpgroups_on_hopper_have_roles(built: Built) -> None:
    """Registers change hands, a copy ends at a barrier in memory, and products are waited for twice a tile."""
    for (arch, _, _), size, count in built.of("Hopper"):
        if arch == "sm_90a":
            assert count("USETMAXREG.DEALLOC") == count("USETMAXREG.TRY_ALLOC") == 1, size
            assert count("SYNCS.ARRIVE") >= 2, size  # tile there, tile read
            assert count("WARPGROUP.ARRIVE") == count("WARPGROUP.DEPBAR") == 2, size
            assert count("LDGSTS.E.BYPASS.128") == count("LDGSTS") > 0, size
            assert count("STG.E.128") == count("STG") > 0, size
            assert count("LDG.") == 0, size


@pytest.fixture(scope="session")
def twin() -> Path:
    checks = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    sources = [TWIN / name for name in ("attention_twin.cpp", "block.cpp", "warpgroup.cpp")]
    return compiled(tool("g++"), "-std=c++17", "-Og", "-g1", *checks, *SANITIZERS, *sources, output="twin") / "twin"


Shape = tuple[int, int, int, int, int]  # batch, heads, queries, keys, head size


def contiguous(batch: int, heads: int, rows: int, size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(batch, heads, rows, size).to(dtype)


def transposed(batch: int, heads: int, rows: int, size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(batch, rows, heads, size).to(dtype).transpose(1, 2)


def sliced(batch: int, heads: int, rows: int, size: int, dtype: torch.dtype) -> Tensor:
    """Heads of a wider projection: more lies between rows, and before the first."""
    return torch.randn(batch, rows, 3, heads, size).to(dtype)[:, :, 1].transpose(1, 2)


def misaligned(batch: int, heads: int, rows: int, size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(batch * heads * rows * size + 3).to(dtype)[1:-2].view(batch, heads, rows, size)


def padded(batch: int, heads: int, rows: int, size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(batch, heads, rows, size + 1).to(dtype)[..., :-1]


def make_case(shape: Shape, dtype: torch.dtype, layout=contiguous, **options: float) -> Case:
    batch, heads, queries, keys, size = shape
    q, k, v, out = (layout(batch, heads, rows, size, dtype) for rows in (queries, keys, keys, queries))
    return Case(q, k, v, out, **{"scale": size**-0.5, **options})


def kernels(reports: list[np.void]) -> list[str]:
    return [report["kernel"].decode() for report in reports]


def check(twin: Path, cases: list[Case]) -> list[np.void]:
    """Hold every byte of every buffer to the float64 formula."""
    before = [[flat(t).view(torch.uint8).clone() for t in case[:3]] for case in cases]
    left = [flat(case.out).clone() for case in cases]
    for case in cases:
        case.out.fill_(math.nan)
    reports = execute(twin, cases)
    for case, old, outside, report in zip(cases, before, left, reports, strict=True):
        assert report["text"] == b""
        what = f"{report['kernel'].decode()} {tuple(case.q.shape)} keys {case.k.shape[2]} {case.q.dtype}"
        assert all(torch.equal(flat(t).view(torch.uint8), was) for t, was in zip(case[:3], old, strict=True)), what
        result = case.out.clone()
        logits = max(1, abs(case.scale) * case.q.shape[-1] ** 0.5)  # whose rounding grows with them
        assert error(result, formula(case.q, case.k, case.v, case.scale)) <= logits * TOLERANCE[case.q.dtype], what
        outside.as_strided(case.out.shape, case.out.stride(), case.out.storage_offset()).copy_(result)
        assert torch.equal(flat(case.out), outside), what
    return reports


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [40, 64, 72, 80, 128, 160])
def test_each_head_size_at_the_borders_of_tiles(twin: Path, size: int, dtype: torch.dtype) -> None:
    cases = [make_case(shape, dtype) for shape in ((1, 1, 1, 129, size), (1, 1, 65, 192, size))]
    assert kernels(check(twin, cases)) == [f"flash {size} 1"] * 2
    if size <= 80:
        case = make_case((1, 1, 130, 145, size), dtype, multiprocessors=1)
        assert kernels(check(twin, [case])) == [f"flash {size} 2"]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [40, 64, 72, 80, 128, 160])
def test_each_head_size_on_hopper(twin: Path, size: int, dtype: torch.dtype) -> None:
    """Fewer tiles than places for them, as many, and more."""
    shapes = [(1, 1, 65, 129, size), (1, 1, 128, 512, size), (1, 1, 1, 650, size)]
    cases = [make_case(shape, dtype, hopper=True) for shape in shapes]
    assert kernels(check(twin, cases)) == [f"hopper {size}"] * 3


def test_keys_that_a_small_machine_cannot_keep_pass_by(twin: Path) -> None:
    cases = [make_case((1, 1, 5, 128, size), torch.float16, shared_memory=99 * 1024) for size in (80, 128, 160)]
    assert kernels(check(twin, cases)) == ["short 80 128", "flash 128 1", "flash 160 1"]


def test_small_sequences_on_hopper_take_small_tiles(twin: Path) -> None:
    case = make_case((1, 2, 129, 144, 72), torch.float16, hopper=True)
    few, many = (execute(twin, [case._replace(multiprocessors=n)])[0] for n in (8, 9))
    assert kernels([few, many]) == ["hopper 72", "flash 72 1"]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [40, 64, 72, 80, 128, 160])
def test_few_keys_stay_in_shared_memory(twin: Path, size: int, dtype: torch.dtype) -> None:
    shapes = [(65, 77), (64, 80), (3, 1), (17, 81), (5, 128)]
    names = [f"short {size} {keys}" for keys in (80, 80, 80, 128, 128)]
    assert kernels(check(twin, [make_case((1, 1, *shape, size), dtype) for shape in shapes])) == names


def test_tiles_of_queries_stream_past_the_keys_of_a_text(twin: Path) -> None:
    """Four blocks fill a multiprocessor; each has a head's keys, and two or three tiles of queries."""
    (report,) = check(twin, [make_case((2, 1, 300, 77, 40), torch.float16, multiprocessors=1)])
    assert (report["queries"], report["blocks"]) == (64, 4)


def test_small_sequences_spread_over_the_machine(twin: Path) -> None:
    case = make_case((1, 2, 256, 144, 80), torch.float16)
    few, many = (execute(twin, [case._replace(multiprocessors=n)])[0] for n in (2, 4))
    assert (few["queries"], few["blocks"]) == (128, 4)
    assert (many["queries"], many["blocks"]) == (64, 8)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_any_head_size_is_served(twin: Path, dtype: torch.dtype) -> None:
    check(twin, [make_case((1, 1, 19, 70, size), dtype) for size in (1, 7, 24, 63, 96, 127, 200, 256)])


@pytest.mark.parametrize("size", [40, 64, 72, 80, 128, 160])
def test_float32_at_the_borders_of_tiles(twin: Path, size: int) -> None:
    check(twin, [make_case(s, torch.float32) for s in ((1, 2, 1, 1, size), (1, 1, 33, 77, size), (2, 1, 65, 64, size))])


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize(("keys", "hopper"), [(77, False), (140, False), (140, True)])
def test_both_layouts_are_taken_as_they_are(twin: Path, keys: int, hopper: bool, dtype: torch.dtype) -> None:
    cases = [make_case((2, 2, 33, keys, 40), dtype, layout, hopper=hopper) for layout in (transposed, sliced)]
    assert not any("masked" in kernel for kernel in kernels(check(twin, cases)))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("layout", [misaligned, padded])
def test_rows_may_begin_anywhere(twin: Path, layout, dtype: torch.dtype) -> None:
    reports = check(twin, [make_case((1, 2, 35, 70, size), dtype, layout) for size in (40, 72, 160)])
    assert all("masked" in kernel or "single" in kernel for kernel in kernels(reports))


def test_keys_may_be_shared_by_heads(twin: Path) -> None:
    case = make_case((2, 3, 20, 150, 64), torch.float16)
    check(twin, [case._replace(k=case.k[:1, :1].expand(2, 3, 150, 64), v=case.v[:, :1].expand(2, 3, 150, 64))])


@pytest.mark.parametrize("scale", [0.0, -0.25, 0.75])
def test_the_scale_may_be_any_number(twin: Path, scale: float) -> None:
    shapes = [(1, 2, 33, 77, 40), (1, 1, 33, 140, 72), (1, 1, 20, 40, 24)]
    check(twin, [make_case(s, dtype, scale=scale) for s in shapes for dtype in (torch.float16, torch.float32)])
    check(twin, [make_case((1, 1, 70, 300, 72), torch.float16, scale=scale, hopper=True)])


# What reaches each kernel: dtype, keys, and whether the machine is Hopper.
KERNELS = [(torch.float16, 90, False), (torch.float16, 300, False), (torch.float16, 300, True)]
KERNELS += [(torch.float32, 300, False)]


@pytest.mark.parametrize(("dtype", "keys", "hopper"), KERNELS)
def test_logits_of_ten_thousand_lose_no_more_than_their_rounding(
    twin: Path, dtype: torch.dtype, keys: int, hopper: bool
) -> None:
    case = make_case((1, 1, 40, keys, 40), dtype, hopper=hopper)
    case.q.copy_(torch.randint(-24, 25, case.q.shape))
    case.k.copy_(torch.randint(-24, 25, case.k.shape))
    case.k[:, :, 1] = case.k[:, :, 0]
    check(twin, [case._replace(scale=1e4 / (case.q.float() @ case.k.float().mT).abs().max().item())])
    case.q.fill_(16).add_(torch.randint(0, 2, case.q.shape))
    for sign in (-1, 1):  # all logits near 10^4, or near -10^4
        case.k[:, :, : min(40, keys)] = sign * case.q
        case.k[:, :, 40:] = sign * 16
        execute(twin, [case._replace(scale=1.0)])
        assert error(case.out, formula(case.q, case.k, case.v, 1.0)) < 5e-3


@pytest.mark.parametrize(("dtype", "keys", "hopper"), KERNELS)
def test_no_finite_logit_is_too_large(twin: Path, dtype: torch.dtype, keys: int, hopper: bool) -> None:
    for size, scale in ((2**12, 0.3), (2**12, -2.0), (1, 1e30), (1, 1e38)):
        case = make_case((1, 1, 40, keys, 40), dtype, scale=scale, hopper=hopper)
        for t in (case.q, case.k):
            t.copy_(size * torch.randint(-8, 9, t.shape))  # so that logits are exact
        case.k[:, :, keys // 2 :: 7] = case.k[:, :, : keys - keys // 2 : 7]  # the largest comes several times
        check(twin, [case])


@pytest.mark.parametrize(("dtype", "keys", "hopper"), KERNELS)
def test_infinity_and_nan_go_where_the_formula_sends_them(
    twin: Path, dtype: torch.dtype, keys: int, hopper: bool
) -> None:
    for bad in (math.inf, -math.inf, math.nan):
        cases = []
        for where in ([3], [keys - 1], list(range(70)), list(range(keys))):
            case = make_case((1, 1, 9, keys, 40), dtype, scale=0.3, hopper=hopper)
            case.q[..., 0] = 1
            case.k[:, :, where, 0] = bad
            cases.append(case)
        execute(twin, cases)
        for case in cases:
            right = formula(case.q, case.k, case.v, case.scale)
            assert torch.equal(case.out.isnan(), right.isnan())
            assert right.isnan().all() or error(case.out, right) < 2 * TOLERANCE[dtype]  # logits are twice as large


def test_equal_keys_average_the_values(twin: Path) -> None:
    case = make_case((1, 2, 9, 300, 80), torch.float32)
    case.k.fill_(1)
    execute(twin, [case])
    assert (case.out - case.v.double().mean(2, keepdim=True)).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 2, 64, 77, 40), (1, 1, 48, 300, 80)], ids=str)
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_is_as_accurate_as_pytorch(twin: Path, shape: Shape, dtype: torch.dtype) -> None:
    case = make_case(shape, dtype)
    execute(twin, [case])
    right = formula(case.q, case.k, case.v, case.scale)
    theirs = torch.nn.functional.scaled_dot_product_attention(case.q, case.k, case.v)
    assert deviation(case.out, right) <= 1.5 * deviation(theirs, right)


def test_more_blocks_than_a_grid_has_are_refused(twin: Path) -> None:
    one = torch.zeros(1, dtype=torch.float16)
    many = one.expand(2**16, 2**9, 2**15, 40)
    (report,) = execute(twin, [Case(many, many[:, :, :1], many[:, :, :1], many, 1.0, 2**31)])
    assert report["text"] == b"more heads and queries than a grid has blocks"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [40, 64, 72, 80, 128, 160])
def test_every_kernel_on_a_device(size: int, dtype: torch.dtype) -> None:
    """Heads and queries enough for the kernels of large calls, and a call for those of small ones."""
    shapes = [(2, 40, 200, keys, size) for keys in (1, 77, 128, 129, 300, 1024)] + [(1, 1, 200, 300, size)]
    for batch, heads, queries, keys, _ in shapes:
        q, k, v = (transposed(batch, heads, rows, size, dtype).cuda() for rows in (queries, keys, keys))
        with fd.backend("cuda"):
            y = fd.ops.attention(q, k, v)
        assert error(y, formula(q, k, v, size**-0.5)) <= TOLERANCE[dtype], (keys, heads)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_captured_call_replays(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 40, 200, 160, device="cuda").to(dtype) for _ in range(3))
    graph = torch.cuda.CUDAGraph()
    with fd.backend("cuda"):
        fd.ops.attention(q, k, v)  # loads the kernel
        with torch.cuda.graph(graph):
            y = fd.ops.attention(q, k, v)
    for tensor in (q, k, v):
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    assert error(y, formula(q, k, v, 160**-0.5)) <= TOLERANCE[dtype]
