"""Attention over the shapes of diffusion models, beside PyTorch's op with each of its backends and torch.compile.

Every contestant is checked against float64 before it is timed. The share of the machine's matmul rate counts the two
products only, 4 B H N M D operations, and not the softmax. FASTDIFF_BENCH=full takes all shapes, as bench.report does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastdiff as fd
from fastdiff.ops import attention

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
FULL = os.environ.get("FASTDIFF_BENCH") == "full"
if FULL:
    SHAPES |= MORE_SHAPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = (  # dtype, threads
    [(torch.float16, 1), (torch.bfloat16, 1)]
    if DEVICE == "cuda"
    else [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1)]
)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # twice that for the others
SDPA = {"math": SDPBackend.MATH}  # on the CPU the only other one, flash, is the default
if DEVICE == "cuda":
    SDPA |= {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    SDPA |= {"cudnn": SDPBackend.CUDNN_ATTENTION}
LARGEST_PRODUCT = 1 << 25  # queries times keys that contestants who write them out are given
LONG = 5e10  # operations; on the CPU more are run in float32 on all threads only


@pytest.fixture(params=SETTINGS, ids=lambda s: f"{str(s[0])[6:]}-{s[1]}thread")
def setting(request: pytest.FixtureRequest) -> Iterator[tuple[torch.dtype, int]]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param[1])
    yield request.param
    torch.set_num_threads(before)


def check(y: Tensor, q: Tensor, k: Tensor, v: Tensor, tolerance: float) -> None:
    """The first and the last queries of each head against the formula in float64."""
    for part in (slice(None, 32), slice(-32, None)):
        weights = torch.softmax(q[:, :, part].double() @ k.double().mT * q.shape[-1] ** -0.5, dim=-1)
        right = weights @ v.double()
        assert (y[:, :, part] - right).abs().max() <= tolerance * right.abs().max()


def run(benchmark, name: str, setting: tuple[torch.dtype, int], contestant: Callable[..., Tensor]) -> None:
    (batch, heads, queries, keys, size), (dtype, threads) = SHAPES[name], setting
    work = 4 * batch * heads * queries * keys * size
    if DEVICE == "cpu" and work > LONG and setting != (torch.float32, 2):
        pytest.skip("takes long")
    q, k, v = (torch.randn(batch, heads, n, size, device=DEVICE, dtype=dtype) for n in (queries, keys, keys))
    check(contestant(q, k, v), q, k, v, TOLERANCE[dtype] * (1 if contestant is attention else 2))

    def call() -> None:
        contestant(q, k, v)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{name} {SHAPES[name]}, {str(dtype)[6:]}, {threads} thread{'s' * (threads > 1)}"
    call()
    benchmark.pedantic(call, rounds=max(3, min(100, int(2e10 / work))))
    if benchmark.stats is not None:
        rate = work / benchmark.stats.stats.min
        benchmark.extra_info["of_matmul_rate"] = round(rate / matmul_rate(DEVICE, dtype, threads), 3)


def product_of(name: str) -> int:
    batch, heads, queries, keys, _ = SHAPES[name]
    return batch * heads * queries * keys


@pytest.mark.parametrize("name", SHAPES)
def test_fastdiff(benchmark, name: str, setting: tuple[torch.dtype, int]) -> None:
    run(benchmark, name, setting, attention)


if DEVICE == "cuda":

    @pytest.mark.parametrize("backend", ["triton", "cuda"])
    @pytest.mark.parametrize("name", SHAPES)
    def test_fastdiff_backend(benchmark, name: str, backend: str, setting: tuple[torch.dtype, int]) -> None:
        with fd.backend(backend):
            try:
                run(benchmark, name, setting, attention)
            except RuntimeError as refusal:
                pytest.skip(str(refusal))


@pytest.mark.parametrize("name", SHAPES)
def test_sdpa(benchmark, name: str, setting: tuple[torch.dtype, int]) -> None:
    run(benchmark, name, setting, F.scaled_dot_product_attention)


@pytest.mark.parametrize("backend", SDPA)
@pytest.mark.parametrize("name", SHAPES)
def test_sdpa_backend(benchmark, name: str, backend: str, setting: tuple[torch.dtype, int]) -> None:
    if backend == "math" and product_of(name) > LARGEST_PRODUCT:
        pytest.skip("writes out queries times keys")
    with sdpa_kernel(SDPA[backend]):
        try:
            run(benchmark, name, setting, F.scaled_dot_product_attention)
        except RuntimeError as refusal:
            pytest.skip(str(refusal))


@pytest.mark.parametrize("name", SHAPES)
def test_compiled_formula(benchmark, name: str, setting: tuple[torch.dtype, int]) -> None:
    if product_of(name) > LARGEST_PRODUCT:
        pytest.skip("writes out queries times keys")

    @torch.compile(dynamic=False)
    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v

    run(benchmark, name, setting, formula)
