"""token_stats of _C on the CPU: every instruction set, threads, the borders of stretches, poisoned results.

tests/test_token_stats.py holds every backend to the contract; here is what only this backend can get wrong.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from instruction_sets import SANITIZED, passes_under_sanitizers
from test_token_stats import OPTIONS, draw_seeds, equal
from token_rows import Options, assert_right
from torch import Tensor

from fastdiff.ops import TokenStats

native = pytest.importorskip("fastdiff.ops.native")
_C = native._C
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
SIZES = [*range(1, 35), 63, 64, 65, 127, 129, 1023, 1024, 1025, 2047, 3083, 17 * 1024 + 5]


def stats(z: Tensor, seeds: Tensor, options: Options, current: Tensor, index: Tensor | None = None) -> TokenStats:
    """Into memory full of NaN."""
    numbers = torch.full((7, *z.shape[:2]), math.nan)
    tokens = torch.full((2, *z.shape[:2]), -(2**62))
    temperature = torch.full((len(z),), options.temperature, dtype=F64)
    filters = (options.top_k or 0, options.top_p or 1.0, list(options.exclude) or None)
    _C.token_stats_cpu(z, None, current, None, seeds, index, temperature, None, None, *filters, numbers, tokens)
    n = numbers.unbind()
    return TokenStats(*tokens.unbind(), *n)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_every_small_size_and_those_at_the_borders_of_stretches(isa: str, name: str, dtype: torch.dtype) -> None:
    options = OPTIONS[name]
    for size in SIZES:
        if size <= len(options.exclude):
            continue
        z = (3 * torch.randn(1, 2, size)).to(dtype)
        current, seeds = torch.randint(0, size, (1, 2)), draw_seeds(1)
        assert_right(stats(z, seeds, options, current), z, options, current, seeds)


@pytest.mark.parametrize(
    "options", [Options(0.9, top_k=300), Options(top_p=0.999), Options(3.0, top_k=9000, top_p=0.5)]
)
def test_many_candidates_and_equal_logits(isa: str, options: Options) -> None:
    """Of which bfloat16 has many."""
    for spread in (0.02, 0.5, 3.0):
        z = (spread * torch.randn(1, 3, 20_000)).bfloat16()
        current, seeds = torch.zeros(1, 3, dtype=torch.int64), draw_seeds(1)
        assert_right(stats(z, seeds, options, current), z, options, current, seeds)


def test_instruction_sets_draw_the_same_tokens() -> None:
    z, seeds, current = 2 * torch.randn(2, 500, 3000), draw_seeds(2), torch.zeros(2, 500, dtype=torch.int64)
    best, found = _C.build_info()["isa"], []
    for name in _C.usable_isas():
        _C.set_isa(name)
        found.append(stats(z, seeds, Options(0.8), current))
    _C.set_isa(best)
    for other in found[1:]:
        # A number that falls to the border of two tokens, within 10^-8, may fall to either.
        assert (other.sample != found[0].sample).sum() <= 2
        torch.testing.assert_close(other.entropy, found[0].entropy)


def test_results_do_not_depend_on_the_number_of_threads(threads: None) -> None:
    z, seeds, current = 2 * torch.randn(3, 7, 30_011), draw_seeds(3), torch.zeros(3, 7, dtype=torch.int64)
    torch.set_num_threads(1)
    alone = stats(z, seeds, Options(0.8, top_p=0.9), current)
    for count in (2, 3, 7, 64):
        torch.set_num_threads(count)
        assert equal(stats(z, seeds, Options(0.8, top_p=0.9), current), alone)


def test_concurrent_calls_do_not_disturb_each_other(threads: None) -> None:
    torch.set_num_threads(3)
    calls = [(torch.randn(2, 3, n), draw_seeds(2), Options(0.7, top_k=n // 3)) for n in (10, 1000, 5000, 40_000)]
    current = torch.zeros(2, 3, dtype=torch.int64)
    alone = [stats(*call, current) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(equal, pool.map(lambda call: stats(*call, current), calls), alone))


Z, SEEDS, ROWS = torch.randn(2, 3, 5), torch.tensor([1, 2]), torch.zeros(2, 3, dtype=torch.int64)
GIVEN: dict[str, Any] = {
    "logits": Z, "logits_uncond": None, "current": ROWS, "positions": None, "seeds": SEEDS, "index": None,
    "temperature": torch.ones(2, dtype=F64), "guidance": None, "current_shift": None, "top_k": 0, "top_p": 1.0,
    "exclude": None, "numbers": torch.empty(7, 2, 3), "tokens": torch.empty(2, 2, 3, dtype=torch.int64),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"logits": Z.double()}, TypeError, "logits: expected float32, float16 or bfloat16"),
        ({"logits": Z[0]}, ValueError, r"logits: expected \[B, L, V\]"),
        ({"logits": Z.mT.contiguous().mT}, ValueError, "logits: a row's logits are no neighbours"),
        ({"logits_uncond": Z}, ValueError, "guidance: expected beside logits_uncond"),
        ({"logits_uncond": Z[:1]}, ValueError, "logits_uncond: not like logits"),
        ({"current": ROWS.int()}, TypeError, "current: not of the kernel's dtype"),
        ({"current": ROWS.mT.contiguous().mT}, ValueError, "current: not contiguous"),
        ({"seeds": SEEDS[:1]}, ValueError, "seeds: of another shape"),
        ({"seeds": None}, ValueError, "seeds: expected beside temperature"),
        ({"current": None, "current_shift": torch.ones(2, dtype=F64)}, ValueError, "current: expected beside"),
        ({"top_k": -1}, ValueError, "top_k: expected a number >= 0"),
        ({"top_p": 0.0}, ValueError, "top_p: expected a number > 0"),
        ({"exclude": 3}, TypeError, "exclude: expected a list"),
        ({"exclude": [0] * 5}, ValueError, "exclude: expected at most 4"),
        ({"numbers": None}, ValueError, "numbers: expected a tensor"),
        ({"tokens": torch.empty(2, 2, 2, dtype=torch.int64)}, ValueError, "tokens: of another shape"),
    ],
)
def test_bad_arguments_are_named(wrong: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _C.token_stats_cpu(*{**GIVEN, **wrong}.values())


@pytest.mark.compiles
@pytest.mark.parametrize("isa_name", SANITIZED)
def test_sanitizers_find_nothing(isa_name: str) -> None:
    passes_under_sanitizers("token_stats_driver.cpp", isa_name)
