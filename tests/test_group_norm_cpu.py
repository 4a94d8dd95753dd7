"""group_norm of _C on the CPU: every instruction set, both layouts, hard numbers, and what comes with threads.

tests/test_group_norm.py holds every backend to the contract; here is what only this backend can get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import SANITIZED, passes_under_sanitizers
from test_group_norm import MODULATION, TOLERANCE, error, formula, operands
from torch import Tensor

native = pytest.importorskip("fastdiff.ops.native")
_C = native._C

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Channels of real networks in a group, and sizes at the borders of vectors, stretches and slices.
GROUP_CHANNELS = (1, 3, 8, 10, 20, 30, 40, 60, 80)
SIZES = ((1, 1), (3, 5), (16, 17), (96, 91))
EPS = 1e-5


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return lambda x: x.contiguous(memory_format=LAYOUTS[request.param])


def normalise(groups: int, act: str, x: Tensor, weight=None, bias=None, add=None, scale=None, shift=None) -> Tensor:
    """Into memory full of NaN."""
    y = torch.full_like(x, math.nan)
    code = ("none", "silu").index(act)
    assert _C.group_norm_cpu(x, y, groups, weight, bias, EPS, add, scale, shift, code)
    return y


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group_channels", GROUP_CHANNELS)
def test_every_number_of_channels_and_positions(isa: str, layout, group_channels: int, dtype: torch.dtype) -> None:
    for size in SIZES:
        given = operands((2, 2 * group_channels, *size), dtype)
        given["x"] = layout(given["x"])
        if size == (1, 1) and group_channels == 1:  # one element has no variance, and 1/sqrt(eps) magnifies roundings
            given["add"].zero_()
        assert error(normalise(2, "silu", **given), formula(2, "silu", **given)) <= TOLERANCE[dtype], f"size {size}"


def test_a_channel_that_ends_within_a_vector_keeps_to_itself(isa: str, layout) -> None:
    x = layout(torch.randn(1, 6, 1, 37))
    y = normalise(3, "none", x)
    x[0, 2:4] = 1e30
    assert torch.equal(normalise(3, "none", x)[:, [0, 1, 4, 5]], y[:, [0, 1, 4, 5]])


def test_silu_is_good_to_the_last_digits(isa: str) -> None:
    bias = torch.cat([torch.linspace(-87, 30, 40_001), torch.tensor([-104.0, -1e3, -0.0, 0.0, 88.8, 1e30])])
    y = normalise(1, "silu", torch.zeros(1, len(bias), 1), bias=bias).flatten().double()
    right, x = F.silu(bias.double()), bias.double()
    ulps = 2.5 + 0.7 * x.neg().clamp(min=0)  # roundings of log2(e) and x log2(e) cost e^x the more, the larger x
    off = (y - right).abs()
    assert (off <= ulps * 2**-23 * right.abs() + 2e-35).all(), bias[off.argmax()]


@pytest.mark.parametrize("size", [(320, 320), (321, 319)], ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_outputs_too_large_for_the_cache(isa: str, layout, size: tuple[int, int], offset: int) -> None:
    # Written past the caches where rows are whole vectors that lie on vectors' borders, which offset 1 prevents.
    x = layout(torch.randn(1, 32, *size))
    y = torch.full((x.numel() + 16,), math.nan)
    out = y[offset : offset + x.numel()].as_strided(x.shape, x.stride())
    assert _C.group_norm_cpu(x, out, 8, None, None, EPS, None, None, None, 1)
    assert error(out, formula(8, "silu", x, torch.ones(32), torch.zeros(32))) <= TOLERANCE[torch.float32]
    assert y.isnan().sum() == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_written_past_the_cache_are_those_written_through_it(isa: str, layout, dtype: torch.dtype) -> None:
    x = layout(torch.randn(1, 64, 512, 512, dtype=dtype))
    room = torch.full((2, x.numel() + 64), math.nan, dtype=dtype)
    past, through = (room[i, i : i + x.numel()].as_strided(x.shape, x.stride()) for i in range(2))
    for out in (past, through):
        assert _C.group_norm_cpu(x, out, 8, None, None, EPS, None, None, None, 1)
    assert torch.equal(past, through)
    assert room.isnan().sum() == 2 * 64


def test_bfloat16_is_rounded_as_torch_does_but_for_the_tiniest(isa: str, layout) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).float()
    finite = every[every.isfinite()].sort().values
    ties = (finite[1:] + finite[:-1]) / 2
    tiny = torch.tensor([2.0**-126, -(2.0**-126), 1.1e-38, -1e-40, 1e-45])
    values = torch.cat([torch.cat([every, ties, ties.nextafter(ties + 1), ties.nextafter(ties - 1)])[::7], tiny])
    x = layout(torch.zeros(1, len(values), 1, 80, dtype=torch.bfloat16))
    y, right = normalise(1, "none", x, bias=values)[0, :, 0], values.bfloat16()[:, None].expand(-1, 80)
    small = values.abs() < 2**-126
    assert (y[small].double() - values[small, None].double()).abs().max() <= 2**-126
    assert torch.equal(y.isnan(), right.isnan())
    assert torch.equal(y[~small].nan_to_num(9.0), right[~small].nan_to_num(9.0))


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_large_means_cost_nothing_beyond_what_the_input_lost(isa: str, layout, mean: float) -> None:
    x = layout(torch.randn(1, 20, 40, 40) + mean)
    lost = abs(mean) * 2**-24
    assert error(normalise(2, "none", x), formula(2, "none", x, torch.ones(20), torch.zeros(20))) < 1e-6 + lost


def test_a_large_mean_in_add_is_no_mean_of_the_group(isa: str, layout) -> None:
    given = operands((2, 12, 9, 9), torch.float32)
    given["x"], given["add"] = layout(given["x"]), 100 * given["add"]
    assert error(normalise(2, "none", **given), formula(2, "none", **given)) < 1e-5


def test_halves_near_their_largest_number(isa: str, layout) -> None:
    x = layout((65504 * torch.randn(2, 8, 6, 7).sign()).half())
    y = normalise(2, "silu", x)
    assert error(y, formula(2, "silu", x, torch.ones(8), torch.zeros(8))) <= TOLERANCE[torch.float16]


def test_a_constant_gives_the_bias_to_the_bit(isa: str, layout) -> None:
    bias = torch.randn(8)
    y = normalise(2, "none", layout(torch.full((2, 8, 5, 3), 3.1)), bias=bias)
    assert torch.equal(y, bias.view(1, 8, 1, 1).expand_as(y))


def opposed(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and add that vary over the channels of a group, and whose sum is one number in each group, to the bit."""
    x = torch.randint(-200, 200, shape[:2]).to(dtype)
    level = torch.randint(-9, 9, (shape[0], groups)).repeat_interleave(shape[1] // groups, dim=1)
    wide = x.view(*shape[:2], *[1] * (len(shape) - 2)).expand(shape)
    return wide.contiguous(), level - x.float()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_an_embedding_that_cancels_the_channels_gives_the_bias_to_the_bit(
    isa: str, layout, size: tuple[int, int], dtype: torch.dtype
) -> None:
    x, add = opposed((2, 60, *size), 2, dtype)
    bias = torch.randn(60).to(dtype)
    y = normalise(2, "none", layout(x), bias=bias, add=add)
    assert torch.equal(y, bias.view(1, 60, 1, 1).expand_as(y))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mean", [1000.0, -3e6])
def test_an_embedding_on_a_large_constant_keeps_its_digits(
    isa: str, layout, size: tuple[int, int], mean: float
) -> None:
    for spread in (1.0, 3e-3):
        x, add = layout(torch.full((2, 60, *size), mean)), spread * torch.randn(2, 60)
        ones, zeros = torch.ones(60), torch.zeros(60)
        assert error(normalise(2, "none", x, add=add), formula(2, "none", x, ones, zeros, add=add)) <= 2e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_numbers_stay_in_their_group(isa: str, layout, bad: float) -> None:
    x = layout(torch.randn(2, 8, 6, 6))
    good = normalise(2, "silu", x)
    x[1, 5, 2, 3] = bad
    y = normalise(2, "silu", x)
    assert y[1, 4:].isnan().all()
    y[1, 4:] = good[1, 4:]
    assert torch.equal(y, good)


def test_operands_have_dtypes_and_strides_of_their_own(isa: str, layout) -> None:
    given = operands((3, 12, 6, 4), torch.float16)
    given["x"] = layout(given["x"])
    given["weight"], given["bias"] = given["weight"].float(), given["bias"].bfloat16()
    given["add"], given["scale"] = torch.randn(3, 40)[:, 5:29].chunk(2, dim=1)
    given["shift"] = torch.randn(1, 12).half().expand(3, 12)
    assert error(normalise(3, "silu", **given), formula(3, "silu", **given)) <= TOLERANCE[torch.float16]


@pytest.mark.parametrize("name", ["weight", "bias", *MODULATION])
def test_each_operand_may_be_left_out(isa: str, layout, name: str) -> None:
    given = operands((2, 12, 4, 4), torch.float32)
    given["x"] = layout(given["x"])
    del given[name]
    neutral = {"weight": torch.ones(12), "bias": torch.zeros(12)}
    assert error(normalise(3, "none", **given), formula(3, "none", **neutral | given)) <= 2e-6


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(2, 320, 32, 32), (2, 64, 8, 8), (1, 128, 128, 128)], ids=str)
def test_never_much_worse_than_pytorch(isa: str, layout, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = operands(shape, dtype)
    x, weight, bias = layout(given["x"]), given["weight"], given["bias"]
    right = formula(32, "silu", x, weight, bias)
    theirs = error(F.silu(F.group_norm(x, 32, weight, bias)), right)
    assert error(normalise(32, "silu", x, weight, bias), right) <= 1.5 * theirs + 1e-7


def test_results_do_not_depend_on_the_number_of_threads(isa: str, layout, threads: None) -> None:
    for shape in ((1, 64, 100, 100), (3, 40, 33, 31)):
        given = operands(shape, torch.bfloat16)
        given["x"] = layout(given["x"])
        torch.set_num_threads(1)
        alone = normalise(4, "silu", **given)
        for count in (2, 3, 7, 64):
            torch.set_num_threads(count)
            assert torch.equal(normalise(4, "silu", **given), alone)


def test_concurrent_calls_do_not_disturb_each_other(layout, threads: None) -> None:
    torch.set_num_threads(3)
    calls = [layout(torch.randn(2, channels, 50, 50)) for channels in (8, 40, 64, 320)]
    alone = [normalise(4, "silu", x) for x in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(lambda x: normalise(4, "silu", x), calls), alone))


