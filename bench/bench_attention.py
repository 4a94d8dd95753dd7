"""Attention over the shapes of diffusion models, beside PyTorch's op with each of its backends and torch.compile.

Every contestant is checked against float64 before it is timed. The share of the machine's matmul rate counts the two
products only, 4 B H N M D operations, and not the softmax. FASTDIFF_BENCH=full takes all shapes, as bench.report does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastdiff.ops import attention

from .accuracy import check_close
from .backends import forced
from .machine import matmul_rate

# batch, heads, queries, keys, head size
SHAPES = {
    "text, U-Net 64x64": (2, 8, 4096, 77, 40),
    "text, U-Net 32x32": (2, 8, 1024, 77, 80),
    "self, DiT-XL 512 px": (2, 16, 1024, 1024, 72),
}
MORE_SHAPES = {
    "text, U-Net 16x16": (2, 8, 256, 77, 160),
    "text, U-Net 8x8": (2, 8, 64, 77, 160),
    "text, SDXL 64x64": (2, 10, 4096, 77, 64),
    "text, SDXL 32x32": (2, 20, 1024, 77, 64),
    "text, PixArt": (2, 16, 4096, 300, 72),
    "self, U-Net 64x64": (2, 8, 4096, 4096, 40),
    "self, 32x32, 40": (2, 8, 1024, 1024, 40),
    "self, U-Net 32x32": (2, 8, 1024, 1024, 80),
    "self, U-Net 16x16": (2, 8, 256, 256, 160),
    "self, U-Net 8x8": (2, 8, 64, 64, 160),
    "self, SDXL 64x64": (2, 10, 4096, 4096, 64),
    "self, SDXL 32x32": (2, 20, 1024, 1024, 64),
    "self, DiT-XL 256 px": (2, 16, 256, 256, 72),
    "self, U-ViT": (2, 16, 258, 258, 72),
    "self, ADM 32x32": (1, 8, 1024, 1024, 64),
    "joint, Flux": (1, 24, 4608, 4608, 128),
    "self, VAE 512 px": (1, 1, 4096, 4096, 512),
}
ALL_SHAPES = SHAPES | MORE_SHAPES
if os.environ.get("FASTDIFF_BENCH") == "full":
    SHAPES = ALL_SHAPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = (  # dtype, threads
    [(torch.float16, 1), (torch.bfloat16, 1)]
    if DEVICE == "cuda"
    else [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1)]
)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # twice that for the others
LARGEST_PRODUCT = 1 << 25  # queries times keys that contestants who write them out are given
LONG = 5e10  # operations; on the CPU more are run in float32 on all threads only


def check(y: Tensor, q: Tensor, k: Tensor, v: Tensor, tolerance: float) -> None:
    """The first and the last queries of each head against the formula in float64."""
    for part in (slice(None, 32), slice(-32, None)):
        weights = torch.softmax(q[:, :, part].double() @ k.double().mT * q.shape[-1] ** -0.5, dim=-1)
        right = weights @ v.double()
        check_close(y[:, :, part], right, tolerance)


def sdpa_with(backend: SDPBackend) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return run


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


CONTESTANTS: dict[str, Callable[..., Tensor]] = {"fastdiff": attention, "sdpa": F.scaled_dot_product_attention}
if DEVICE == "cuda":
    CONTESTANTS |= {f"fastdiff {name}": forced(attention, name) for name in ("triton", "cuda")}
    CONTESTANTS["sdpa flash"] = sdpa_with(SDPBackend.FLASH_ATTENTION)  # on the CPU it is the default
    CONTESTANTS["sdpa efficient"] = sdpa_with(SDPBackend.EFFICIENT_ATTENTION)
    CONTESTANTS["sdpa cudnn"] = sdpa_with(SDPBackend.CUDNN_ATTENTION)
CONTESTANTS |= {"sdpa math": sdpa_with(SDPBackend.MATH), "compiled formula": formula}


# Contestants of one group run one after another, so that they meet the same machine.
@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{str(s[0])[6:]}-{s[1]}thread")
@pytest.mark.parametrize("name", SHAPES)
def test_attention(benchmark, threads: None, name: str, setting: tuple[torch.dtype, int], contestant: str) -> None:
    (batch, heads, queries, keys, size), (dtype, count) = SHAPES[name], setting
    work = 4 * batch * heads * queries * keys * size
    if DEVICE == "cpu" and work > LONG and setting != (torch.float32, 2):
        pytest.skip("takes long")
    if contestant in ("sdpa math", "compiled formula") and batch * heads * queries * keys > LARGEST_PRODUCT:
        pytest.skip("writes out queries times keys")
    torch.set_num_threads(count)
    q, k, v = (torch.randn(batch, heads, n, size, device=DEVICE, dtype=dtype) for n in (queries, keys, keys))
    run = CONTESTANTS[contestant]
    if run is formula:
        run = torch.compile(formula, dynamic=False)
    try:
        check(run(q, k, v), q, k, v, TOLERANCE[dtype] * (1 if contestant.startswith("fastdiff") else 2))
    except RuntimeError as refusal:
        pytest.skip(str(refusal))

    def call() -> None:
        run(q, k, v)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{name} {SHAPES[name]}, {str(dtype)[6:]}, {count} thread{'s' * (count > 1)}"
    benchmark.pedantic(call, rounds=max(3, min(100, int(2e10 / work))))
    if benchmark.stats is not None:
        rate = work / benchmark.stats.stats.min
        benchmark.extra_info["of_matmul_rate"] = round(rate / matmul_rate(DEVICE, dtype, count), 3)
