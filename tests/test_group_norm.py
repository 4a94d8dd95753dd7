"""group_norm: one definition, every backend, and the torch.nn face."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import without_elements as empty
from conftest import INTERPRETING
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastdiff as fd
from fastdiff.nn.group_norm import GroupNorm
from fastdiff.ops import group_norm

OP = "group_norm"
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
CASES = [((2, 32, 8, 8), 8), ((1, 320, 5, 7), 32), ((3, 12), 4), ((2, 6, 11), 3), ((1, 8, 3, 4, 5), 1), ((2, 60, 9), 2)]
MODULATION = ("add", "scale", "shift")


def operands(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Random x [B, C, ...], weight and bias [C], add, scale and shift [B, C]."""
    batch, channels = shape[:2]
    shapes = {"x": shape, "weight": (channels,), "bias": (channels,)} | dict.fromkeys(MODULATION, (batch, channels))
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def formula(groups: int, act: str, x: Tensor, weight: Tensor, bias: Tensor, **modulation: Tensor) -> Tensor:
    """act(GN(x + add) * (1 + scale) + shift) in float64."""
    wide = (*x.shape[:2], *[1] * (x.ndim - 2))
    add, scale, shift = (modulation[n].double().view(wide) if n in modulation else 0.0 for n in MODULATION)
    # PyTorch's own loses half the digits of a large mean in channels_last, in float64 too.
    h = (x.double() + add).contiguous()
    y = F.group_norm(h, groups, weight.double(), bias.double()) * (1 + scale) + shift
    return F.silu(y) if act == "silu" else y


def error(y: Tensor, expected: Tensor) -> float:
    return ((y.double() - expected).abs().max() / expected.abs().max()).item()


DTYPES = [dtype for dtype in TOLERANCE if not (INTERPRETING and dtype == torch.bfloat16)]  # broken in the interpreter


# In the interpreter each shape meets both dtypes and both activations, and these meet each other.
FORMULAS = [
    (*case, dtype, act)
    for (i, case), (j, dtype), (k, act) in itertools.product(*map(enumerate, (CASES, DTYPES, ("none", "silu"))))
    if not INTERPRETING or (i + j + k) % 2 == 0
]


@pytest.mark.parametrize(("shape", "groups", "dtype", "act"), FORMULAS, ids=str)
def test_equals_the_formula(
    backend: str, device: str, shape: tuple[int, ...], groups: int, dtype: torch.dtype, act: str
) -> None:
    given = operands(shape, dtype)
    with fd.backend(backend):
        y = group_norm(groups=groups, act=act, **{name: t.to(device) for name, t in given.items()}).cpu()
    # The torch backend is a chain of ops, each of which rounds to the storage type.
    chain = 3 if backend == "torch" else 1
    assert y.dtype == dtype
    assert error(y, formula(groups, act, **given)) <= chain * TOLERANCE[dtype]


@pytest.mark.parametrize("backend_name", ["reference", "torch", "auto"])
def test_float64_stays_float64(backend_name: str) -> None:
    given = operands((2, 6, 11), torch.float64)
    with fd.backend(backend_name):
        y = group_norm(groups=3, act="silu", **given)
    assert error(y, formula(3, "silu", **given)) <= 1e-13


def test_each_operand_may_be_left_out() -> None:
    given = operands((2, 8, 5), torch.float64)
    ones, zeros = torch.ones(8), torch.zeros(8)
    assert error(group_norm(given["x"], 4), formula(4, "none", given["x"], ones, zeros)) < 1e-13
    for name in MODULATION:
        y = group_norm(given["x"], 4, **{name: given[name]})
        assert error(y, formula(4, "none", given["x"], ones, zeros, **{name: given[name]})) < 1e-13