def test_tensors_read_by_attributes_are_the_same_tensors() -> None:
    # How an older torch is served, which has no exchange interface.
    given = operands((2, 12, 6, 4), torch.float16)
    right = normalise(3, "silu", **given)
    native._bind(use_exchange=False)
    try:
        assert torch.equal(normalise(3, "silu", **given), right)
    finally:
        native._bind()


X = torch.randn(2, 8, 4)
REST = (None, None, EPS, None, None, None, 0)


@pytest.mark.parametrize(
    ("arguments", "error_type", "message"),
    [
        ((X, X), TypeError, "expected 10 positional arguments, got 2"),
        ((X[0, 0], X[0, 0], 2, *REST), ValueError, r"x: expected \[B, C, ...\]"),
        ((X.double(), X.double(), 2, *REST), TypeError, "x: expected float32, float16 or bfloat16"),
        ((X, X.half(), 2, *REST), TypeError, "y: not of x's dtype"),
        ((X, X[:1], 2, *REST), ValueError, "y: not of x's shape"),
        ((X, X, 3, *REST), ValueError, "groups: expected a divisor of the channels"),
        ((X, X, 2, torch.ones(7), *REST[1:]), ValueError, r"weight: expected \[C\]"),
        ((X, X, 2, *REST[:3], torch.ones(8), *REST[4:]), ValueError, r"add: expected \[B, C\]"),
        ((X, X, 2, torch.ones(8).int(), *REST[1:]), TypeError, "weight: expected float32, float64, float16"),
        ((X, X, 2, *REST[:-1], 2), ValueError, "act: expected 0 or 1"),
        ((X, [1.0], 2, *REST), TypeError, "expected a torch.Tensor, got list"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, error_type: type[Exception], message: str) -> None:
    with pytest.raises(error_type, match=message):
        _C.group_norm_cpu(*arguments)


def test_a_layout_that_is_neither_is_left_to_the_caller() -> None:
    x = torch.randn(2, 8, 4, 6).transpose(2, 3)
    assert not _C.group_norm_cpu(x, torch.empty_like(x), 2, *REST)


@pytest.mark.compiles
@pytest.mark.parametrize("isa_name", SANITIZED)
def test_sanitizers_find_nothing(isa_name: str) -> None:
    passes_under_sanitizers("group_norm_driver.cpp", isa_name)
