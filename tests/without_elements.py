"""Tensors without elements, of any strides, for the property that every op takes them: see the tests of each op."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from fastdiff.ops import registry

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
few = settings(max_examples=40)


def shapes(rank: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Of `rank` sizes up to 3, at least one of which is 0."""
    sizes = st.lists(st.integers(0, 3), min_size=rank, max_size=rank)
    return st.builds(lambda n, at: (*n[:at], 0, *n[at + 1 :]), sizes, st.integers(0, rank - 1))


@st.composite
def strided(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, differentiable: bool = True) -> Tensor:
    """A tensor of that shape in memory of any order, with steps of one or two, some dimensions expanded."""
    order = draw(st.permutations(range(len(shape))))
    step = [draw(st.integers(1, 2)) for _ in shape]
    once = [draw(st.integers(0, 4)) == 0 for _ in shape]
    base = torch.ones([1 if once[d] else step[d] * shape[d] for d in order], dtype=dtype)
    base.requires_grad_(differentiable and dtype.is_floating_point)
    turned = base.permute([order.index(d) for d in range(len(shape))])
    return turned[tuple(slice(None, None, s) for s in step)].expand(shape)


def served(op: str, backend: str, device: str, shape: tuple[int, ...]) -> st.SearchStrategy[torch.dtype]:
    """The dtypes that the backend takes."""
    cases = {dtype: registry.CallSpec(device, dtype, shape) for dtype in DTYPES}
    return st.sampled_from([dtype for dtype, case in cases.items() if registry.refusal(op, backend, case) is None])


def check(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype, inputs: list[Tensor]) -> None:
    """An empty result of that shape and dtype, and gradients of zero for all inputs."""
    assert out.shape == shape
    assert out.dtype == dtype
    for t, gradient in zip(inputs, torch.autograd.grad(out.sum(), inputs), strict=True):
        assert gradient.shape == t.shape
        assert gradient.dtype == t.dtype
        assert not gradient.count_nonzero()
