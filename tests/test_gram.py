"""gram: one definition, every backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import without_elements as empty
from conftest import INTERPRETING
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import gram

OP = "gram"
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
TOLERANCE = {F32: 2e-6, F64: 1e-13}
DTYPES = [F32, F64, F16] + [BF16] * (not INTERPRETING)  # broken in the interpreter
SHAPES, SAMPLES = [(2, 4, 9, 8), (3, 33), (1, 4100)], 2
if not INTERPRETING:
    SHAPES, SAMPLES = [*SHAPES, (4,), (1, 1), (2, 3, 5, 7), (1, 4, 37, 61), (2, 20011)], 8
# Of up to six tensors; the empty column of the last is that of a tensor which is not read.
BASES = {
    "one": [[1, 0]],
    "difference": [[1, -1], [1, 0]],
    "three": [[1, -1, 0], [0.3, 0, -2.5], [0, 0, 1]],
    "four": [[1, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0.5, 0], [0.1, 0.2, 0.3, 0.4, -0.5, 0], [0, 0, 0, 0, 1, 0]],
}


def definition(tensors: Sequence[Tensor | None], basis: Sequence[Sequence[float]] | Tensor) -> Tensor:
    """In float64."""
    like = next(t for t in tensors if t is not None).double()
    vectors = [torch.zeros_like(like) for _ in basis] + [torch.ones_like(like)]
    for v, row in zip(vectors, basis, strict=False):
        for weight, t in zip(row, tensors, strict=True):
            if weight != 0 and t is not None:
                v += float(weight) * t.double()
    flat = torch.stack([v.reshape(len(like), like.shape[1:].numel()) for v in vectors], dim=1)
    return flat @ flat.mT


def sizes(tensors: Sequence[Tensor | None], basis: Sequence[Sequence[float]]) -> Tensor:
    """|a_i| |a_j| [B, n + 1, n + 1] of the sums of the terms' magnitudes, which errors are relative to."""
    magnitudes = [None if t is None else t.double().abs() for t in tensors]
    lengths = definition(magnitudes, [[abs(w) for w in row] for row in basis]).diagonal(dim1=1, dim2=2).sqrt()
    return (lengths[:, :, None] * lengths[:, None, :]).clamp_min(1e-300)


def assert_right(found: Tensor, tensors: Sequence[Tensor | None], basis: Sequence[Sequence[float]]) -> None:
    wide = any(t is not None and t.dtype == F64 for t in tensors)
    assert found.dtype == F64
    assert torch.equal(found, found.mT)
    error = ((found.cpu() - definition(tensors, basis)).abs() / sizes(tensors, basis)).max().item()
    assert error <= TOLERANCE[F64 if wide else F32], error


def draw(count: int, shape: tuple[int, ...], *dtypes: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape).to(dtype) for dtype in itertools.islice(itertools.cycle(dtypes), count)]


def call(backend: str, device: str, tensors: Sequence[Tensor | None], basis: object) -> Tensor:
    with fd.backend(backend):
        return gram([None if t is None else t.to(device) for t in tensors], basis).cpu()


# In the interpreter each basis meets one dtype or two, and each dtype two bases.
KINDS = [
    (name, dtype)
    for (i, name), (j, dtype) in itertools.product(enumerate(BASES), enumerate(DTYPES))
    if not INTERPRETING or (i + j) % 2 == 0
]


@pytest.mark.parametrize(("name", "dtype"), KINDS, ids=str)
def test_equals_the_definition(backend: str, device: str, name: str, dtype: torch.dtype) -> None:
    basis = BASES[name]
    for shape in SHAPES:
        tensors = draw(len(basis[0]), shape, dtype)
        assert_right(call(backend, device, tensors, basis), tensors, basis)


def test_dtypes_may_be_mixed(backend: str, device: str) -> None:
    for dtypes in itertools.product(DTYPES, repeat=2):
        tensors = draw(3, (2, 5, 24), *dtypes)
        assert_right(call(backend, device, tensors, BASES["three"]), tensors, BASES["three"])


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def halves_of_channels(x: Tensor) -> Tensor:
    return torch.cat([x, x], dim=1)[:, : x.shape[1]]


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1)[..., ::2]


