"""attention: one definition, every backend, any strides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import without_elements as empty
from conftest import INTERPRETING
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

import fastdiff as fd
from fastdiff.ops import attention, registry, torch_ops
from fastdiff.ops import auto_choice as preference

OP = "attention"
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = [dtype for dtype in TOLERANCE if not (INTERPRETING and dtype == torch.bfloat16)]  # broken in the interpreter
# batch, heads, queries, keys, head size
CASES = [
    (2, 3, 64, 64, 40), (1, 3, 17, 77, 72), (2, 1, 1, 1, 8), (1, 2, 33, 300, 7), (1, 4, 129, 5, 160), (1, 2, 65, 77, 1),
    (1, 2, 16, 128, 24), (1, 1, 70, 129, 64), (1, 2, 31, 77, 80), (2, 1, 40, 96, 96), (1, 1, 48, 130, 128),
    (1, 1, 19, 77, 200), (1, 1, 33, 65, 256),
]  # fmt: skip


def operands(case: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, queries, keys, size = case
    shapes = [(batch, heads, n, size) for n in (queries, keys, keys)]
    q, k, v = (torch.randn(shape).to(dtype) for shape in shapes)
    return q, k, v


def formula(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q.double() @ k.double().mT * scale, dim=-1) @ v.double()


def error(y: Tensor, expected: Tensor) -> float:
    return ((y.double() - expected).abs().max() / expected.abs().max()).item()


def deviation(y: Tensor, expected: Tensor) -> float:
    return (y.double() - expected).square().mean().sqrt().item()


def attend(backend: str, device: str, q: Tensor, k: Tensor, v: Tensor, **options: float) -> Tensor:
    with fd.backend(backend):
        return attention(q.to(device), k.to(device), v.to(device), **options).cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_formula(backend: str, device: str, case: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = operands(case, dtype)
    y = attend(backend, device, q, k, v)
    assert y.dtype == dtype
    assert error(y, formula(q, k, v, case[-1] ** -0.5)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("scale", [0.5, 0.0, -0.25])
def test_the_scale_may_be_any_number(backend: str, device: str, scale: float) -> None:
    q, k, v = operands((1, 2, 33, 77, 40), torch.float32)
    assert error(attend(backend, device, q, k, v, scale=scale), formula(q, k, v, scale)) <= 5e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [(1, 2, 64, 77, 40), (1, 1, 48, 300, 80), (1, 1, 32, 130, 256)], ids=str)
def test_is_as_accurate_as_pytorch(backend: str, device: str, case: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = operands(case, dtype)
    right = formula(q, k, v, case[-1] ** -0.5)
    theirs = F.scaled_dot_product_attention(q.to(device), k.to(device), v.to(device)).cpu()
    assert deviation(attend(backend, device, q, k, v), right) <= 1.5 * deviation(theirs, right)


@pytest.mark.parametrize("name", ["auto", "reference", "torch"])
def test_float64_is_computed_in_float64(name: str) -> None:
    q, k, v = operands((1, 2, 17, 77, 40), torch.float64)
    assert error(attend(name, "cpu", q, k, v), formula(q, k, v, 40**-0.5)) < 1e-13


def test_transposed_heads_are_taken_as_they_are_and_come_back_so(backend: str, device: str) -> None:
    q, k, v = (torch.randn(2, 19, 3, 16, device=device).transpose(1, 2) for _ in range(3))
    with fd.backend(backend):
        y = attention(q, k, v)
    assert y.stride() == q.stride()
    assert error(y.cpu(), formula(q.cpu(), k.cpu(), v.cpu(), 0.25)) < 5e-6


def test_any_strides_are_taken(backend: str, device: str) -> None:
    packed = torch.randn(2, 19, 3, 4, 24, device=device)  # [B, N, qkv, H, D], one projection
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    shared = k[:1, :1].expand(2, 4, 19, 24)
    turned = torch.randn(2, 4, 24, 19, device=device).transpose(2, 3)
    for keys, values in ((k, v), (shared, v), (turned, v), (k, turned), (k[:, :, 3:], v[:, :, 3:])):
        for queries in (q, turned, q[:, :, ::2]):
            y = attend(backend, device, queries, keys, values)
            assert error(y, formula(queries.cpu(), keys.cpu(), values.cpu(), 24**-0.5)) < 5e-6


def test_logits_of_ten_thousand_lose_no_more_than_their_rounding(backend: str, device: str) -> None:
    q, k = (torch.randint(-24, 25, (1, 2, 40, 40)).float() for _ in range(2))  # so that logits are whole numbers
    k[:, :, 1] = k[:, :, 0]  # the largest weight is not always 1
    v = torch.randn(1, 2, 40, 40)
    logits = q @ k.mT
    scale = 1e4 / logits.abs().max().item()
    assert error(attend(backend, device, q, k, v, scale=scale), formula(q, k, v, scale)) < 2e-3
    for sign in (-1, 1):  # all logits near 10^4, or near -10^4
        far = torch.full_like(q, 16.0) + torch.randint(0, 2, q.shape)
        y = attend(backend, device, far, sign * far, v, scale=1.0)
        assert error(y, formula(far, sign * far, v, 1.0)) < 5e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "scale"), [(2**12, None), (2**12, -0.3), (1, 1e30), (1, -1e30), (1, 1e-30)])
def test_no_finite_logit_is_too_large(
    backend: str, device: str, size: int, scale: float | None, dtype: torch.dtype
) -> None:
    for keys in (77, 300):  # in one piece, and in several
        q, k = (size * torch.randint(-8, 9, (1, 1, n, 40)).to(dtype) for n in (33, keys))  # so that logits are exact
        k[:, :, keys // 2 :: 7] = k[:, :, : keys - keys // 2 : 7]  # the largest logit comes several times
        v = torch.randn(1, 1, keys, 40).to(dtype)
        named = {} if scale is None else {"scale": scale}
        right = formula(q, k, v, 40**-0.5 if scale is None else scale)
        assert error(attend(backend, device, q, k, v, **named), right) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_that_are_equally_large_average_the_values(backend: str, device: str, dtype: torch.dtype) -> None:
    for number, sign in itertools.product((2.0**15, 2.0**60), (-1, 1)):  # whose products have exact sums
        if number > torch.finfo(dtype).max:
            continue
        q, v = torch.full((1, 1, 17, 40), number).to(dtype), torch.randn(1, 1, 300, 40).to(dtype)
        k = sign * q[:, :, :1].expand_as(v)
        average = v.double().mean(2, keepdim=True).expand(1, 1, 17, 40)
        assert error(attend(backend, device, q, k, v), average) <= TOLERANCE[dtype]


def test_equal_keys_average_the_values(backend: str, device: str) -> None:
    q, k, v = torch.randn(1, 2, 9, 8), torch.ones(1, 2, 300, 8), torch.randn(1, 2, 300, 8)
    average = v.double().mean(2, keepdim=True).expand(1, 2, 9, 8)
    assert (attend(backend, device, q, k, v) - average).abs().max() < 1e-6


def test_one_key_gives_its_value(backend: str, device: str) -> None:
    q, k, v = operands((2, 2, 9, 1, 40), torch.float32)
    assert error(attend(backend, device, q, k, v), v.double().expand(2, 2, 9, 40)) < 3e-7


@empty.few
@given(data=st.data())
def test_without_elements_any_strides_give_an_empty_result(backend: str, device: str, data: st.DataObject) -> None:
    shape, keys = data.draw(empty.shapes(4)), data.draw(st.integers(0, 3))
    dtype = data.draw(empty.served(OP, backend, device, (*shape[:3], keys, shape[3])))
    q = data.draw(empty.strided(shape, dtype)).to(device)
    k, v = (data.draw(empty.strided((*shape[:2], keys, shape[3]), dtype)).to(device) for _ in range(2))
    with fd.backend(backend):
        y = attention(q, k, v, scale=data.draw(st.sampled_from([None, 0.0, -0.5])))
    empty.check(y, shape, dtype, [q, k, v])


def test_infinity_and_nan_go_where_the_formula_sends_them(backend: str, device: str) -> None:
    inf, nan = float("inf"), float("nan")
    q, k, v = operands((1, 1, 9, 300, 8), torch.float32)
    q[..., 0] = 1
    for keys in ([3], [200], [3, 200], list(range(150)), list(range(299))):
        for bad in (inf, -inf, nan):  # logits of the bad keys are bad
            bad_k = k.clone()
            bad_k[:, :, keys, 0] = bad
            right = formula(q, bad_k, v, 0.3)
            y = attend(backend, device, q, bad_k, v, scale=0.3)
            assert torch.equal(y.isnan(), right.isnan()), f"keys {keys[:3]} are {bad}"
            assert right.isnan().all() or error(y, right) < 5e-6
    v[:, :, 250, 5] = nan
    assert attend(backend, device, q, k, v).isnan().nonzero()[:, 3].unique().tolist() == [5]


def test_gradients_are_right() -> None:
    q, k, v = (t.requires_grad_() for t in operands((1, 2, 3, 4, 5), torch.float64))
    assert torch.autograd.gradcheck(attention, (q, k, v))
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, scale=-0.7), (q, k.mT.contiguous().mT, v))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any op returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]
        self.elements = max(self.elements, *(t.numel() for t in tensors), 0)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_memory_is_linear_in_the_sequence(dtype: torch.dtype) -> None:
    n, size = 2048, 8
    q, k, v = (torch.randn(1, 1, n, size, dtype=dtype).requires_grad_() for _ in range(3))
    turned = torch.randn(1, 1, size, n, dtype=dtype).requires_grad_()
    with Largest() as largest:
        attention(q, k, v).sum().backward()
        attention(turned.mT, k, turned.mT).sum().backward()
    assert 0 < largest.elements <= 4 * n * size


def test_the_head_of_an_autoencoder_is_served() -> None:
    q, k, v = operands((1, 1, 33, 140, 512), torch.float32)
    assert error(attention(q, k, v), formula(q, k, v, 512**-0.5)) < 5e-6


def test_a_kernel_that_cannot_serve_the_head_size_says_so() -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    case = registry.CallSpec("cuda", torch.float16, (1, 1, 64, 64, 257))
    assert native._refuse_large_heads(case) == "serves head sizes up to 256, not 257"
    q, k, v = operands((1, 1, 9, 11, 8), torch.float64)
    with fd.backend("cpu"), pytest.raises(RuntimeError, match=r"cpu: serves float32, float16 and bfloat16"):
        attention(q, k, v)


def test_the_op_is_registered_soundly_and_compiles_whole() -> None:
    q, k, v = (t.requires_grad_() for t in operands((1, 2, 3, 4, 8), torch.float32))
    torch.library.opcheck(torch.ops.fastdiff.attention, (q, k, v, 0.3))
    torch.testing.assert_close(
        torch.compile(attention, fullgraph=True, backend="aot_eager")(q, k, v), attention(q, k, v)
    )


def test_the_layout_promised_to_the_compiler_is_the_layout_given(backend: str, device: str) -> None:
    for q in (torch.randn(2, 3, 5, 8), torch.randn(2, 5, 3, 8).transpose(1, 2), torch.randn(2, 3, 8, 5).mT):
        with fd.backend(backend):
            y = attention(q.to(device), q.to(device), q.to(device))
        assert y.stride() == torch.empty_like(q).stride()


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


def chosen(device: str, dtype: torch.dtype, *shape: int) -> str:
    run = registry.choose("attention", registry.CallSpec(device, dtype, shape))
    return next(name for name in registry.BACKENDS if getattr(registry._load("attention", name), "run", None) is run)


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    registry._choose.cache_clear()
    yield
    registry._choose.cache_clear()


def test_the_automatic_choice_on_cpu_is_the_measured_one(fresh_choice: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastdiff.ops.native")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert chosen("cpu", torch.float32, 2, 8, 4096, 77, 40) == "cpu"
    assert chosen("cpu", torch.float32, 1, 1, 4096, 4096, 512) == "cpu"
    assert chosen("cpu", torch.float64, 2, 8, 4096, 77, 40) == "torch"
    assert chosen("cpu", torch.float32, 2, 8, 1, 4096, 64) == "torch"  # one query
    assert chosen("cpu", torch.bfloat16, 2, 8, 4096, 77, 40) == "torch"  # matrix tiles
    registry._choose.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert chosen("cpu", torch.bfloat16, 2, 8, 4096, 77, 40) == "cpu"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert chosen("cpu", torch.float32, 2, 8, 4096, 77, 80) == "torch"


def test_a_measurement_on_cuda_counts_for_its_device_head_size_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = preference.Measured((9, 0), (40,), range(1, 129), ("triton",))
    monkeypatch.setattr(preference, "_ATTENTION_ON_CUDA", (measured,))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

    def backends(dtype: torch.dtype, keys: int, size: int) -> tuple[str, ...]:
        return preference.preferred("attention", registry.CallSpec("cuda", dtype, (2, 8, 4096, keys, size)))

    assert backends(torch.bfloat16, 77, 40) == ("triton",)
    for other in ((torch.bfloat16, 129, 40), (torch.bfloat16, 77, 64), (torch.float32, 77, 40)):
        assert backends(*other) == ()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert backends(torch.bfloat16, 77, 40) == ()


def test_odd_head_sizes_are_filled_up_for_the_kernels_of_pytorch_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_ops, "_is_hopper", lambda device: False)
    q, k, v = operands((1, 2, 9, 11, 7), torch.float32)
    y = torch_ops._in_eights(q, k, v, 0.3)
    assert y.shape == q.shape
    assert error(y, formula(q, k, v, 0.3)) < 5e-6


def test_cudnn_comes_first_on_hopper_and_only_for_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    order, seen = torch._C._get_sdp_priority_order, []
    before, q = order(), torch.randn(1, 2, 9, 8)
    monkeypatch.setattr(torch_ops, "_is_hopper", lambda device: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *_, **options: seen.append(order()))
    torch_ops._cudnn_first(q, q, q, 0.3)
    assert seen[0][0] == int(SDPBackend.CUDNN_ATTENTION)
    assert sorted(seen[0]) == sorted(before)
    assert order() == before
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *_, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        torch_ops._cudnn_first(q, q, q, 0.3)
    assert order() == before