def test_large_means_keep_the_digits_of_the_variance() -> None:
    x = torch.randn(2, 32, 64, 64) + 1000
    y = group_norm(x, 8)
    assert error(y, formula(8, "none", x, torch.ones(32), torch.zeros(32))) < 1e-4  # x itself holds 6e-5 of its spread


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_constant_input_has_no_variance_and_gives_the_bias(backend: str, device: str, layout: str) -> None:
    pytorchs = backend == "torch" and layout == "contiguous"  # whose kernel computes a x + b with a large b
    for number in (3.0,) if pytorchs else (3.0, 1000.123, -5e6):
        x, weight, bias = torch.full((2, 8, 5, 4), number), torch.randn(8), torch.randn(8)
        with fd.backend(backend):
            x = x.contiguous(memory_format=LAYOUTS[layout])
            y = group_norm(x.to(device), 2, weight.to(device), bias.to(device)).cpu()
        right = bias.view(1, 8, 1, 1).expand_as(x)
        torch.testing.assert_close(y, right, atol=5e-4 if pytorchs else 1e-6, rtol=0)


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("layout", "mean"),
    [("contiguous", 5e4), ("channels_last", 3.1)]
    if INTERPRETING
    else list(itertools.product(LAYOUTS, [0.0, 3.1, -1000.123, 5e4])),
)
@pytest.mark.parametrize("size", [65] if INTERPRETING else [4, 65])
def test_a_constant_and_an_embedding_make_groups_that_are_constant(
    backend: str, device: str, size: int, mean: float, layout: str, dtype: torch.dtype
) -> None:
    """x + add is one number in each group, to the bit, so nothing but the bias is left."""
    bias, wide = torch.randn(16), (2, 16, size, 5)
    room = 2e-5 if INTERPRETING else 2e-6  # where a sum adds rows one after another
    level = torch.full((2, 16), mean).to(dtype)
    # x varies over a group's channels as add does, the other way; both are multiples of 2^-8, so that sums are exact.
    turned = (level.float().mul(256).round() / 256 - 7 * torch.randint(-3, 4, (2, 16))).to(dtype)
    cases = {16: (level, torch.randn(2, 16)), 4: (turned, 7 - turned.float())}
    for groups, (x, add) in cases.items():
        x = x[:, :, None, None].expand(wide).contiguous(memory_format=LAYOUTS[layout])
        with fd.backend(backend):
            y = group_norm(x.to(device), groups, bias=bias.to(device), add=add.to(device)).cpu()
        exact = bias.to(dtype).view(1, 16, 1, 1).expand(wide)
        torch.testing.assert_close(y, exact, atol=room, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spread", [1.0, 1e-5] if INTERPRETING else [1.0, 3e-3, 1e-5])
def test_a_constant_and_an_embedding_that_varies_in_the_group_give_the_embedding_normalised(
    backend: str, device: str, spread: float, layout: str, dtype: torch.dtype
) -> None:
    """However small it is beside the constant, which x + add in x's dtype would swallow it in."""
    given = operands((2, 16, 6, 5), dtype)
    for mean in (1000.0, -50000.0):
        given["x"] = torch.full_like(given["x"], mean).contiguous(memory_format=LAYOUTS[layout])
        given["add"] = spread * torch.randn(2, 16)
        with fd.backend(backend):
            y = group_norm(groups=4, **{name: t.to(device) for name, t in given.items()}).cpu()
        assert error(y, formula(4, "none", **given)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("again", [0.0, 1.0, -1.0])
def test_large_means_that_the_embedding_doubles_or_cancels_cost_nothing(
    backend: str, device: str, layout: str, again: float
) -> None:
    given = operands((2, 16, 7, 9), torch.float32)
    means = 10.0 ** torch.randint(0, 6, (2, 16)) * torch.randn(2, 16)
    given["x"] = (given["x"] + means[:, :, None, None]).contiguous(memory_format=LAYOUTS[layout])
    given["add"] = again * means + torch.randn(2, 16)
    with fd.backend(backend):
        y = group_norm(groups=4, **{name: t.to(device) for name, t in given.items()}).cpu()
    assert error(y, formula(4, "none", **given)) <= 3e-6


@pytest.mark.parametrize("backend_name", ["reference", "torch"])
def test_channels_last_stays_channels_last(backend_name: str) -> None:
    x = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last)
    with fd.backend(backend_name):
        y = group_norm(x, 4, act="silu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, group_norm(x.contiguous(), 4, act="silu"))


@empty.few
@given(data=st.data())
def test_without_elements_any_strides_give_an_empty_result(backend: str, device: str, data: st.DataObject) -> None:
    shape = data.draw(st.integers(2, 5).flatmap(empty.shapes))
    dtype = data.draw(empty.served(OP, backend, device, shape))
    groups = math.gcd(shape[1], data.draw(st.integers(1, 3)))
    sizes = {"x": shape, "weight": shape[1:2], "bias": shape[1:2]} | dict.fromkeys(MODULATION, shape[:2])
    given_ = {name: data.draw(empty.strided(size, dtype)).to(device) for name, size in sizes.items()}
    given_ = {name: t for name, t in given_.items() if name == "x" or data.draw(st.booleans())}
    with fd.backend(backend):
        y = group_norm(groups=max(groups, 1), act=data.draw(st.sampled_from(["none", "silu"])), **given_)
    empty.check(y, shape, dtype, list(given_.values()))


def test_gradients_of_all_operands_are_right() -> None:
    given = [t.requires_grad_() for t in operands((2, 6, 3), torch.float64).values()]

    def call(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return group_norm(x, 3, weight, bias, add=add, scale=scale, shift=shift, act="silu")

    assert torch.autograd.gradcheck(call, given)


def test_the_op_is_registered_soundly_and_compiles_whole() -> None:
    x, weight = torch.randn(2, 8, 4, 4, requires_grad=True), torch.randn(8, requires_grad=True)
    arguments = (x, 4, weight, None, 1e-5, torch.randn(2, 8), None, None, "silu")
    torch.library.opcheck(torch.ops.fastdiff.group_norm, arguments)
    compiled = torch.compile(lambda x: group_norm(x, 4, weight, act="silu"), fullgraph=True)
    torch.testing.assert_close(compiled(x), group_norm(x, 4, weight, act="silu"))


def test_the_module_is_a_drop_in_with_an_activation() -> None:
    ours, theirs = GroupNorm(4, 8, activation="silu"), torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    x, scale = torch.randn(2, 8, 5, 5), torch.randn(2, 8)
    torch.testing.assert_close(ours(x), F.silu(theirs(x)))
    torch.testing.assert_close(ours(x, scale=scale), F.silu(theirs(x) * (1 + scale.view(2, 8, 1, 1))))
    assert isinstance(ours, torch.nn.GroupNorm)
    with pytest.raises(ValueError, match="activation: expected None or 'silu', got 'gelu'"):
        GroupNorm(4, 8, activation="gelu")


X = torch.randn(2, 8, 4)


@pytest.mark.parametrize(
    ("arguments", "named", "error_type", "message"),
    [
        (([1.0], 2), {}, TypeError, "x: expected a torch.Tensor, got list"),
        ((X.int(), 2), {}, TypeError, "x: expected float32.* got torch.int32"),
        ((X[0, 0], 1), {}, ValueError, r"x: expected \[B, C, ...\]"),
        ((X, 3), {}, ValueError, "groups: expected a divisor of the 8 channels, got 3"),
        ((X, 2, torch.ones(7)), {}, ValueError, r"weight: expected shape \(8,\), got \(7,\)"),
        ((X, 2), {"scale": torch.ones(8)}, ValueError, r"scale: expected shape \(2, 8\), got \(8,\)"),
        ((X, 2), {"act": "gelu"}, ValueError, "act: expected one of none, silu, got 'gelu'"),
        ((X, 2), {"eps": -1.0}, ValueError, "eps: expected a number >= 0"),
        ((X, 2), {"shift": torch.ones(2, 8, device="meta")}, ValueError, "shift: expected device cpu, got meta"),
    ],
)
def test_bad_input_names_the_argument(arguments: tuple, named: dict, error_type: type, message: str) -> None:
    with pytest.raises(error_type, match=message):
        group_norm(*arguments, **named)
