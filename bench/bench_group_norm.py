"""Group norm over the shapes of U-Nets and autoencoders, beside what eager PyTorch and torch.compile make of it.

"silu" is act(GN(x)); "modulated" is act(GN(x + add) (1 + scale) + shift). Everybody allocates the output. Contestants
are checked against float64 before they are timed. FASTDIFF_BENCH=full takes all shapes, as bench.report does.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
from collections.abc import Callable
from functools import lru_cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdiff.ops import group_norm

from .accuracy import check_close
from .backends import forced
from .machine import copy_bandwidth

GROUPS = 32
SHAPES = {"U-Net": [(2, 320, 64, 64), (2, 1280, 16, 16)], "VAE": [(1, 128, 256, 256)]}
MORE_SHAPES = {
    "U-Net": [
        (2, 640, 64, 64), (2, 960, 64, 64), (2, 320, 32, 32), (2, 640, 32, 32), (2, 1920, 32, 32), (2, 2560, 16, 16),
        (2, 1280, 8, 8), (2, 2560, 8, 8), (2, 320, 128, 128), (2, 1280, 32, 32),
    ],
    "ADM": [(1, 256, 256, 256), (1, 512, 64, 64), (1, 1024, 8, 8)],
    "VAE": [(1, 512, 128, 128), (1, 512, 256, 256), (1, 128, 512, 512), (1, 128, 1024, 1024)],
}  # fmt: skip
COMPILED = [*SHAPES["U-Net"], *SHAPES["VAE"]]  # on the CPU, where compiling takes longer than all the rest
ALL_SHAPES = {kind: [*SHAPES.get(kind, []), *more] for kind, more in MORE_SHAPES.items()}
if os.environ.get("FASTDIFF_BENCH") == "full":
    SHAPES = ALL_SHAPES
CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = (  # dtype, threads
    [(torch.float16, 1), (torch.bfloat16, 1)]
    if DEVICE == "cuda"
    else [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1), (torch.bfloat16, 2), (torch.float16, 1)]
)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
OTHERS = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # PyTorch loses digits in channels_last
MODULATED = ("add", "scale", "shift")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGE = -1, -3, 2**25  # of glibc's malloc.h, and the most that it keeps

Operands = dict[str, Tensor]


def eager(x: Tensor, weight: Tensor, bias: Tensor, **modulation: Tensor) -> Tensor:
    wide = {name: values[:, :, None, None] for name, values in modulation.items()}
    if not wide:
        return F.silu(F.group_norm(x, GROUPS, weight, bias))
    h = F.group_norm(x + wide["add"], GROUPS, weight, bias)
    return F.silu(h * (1 + wide["scale"]) + wide["shift"])


def ours(x: Tensor, weight: Tensor, bias: Tensor, **modulation: Tensor) -> Tensor:
    return group_norm(x, GROUPS, weight, bias, act="silu", **modulation)


CONTESTANTS: dict[str, Callable[..., Tensor]] = {"fastdiff": ours, "eager": eager, "compiled": eager}
if DEVICE == "cuda":
    CONTESTANTS |= {f"fastdiff {name}": forced(ours, name) for name in ("triton", "cuda")}


FILLED: list[Tensor] = []


def settle_malloc() -> None:
    """Outputs of 32 MiB and more are fresh pages in every call of everybody, as glibc gives them, and smaller ones are
    kept from call to call. Else both would depend on what was freed before: holes that happen to be large enough, and
    thresholds that grow with use."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_size_t
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    libc.mallopt(M_TRIM_THRESHOLD, 2**30)
    libc.malloc_trim(0)
    while (block := torch.empty(LARGE, dtype=torch.uint8)).data_ptr() < libc.sbrk(0):  # in a hole of the heap
        FILLED.append(block)


def apart(count: int, dtype: torch.dtype, device: str) -> Tensor:
    """Random numbers outside the heap, in which they would leave holes for outputs."""
    if device == "cpu":
        return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype).normal_()
    return torch.randn(count, dtype=dtype, device=device)


@lru_cache(maxsize=1)  # one draw for all contestants
def operands(shape: tuple[int, ...], dtype: torch.dtype, layout: str, variant: str, device: str = DEVICE) -> Operands:
    draw = partial(torch.randn, device=device, dtype=dtype)
    strides = torch.empty(shape, device="meta", memory_format=LAYOUTS[layout]).stride()
    given = {"x": apart(math.prod(shape), dtype, device).as_strided(shape, strides)}
    given |= {name: draw(shape[1]) for name in ("weight", "bias")}
    if variant == "modulated":
        given |= {name: draw(shape[:2]) for name in MODULATED}
    return given


def check(y: Tensor, given: Operands, tolerance: float) -> None:
    """The first and the last group of each sample against the formula in float64."""
    channels = y.shape[1]
    size = channels // GROUPS
    for first in (0, channels - size):
        part = slice(first, first + size)
        weight, bias = (given[name][part].double() for name in ("weight", "bias"))
        cut = {name: given[name][:, part].double()[:, :, None, None] for name in MODULATED if name in given}
        x = given["x"][:, part].double() + cut.get("add", 0)
        right = F.group_norm(x, 1, weight, bias) * (1 + cut.get("scale", 0)) + cut.get("shift", 0)
        right = F.silu(right)
        check_close(y[:, part], right, tolerance)


# Contestants of one group run one after another, so that they meet the same machine.
@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("variant", ["silu", "modulated"])
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{str(s[0])[6:]}-{s[1]}thread")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_group_norm(
    benchmark,
    threads: None,
    kind: str,
    shape: tuple[int, ...],
    layout: str,
    setting: tuple[torch.dtype, int],
    variant: str,
    contestant: str,
) -> None:
    dtype, count = setting
    if (
        contestant == "compiled"
        and DEVICE == "cpu"
        and (setting != (torch.float32, 1) or variant == "modulated" or shape not in COMPILED)
    ):
        pytest.skip("compiling takes long")
    torch.set_num_threads(count)
    given = operands(shape, dtype, layout, variant)
    run = CONTESTANTS[contestant]
    if contestant == "compiled":
        run = torch.compile(eager, dynamic=False)
    try:
        check(run(**given), given, (TOLERANCE if contestant.startswith("fastdiff") else OTHERS)[dtype])
    except RuntimeError as refusal:
        pytest.skip(str(refusal))

    def call() -> None:
        run(**given)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{kind} {shape}, {layout}, {variant}, {str(dtype)[6:]}, {count} thread{'s' * (count > 1)}"
    moved = 2 * given["x"].numel() * given["x"].element_size()
    settle_malloc()
    benchmark.pedantic(call, rounds=max(2, min(100, int(4e8 / moved))), warmup_rounds=1)
    if benchmark.stats is not None and DEVICE == "cpu":
        rate = moved / benchmark.stats.stats.min
        benchmark.extra_info["of_copy_bandwidth"] = round(rate / copy_bandwidth(moved, count), 3)
