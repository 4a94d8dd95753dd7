"""attention of _C on the CPU: every instruction set, head size, number of keys, and what comes with threads.

tests/test_attention.py holds every backend to the contract; here is what only this backend can get wrong.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from instruction_sets import SANITIZED, passes_under_sanitizers
from test_attention import TOLERANCE, error, formula, operands
from torch import Tensor

native = pytest.importorskip("fastdiff.ops.native")
_C = native._C

SIZES = (1, 7, 8, 24, 40, 64, 72, 80, 96, 128, 160, 200, 256, 512)
KEYS = (1, 5, 77, 128, 129, 300)
LANES = {"portable": 4, "avx2": 8, "avx512": 16, "avx512_bf16": 16}


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Into memory full of NaN, with a margin behind every row that must stay as it is."""
    batch, heads, queries, size = q.shape
    room = torch.full((batch, heads, queries, size + 3), math.nan, dtype=q.dtype)
    _C.attention_cpu(q, k, v, room[..., :size], scale)
    assert room[..., size:].isnan().all()
    return room[..., :size]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_head_size_and_number_of_keys(isa: str, size: int, dtype: torch.dtype) -> None:
    for keys in KEYS:
        q, k, v = operands((1, 2, 70, keys, size), dtype)
        assert error(attend(q, k, v, size**-0.5), formula(q, k, v, size**-0.5)) <= TOLERANCE[dtype], f"{keys} keys"


def test_every_number_of_queries(isa: str) -> None:
    q, k, v = operands((1, 2, 300, 77, 8), torch.float32)
    right = formula(q, k, v, 0.3)
    for count in [*range(1, 2 * 4 * LANES[isa] + 2), 255, 256, 257, 300]:
        y = attend(q[:, :, :count], k, v, 0.3)
        assert error(y, right[:, :, :count]) < 5e-6, f"{count} queries"


def test_a_query_does_not_depend_on_its_neighbours(isa: str) -> None:
    q, k, v = operands((2, 3, 150, 300, 40), torch.float32)
    together = attend(q, k, v, 0.2)
    for first, last in ((0, 1), (17, 90), (149, 150)):
        assert torch.equal(attend(q[:, :, first:last], k, v, 0.2), together[:, :, first:last])
    assert torch.equal(attend(q[1:, 2:], k[1:, 2:], v[1:, 2:], 0.2), together[1:, 2:])


def test_logits_of_ten_thousand_lose_nothing_to_the_scale(isa: str) -> None:
    q, k = (torch.randint(-24, 25, (1, 2, 40, 40)).float() for _ in range(2))  # so that logits are exact
    scale = 2.0 ** torch.tensor(1e4 / (q @ k.mT).abs().max().item()).log2().floor().item()
    v = torch.randn(1, 2, 40, 40)
    rounding = 2e-3 if isa == "portable" else 0  # of 10^4 in float, where a product is not fused with its sum
    assert error(attend(q, k, v, scale), formula(q, k, v, scale)) < 5e-6 + rounding


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("size", "scale"), [(5e4, 40**-0.5), (5e4, -3.0), (1.0, 1e38), (1.0, 1e300), (1e-3, 1e-300)])
def test_no_finite_logit_is_too_large(isa: str, size: float, scale: float, dtype: torch.dtype) -> None:
    for keys in (5, 300):
        q = (torch.randint(1, 3, (1, 2, 70, 40)) * size / 2).to(dtype)
        k = q[:, :, :1].expand(1, 2, keys, 40).clone()
        k[:, :, 3] *= -1
        v = torch.randn(1, 2, keys, 40).to(dtype)
        assert error(attend(q, k, v, scale), formula(q, k, v, scale)) <= TOLERANCE[dtype]


def test_a_row_without_a_finite_logit_is_nan(isa: str) -> None:
    q, k, v = torch.ones(1, 1, 5, 8), torch.full((1, 1, 300, 8), -math.inf), torch.randn(1, 1, 300, 8)
    assert attend(q, k, v, 1.0).isnan().all()


def test_infinity_and_nan_in_every_block(isa: str) -> None:
    q, k, v = operands((1, 1, 9, 300, 8), torch.float32)
    q[..., 0] = 1
    for key, bad in product((0, 127, 128, 299), (math.inf, -math.inf, math.nan)):
        bad_k = k.clone()
        bad_k[:, :, key, 0] = bad
        right, y = formula(q, bad_k, v, 0.3), attend(q, bad_k, v, 0.3)
        assert torch.equal(y.isnan(), right.isnan()), f"key {key} is {bad}"
        assert right.isnan().all() or error(y, right) < 5e-6


@pytest.mark.parametrize("case", [(2, 3, 300, 77, 40), (1, 2, 700, 700, 64), (4, 8, 64, 64, 160)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(isa: str, threads: None, case: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = operands(case, dtype)
        torch.set_num_threads(1)
        alone = attend(q, k, v, 0.2)
        for count in (2, 3, 7, 64):
            torch.set_num_threads(count)
            assert torch.equal(attend(q, k, v, 0.2), alone)


def test_concurrent_calls_do_not_disturb_each_other(threads: None) -> None:
    torch.set_num_threads(3)
    calls = [operands((2, 4, 300, 300, size), torch.bfloat16) for size in (40, 64, 160, 24)]
    alone = [attend(*call, 0.2) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda call: attend(*call, 0.2), calls)
            assert all(map(torch.equal, found, alone))


def test_tensors_read_by_attributes_are_the_same_tensors() -> None:
    # How an older torch is served, which has no exchange interface.
    q, k, v = (t.transpose(1, 2) for t in operands((2, 3, 70, 70, 40), torch.float16))
    right = attend(q, k, v, 0.2)
    native._bind(use_exchange=False)
    try:
        assert torch.equal(attend(q, k, v, 0.2), right)
    finally:
        native._bind()


Q = torch.randn(1, 2, 3, 8)


@pytest.mark.parametrize(
    ("arguments", "error_type", "message"),
    [
        ((Q, Q, Q, Q), TypeError, "expected 5 positional arguments, got 4"),
        ((Q[0], Q, Q, Q, 1.0), ValueError, r"q: expected \[B, H, N, D\]"),
        ((Q.double(), Q, Q, Q, 1.0), TypeError, "q: expected float32, float16 or bfloat16"),
        ((Q, Q.half(), Q, Q, 1.0), TypeError, "k: not of q's dtype"),
        ((Q, Q[:, :, :0], Q, Q, 1.0), ValueError, "k: expected at least one key"),
        ((Q, Q, Q[:, :1], Q, 1.0), ValueError, "v: not of q's or k's shape"),
        ((Q, Q, Q, Q[:, :, :2], 1.0), ValueError, "out: not of q's or k's shape"),
        ((Q, Q, Q.mT.contiguous().mT, Q, 1.0), ValueError, "v: expected neighbouring elements along D"),
        ((Q, Q, Q, [1.0], 1.0), TypeError, "expected a torch.Tensor, got list"),
        ((Q, Q, Q, Q, "one"), TypeError, "must be real number"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, error_type: type[Exception], message: str) -> None:
    with pytest.raises(error_type, match=message):
        _C.attention_cpu(*arguments)


@pytest.mark.compiles
@pytest.mark.parametrize("isa_name", SANITIZED)
def test_sanitizers_find_nothing(isa_name: str) -> None:
    passes_under_sanitizers("attention_driver.cpp", isa_name)