def misaligned(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def expanded(x: Tensor) -> Tensor:
    return x[:, :, :1].expand_as(x)


def transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


LAYOUTS = [channels_last, halves_of_channels, strided, misaligned, expanded, transposed]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("others", [Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
def test_layouts(backend: str, device: str, layout: Callable, others: Callable) -> None:
    tensors = draw(3, (2, 6, 8, 12), F32, F16)
    tensors = [layout(tensors[0]), others(tensors[1]), layout(tensors[2])]
    assert_right(call(backend, device, tensors, BASES["three"]), tensors, BASES["three"])


def test_many_dimensions_in_different_orders(backend: str, device: str) -> None:
    x, y = draw(2, (2, 3, 2, 4, 2, 3, 2, 2), F32)
    y = y.permute(0, 7, 6, 5, 4, 3, 2, 1).contiguous().permute(0, 7, 6, 5, 4, 3, 2, 1)
    assert_right(call(backend, device, [x, y], BASES["difference"]), [x, y], BASES["difference"])


def test_a_small_difference_keeps_its_digits(backend: str, device: str) -> None:
    """G of c - u is right to the digits that float32 gives c and u, where G_cc - 2 G_cu + G_uu has none left."""
    u = torch.randn(2, 4, 64, 48)
    c = u + 1e-4 * torch.randn(2, 4, 64, 48)
    found, right = call(backend, device, [c, u], BASES["difference"]), definition([c, u], BASES["difference"])
    assert ((found - right).abs() / right.abs())[:, 0, 0].max() <= 2e-6


def test_large_means_cost_no_more_than_the_products(backend: str, device: str) -> None:
    """The variance of x about a mean of 1000 deviations, from G; a product is rounded by half of 2^-24 of its size."""
    x = torch.randn(2, 30011) + 1000
    found = call(backend, device, [x], [[1]])
    count = found[:, 1, 1]
    variance = found[:, 0, 0] / count - (found[:, 0, 1] / count).square()
    assert (variance - x.double().var(dim=1, correction=0)).abs().max() <= 1e6 * 2.0**-20
    constant = torch.full((1, 30011), 1000.123)
    found, right = call(backend, device, [constant], [[1]]), definition([constant], [[1]])
    assert ((found - right).abs() / right).max() <= 2e-6


def test_the_largest_halves_do_not_overflow(backend: str, device: str) -> None:
    tensors = [(65504 * torch.randn(2, 4, 32, 33).sign()).half() for _ in range(2)]
    found = call(backend, device, tensors, BASES["difference"])
    assert found.isfinite().all()
    assert_right(found, tensors, BASES["difference"])


@pytest.mark.parametrize("shape", [(6149,), (3, 5, 7), *[(4, 16, 16), (16384,)] * (not INTERPRETING)], ids=str)
@pytest.mark.parametrize("dtype", [*[F32] * (not INTERPRETING), F16], ids=str)  # of the second tensor
def test_a_sample_has_the_same_bits_in_any_batch(
    backend: str, device: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if backend == "reference":
        pytest.skip("the definition promises digits, not bits")
    tensors = draw(3, (SAMPLES, *shape), F32, dtype)
    whole = call(backend, device, tensors, BASES["three"])
    for b in range(SAMPLES):
        assert torch.equal(call(backend, device, [t[b : b + 1] for t in tensors], BASES["three"]), whole[b : b + 1])
        alone = [t[b : b + 1].clone() for t in tensors]
        assert torch.equal(call(backend, device, alone, BASES["three"]), whole[b : b + 1])
    assert torch.equal(call(backend, device, tensors, BASES["three"]), whole)


def test_nan_and_infinity_stay_in_their_sample(backend: str, device: str) -> None:
    tensors = draw(2, (4, 3, 700), F32)
    clean = call(backend, device, tensors, BASES["difference"])
    tensors[0][1, 2, 3], tensors[1][2, 0, 1] = torch.nan, torch.inf
    found = call(backend, device, tensors, BASES["difference"])
    assert torch.equal(found[[0, 3]], clean[[0, 3]]) or backend == "reference"
    assert found[1, :2, :].isnan().all()
    assert found[2, 0, 0] == torch.inf
    assert torch.equal(found[2, 1:, 1:], clean[2, 1:, 1:]) or backend == "reference"  # to which t_1 adds nothing
    assert found[[0, 3]].isfinite().all()


def test_what_has_no_weight_is_not_read(backend: str, device: str) -> None:
    x, bad = torch.randn(2, 40), torch.full((2, 40), torch.nan)
    basis = [[0, 1, 0], [0, -0.5, 0]]
    for tensors in ([bad, x, bad], [None, x, None], [None, x, bad]):
        assert_right(call(backend, device, tensors, basis), [None, x, None], basis)
    found = call(backend, device, [None, x, None], torch.zeros(2, 3, dtype=F64))
    assert torch.equal(found, torch.tensor([0, 0, 40.0]).diag().double().expand(2, 3, 3))


def test_the_basis_may_be_an_array_a_tensor_or_a_view(backend: str, device: str) -> None:
    tensors = draw(3, (2, 50), F32)
    right = call(backend, device, tensors, BASES["three"])
    array = np.array(BASES["three"], dtype=np.float64)
    turned = torch.from_numpy(array).mT.contiguous().mT
    for basis in (array, torch.from_numpy(array), turned, turned.to(device)):
        assert torch.equal(call(backend, device, tensors, basis), right)


@empty.few
@given(data=st.data())
def test_without_elements_any_strides_give_zeros(backend: str, device: str, data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, 5).flatmap(empty.shapes))
    dtype = data.draw(empty.served(OP, backend, device, shape))
    tensors = [data.draw(empty.strided(shape, dtype)).to(device) for _ in range(2)]
    with fd.backend(backend):
        found = gram(tensors, BASES["difference"])
    assert found.shape == (shape[0], 3, 3)
    assert not found.count_nonzero()
    for t, gradient in zip(tensors, torch.autograd.grad(found.sum(), tensors), strict=True):
        assert gradient.shape == t.shape
        assert not gradient.count_nonzero()


def test_gradients_are_right() -> None:
    tensors = [t.requires_grad_() for t in draw(3, (2, 3, 4), F64)]
    assert torch.autograd.gradcheck(lambda *t: gram(t, BASES["three"]), tensors)
    assert torch.autograd.gradcheck(lambda a, c: gram([a, None, c], [[1, 0, 0.5]]), (tensors[0], tensors[2]))


def test_the_op_is_registered_soundly_and_compiles_whole() -> None:
    x, y = torch.randn(2, 2, 6, requires_grad=True).unbind()
    basis = torch.tensor(BASES["difference"], dtype=F64)
    torch.library.opcheck(torch.ops.fastdiff.gram, ([x, y], [0, 1], basis))
    compiled = torch.compile(lambda x, y: gram([x, None, y], [[1, 0, -1]]), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), gram([x, None, y], [[1, 0, -1]]))


X = torch.randn(2, 5)


@pytest.mark.parametrize(
    ("tensors", "basis", "error", "message"),
    [
        ([], [[1]], ValueError, "tensors: expected 1 to 6, got 0"),
        ([X] * 7, [[1] * 7], ValueError, "tensors: expected 1 to 6, got 7"),
        ([None], [[0]], ValueError, "tensors: expected at least one that is not None"),
        ([X, [1.0]], [[1, 1]], TypeError, r"tensors\[1\]: expected a torch.Tensor, got list"),
        ([X.int()], [[1]], TypeError, r"tensors\[0\]: expected float32.* got torch.int32"),
        ([X, X[:, 1:]], [[1, 1]], ValueError, r"tensors\[1\]: expected shape \(2, 5\), got \(2, 4\)"),
        ([X, X.to("meta")], [[1, 1]], ValueError, r"tensors\[1\]: expected device cpu, got meta"),
        ([X.sum()], [[1]], ValueError, "tensors: expected at least one dimension, the batch"),
        ([X, None], [[1, 1]], ValueError, r"tensors\[1\]: expected a tensor, because column 1 of basis is not zero"),
        ([X, X], [[1]], ValueError, r"basis: expected shape \[n, 2\] with n from 1 to 4, got \(1, 1\)"),
        ([X], [[1]] * 5, ValueError, r"basis: expected shape \[n, 1\] with n from 1 to 4, got \(5, 1\)"),
        ([X], [1.0], ValueError, r"basis: expected shape .* got \(1,\)"),
        ([X], torch.ones(1, 1), TypeError, "basis: expected torch.float64, got torch.float32"),
        ([X], torch.ones(1, 1, dtype=F64, device="meta"), ValueError, "basis: expected device cpu, got meta"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(tensors: list, basis: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        gram(tensors, basis)
