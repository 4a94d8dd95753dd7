"""gram of _C on the CPU: every instruction set, threads, how tensors come in.

tests/test_gram.py holds every backend to the contract; here is what only this backend can get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from instruction_sets import SANITIZED, passes_under_sanitizers
from test_gram import BASES, assert_right, definition, draw, sizes
from torch import Tensor

native = pytest.importorskip("fastdiff.ops.native")
_C = native._C

F32, F64 = torch.float32, torch.float64
DTYPES = [F32, F64, torch.float16, torch.bfloat16]


def products(tensors: Sequence[Tensor | None], basis: Sequence[Sequence[float]]) -> Tensor:
    """Into memory full of NaN."""
    size = len(basis) + 1
    out = torch.full((next(len(t) for t in tensors if t is not None), size, size), math.nan, dtype=F64)
    _C.gram_cpu(torch.tensor(basis, dtype=F64), tensors, out)
    return out


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_small_size_and_those_at_the_borders_of_stretches(isa: str, name: str, dtype: torch.dtype) -> None:
    for n in [*range(1, 70), 511, 512, 513, 1023, 1537, 16383, 16384, 16385, 32800]:
        tensors = draw(len(BASES[name][0]), (2, n), dtype)
        assert_right(products(tensors, BASES[name]), tensors, BASES[name])


def test_vectors_of_any_number_of_terms_in_any_order(isa: str) -> None:
    tensors = draw(6, (3, 701), F32)
    for _ in range(30):
        basis = torch.randn(int(torch.randint(1, 5, ())), 6) * torch.randint(0, 2, (1, 6)) * (torch.rand(6) < 0.6)
        basis[torch.rand_like(basis) < 0.3] = 1
        found, right = products(tensors, basis.tolist()), definition(tensors, basis)
        assert ((found - right).abs() <= 2e-6 * sizes(tensors, basis.tolist()) + 1e-12).all()


def test_results_do_not_depend_on_the_number_of_threads(isa: str, threads: None) -> None:
    tensors = draw(3, (2, 3, 333, 111), F32, torch.bfloat16)
    torch.set_num_threads(1)
    alone = products(tensors, BASES["three"])
    for count in (2, 3, 7, 64):
        torch.set_num_threads(count)
        assert torch.equal(products(tensors, BASES["three"]), alone)


def test_concurrent_calls_do_not_disturb_each_other(threads: None) -> None:
    torch.set_num_threads(3)
    calls = [draw(3, (2, n), F32) for n in (100, 20_000, 70_000, 300_000)]
    alone = [products(tensors, BASES["three"]) for tensors in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda tensors: products(tensors, BASES["three"]), calls)
            assert all(map(torch.equal, found, alone))


def test_layouts_of_one_order_give_the_same_bits(isa: str) -> None:
    """Read in place or through a copy, aligned or not."""
    tensors = draw(3, (3, 4, 40, 41), F32)
    right = products(tensors, BASES["three"])
    apart = [torch.cat([t, t], dim=1)[:, :4] for t in tensors]
    every_other = [t.repeat_interleave(2, -1)[..., ::2] for t in tensors]
    assert torch.equal(products(apart, BASES["three"]), right)
    assert torch.equal(products(every_other, BASES["three"]), right)


def test_more_samples_than_fit_on_the_stack() -> None:
    tensors = draw(3, (1000, 17), F32)
    assert_right(products(tensors, BASES["three"]), tensors, BASES["three"])


def test_tensors_read_by_attributes_are_the_same_tensors() -> None:
    # How an older torch is served, which has no exchange interface.
    tensors = draw(3, (2, 12, 6, 4), F32)
    right = products(tensors, BASES["three"])
    native._bind(use_exchange=False)
    try:
        assert torch.equal(products(tensors, BASES["three"]), right)
    finally:
        native._bind()


X, OUT, BASIS = torch.randn(2, 5), torch.empty(2, 2, 2, dtype=F64), torch.ones(1, 1, dtype=F64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((BASIS, [X]), TypeError, "expected 3 positional arguments, got 2"),
        ((BASIS, X, OUT), TypeError, "tensors: expected a list"),
        ((BASIS, [], OUT), ValueError, "tensors: expected 1 to 6"),
        ((BASIS, [None], OUT), ValueError, "tensors: expected at least one that is not None"),
        ((BASIS, [X.sum()], OUT), ValueError, "tensors: expected a batch dimension"),
        ((BASIS, [X.int()], OUT), TypeError, "tensors: expected float32, float64"),
        ((BASIS, [X, X[:1]], OUT), ValueError, "tensors: of different shapes"),
        ((BASIS.float(), [X], OUT), ValueError, r"basis: expected \[n, k\] float64"),
        ((BASIS, [X, X], OUT), ValueError, r"basis: expected \[n, k\] float64"),
        ((BASIS.expand(5, 1), [X], OUT), ValueError, r"basis: expected \[n, k\] float64"),
        ((BASIS, [X], OUT.float()), ValueError, r"out: expected \[B, n \+ 1, n \+ 1\] float64"),
        ((BASIS, [X], OUT[:1]), ValueError, r"out: expected \[B, n \+ 1, n \+ 1\] float64"),
        ((BASIS, [X], OUT.mT), ValueError, "out: not contiguous"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _C.gram_cpu(*arguments)


@pytest.mark.compiles
@pytest.mark.parametrize("isa_name", SANITIZED)
def test_sanitizers_find_nothing(isa_name: str) -> None:
    passes_under_sanitizers("gram_driver.cpp", isa_name)
