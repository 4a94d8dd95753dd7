"""attention: one definition, every backend, any strides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import attention

OP = "attention"
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float64: 1e-13}
CASES = [(2, 8, 64, 64, 40), (1, 3, 17, 77, 72), (2, 1, 1, 1, 8), (1, 2, 33, 300, 7), (1, 4, 129, 5, 160)]


def operands(case: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, queries, keys, size = case
    shapes = [(batch, heads, n, size) for n in (queries, keys, keys)]
    q, k, v = (torch.randn(shape).to(dtype) for shape in shapes)
    return q, k, v


def formula(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q.double() @ k.double().mT * scale, dim=-1) @ v.double()


def error(y: Tensor, expected: Tensor) -> float:
    return ((y.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_formula(backend: str, device: str, case: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = operands(case, dtype)
    with fd.backend(backend):
        y = attention(q.to(device), k.to(device), v.to(device)).cpu()
        scaled = attention(q.to(device), k.to(device), v.to(device), scale=0.5).cpu()
    assert y.dtype == dtype
    assert error(y, formula(q, k, v, case[-1] ** -0.5)) <= TOLERANCE[dtype]
    assert error(scaled, formula(q, k, v, 0.5)) <= TOLERANCE[dtype]


def test_transposed_heads_are_taken_as_they_are_and_come_back_so(backend: str, device: str) -> None:
    q, k, v = (torch.randn(2, 19, 3, 16, device=device).transpose(1, 2) for _ in range(3))
    with fd.backend(backend):
        y = attention(q, k, v)
    assert y.stride() == q.stride()
    assert error(y.cpu(), formula(q.cpu(), k.cpu(), v.cpu(), 0.25)) < 5e-6


def test_huge_logits_do_not_overflow(backend: str, device: str) -> None:
    q, k, v = (torch.randn(1, 2, 9, 8, device=device) for _ in range(3))
    with fd.backend(backend):
        y = attention(q * 1e2, k * 1e2, v)
    assert torch.isfinite(y).all()


def test_equal_keys_average_the_values() -> None:
    q, k, v = torch.randn(1, 2, 9, 8), torch.ones(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    torch.testing.assert_close(attention(q, k, v), v.mean(2, keepdim=True).expand(1, 2, 9, 8))


def test_an_empty_batch_is_an_empty_result() -> None:
    empty = torch.empty(0, 2, 3, 8)
    assert attention(empty, empty, empty).shape == (0, 2, 3, 8)


def test_gradients_are_right() -> None:
    q, k, v = (t.requires_grad_() for t in operands((1, 2, 3, 4, 5), torch.float64))
    assert torch.autograd.gradcheck(attention, (q, k, v))


def test_the_op_is_registered_soundly_and_compiles_whole() -> None:
    q, k, v = (t.requires_grad_() for t in operands((1, 2, 3, 4, 8), torch.float32))
    torch.library.opcheck(torch.ops.fastdiff.attention, (q, k, v, 0.3))
    torch.testing.assert_close(torch.compile(attention, fullgraph=True)(q, k, v), attention(q, k, v))


Q = torch.randn(1, 2, 3, 8)


@pytest.mark.parametrize(
    ("arguments", "error_type", "message"),
    [
        ((Q[0], Q, Q), ValueError, r"q: expected \[B, H, N, D\]"),
        ((Q, Q[..., :4], Q), ValueError, r"k: expected shape \(1, 2, 3, 8\), got \(1, 2, 3, 4\)"),
        ((Q, Q[:, :, :0], Q), ValueError, "k: expected .* at least one key"),
        ((Q, Q, Q[:, :, :2]), ValueError, "v: expected shape"),
        ((Q, Q.double(), Q), TypeError, "k: expected torch.float32, got torch.float64"),
        ((Q, Q, Q.to("meta")), ValueError, "v: expected device cpu, got meta"),
        ((Q.long(), Q, Q), TypeError, "q: expected float32"),
    ],
)
def test_bad_input_names_the_argument(arguments: tuple, error_type: type, message: str) -> None:
    with pytest.raises(error_type, match=message):
        attention(*arguments)
