"""The inner products that guidance needs, beside the few reductions of eager PyTorch that a user writes for them.

"rescale": of c and u (CFG rescale, CFG-Zero*); "apg": of c - u and c; "apg x0": of c - u, c and x. "fastdiff" is called
as the sampling loop calls it, "op" through `fastdiff.ops.gram`. Contestants are checked against float64 before they are
timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from fastdiff.ops import gram, registry

from .accuracy import check_close
from .backends import forced
from .machine import copy_bandwidth

SHAPES = [(1, 4, 64, 64), (1, 4, 128, 128), (2, 16, 128, 128), (1, 16, 21, 60, 104)]
VARIANTS = {  # of c, u and x
    "rescale": [[1, 0], [0, 1]],
    "apg": [[1, -1], [1, 0]],
    "apg x0": [[1, -1, 0], [1, 0, 0], [0, 0, 1]],
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = (  # dtype of the outputs, threads; x is float32
    [(torch.float16, 1), (torch.bfloat16, 1)]
    if DEVICE == "cuda"
    else [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1)]
)
TOLERANCE = {"fastdiff": 2e-6, "op": 2e-6, "eager": 2e-2}  # eager rounds differences to the outputs' dtype


@lru_cache(maxsize=1)  # one draw for all contestants
def operands(shape: tuple[int, ...], dtype: torch.dtype, variant: str, device: str = DEVICE) -> list[Tensor]:
    c, u = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    return [c, u, torch.randn(shape, device=device)][: len(VARIANTS[variant][0])]


def eager(tensors: list[Tensor], variant: str) -> Callable[[], Tensor]:
    """Every product in a reduction of its own; products of halves, which would overflow, are made in float32."""

    def run() -> Tensor:
        c, u, *x = (t.flatten(1).float() for t in tensors)
        vectors = [c, u] if variant == "rescale" else [c - u, c, *x]
        products = [(a * b).sum(1) for i, a in enumerate(vectors) for b in vectors[i:]]
        return torch.stack([*products, *(v.sum(1) for v in vectors)], dim=1)

    return run


def ours(tensors: list[Tensor], variant: str, backend: str = "auto") -> Callable[[], Tensor]:
    """Called as the loop does, which has chosen the backend and keeps the basis and the result."""
    first, basis = tensors[0], torch.tensor(VARIANTS[variant], dtype=torch.float64)
    case = registry.CallSpec(first.device.type, first.dtype, tuple(first.shape))
    with registry.backend(backend):
        run = registry.choose("gram", case)
    out = first.new_empty((len(first), len(basis) + 1, len(basis) + 1), dtype=torch.float64)

    def call() -> Tensor:
        run(basis, tensors, out)
        return out

    return call


def op(tensors: list[Tensor], variant: str, backend: str = "auto") -> Callable[[], Tensor]:
    basis = torch.tensor(VARIANTS[variant], dtype=torch.float64)
    return lambda: gram(tensors, basis) if backend == "auto" else forced(gram, backend)(tensors, basis)


CONTESTANTS = {"fastdiff": ours, "op": op, "eager": eager}


def check(found: Tensor, tensors: list[Tensor], variant: str, tolerance: float) -> None:
    """All products against float64, whether they come as a matrix or one after another as `eager` gives them."""
    c, u, *x = (t.flatten(1).double() for t in tensors)
    vectors = torch.stack([c, u] if variant == "rescale" else [c - u, c, *x], dim=1)
    right, n = vectors @ vectors.mT, vectors.shape[1]
    upper = torch.triu_indices(n, n)
    right = torch.cat([right[:, upper[0], upper[1]], vectors.sum(2)], dim=1)
    if found.ndim == 3:
        found = torch.cat([found[:, upper[0], upper[1]], found[:, :n, n]], dim=1)
    check_close(found.double(), right, tolerance)


# Contestants of one group run one after another, so that they meet the same machine.
@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{str(s[0])[6:]}-{s[1]}thread")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gram(
    benchmark,
    threads: None,
    shape: tuple[int, ...],
    setting: tuple[torch.dtype, int],
    variant: str,
    contestant: str,
) -> None:
    dtype, count = setting
    torch.set_num_threads(count)
    tensors = operands(shape, dtype, variant)
    run = CONTESTANTS[contestant](tensors, variant)
    check(run(), tensors, variant, TOLERANCE[contestant])

    def call() -> None:
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{variant} {shape}, {str(dtype)[6:]}, {count} thread{'s' * (count > 1)}"
    moved = sum(t.numel() * t.element_size() for t in tensors)
    benchmark.pedantic(call, rounds=max(5, min(1000, int(1e8 / moved))), iterations=5, warmup_rounds=1)
    if benchmark.stats is not None and DEVICE == "cpu":
        # A copy of as many bytes reads half of them and writes the other half.
        rate = moved / benchmark.stats.stats.min
        benchmark.extra_info["of_copy_bandwidth"] = round(rate / copy_bandwidth(moved, count), 3)
