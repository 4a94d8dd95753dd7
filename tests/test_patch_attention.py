"""Attention that a class asks for in code of its own; masks that leave keys out; subclasses of torch.nn's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from patch_models import close
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import fastdiff as fd
from fastdiff.patch import attention_functions as functions
from fastdiff.patch import attention_masks, norms

FACTOR = 1.0


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(16, 48)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(FACTOR * t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, dim=-1))


class ByModule(Base):
    def forward(self, x: Tensor, *, scale: float = 0.3) -> Tensor:
        return F.silu(F.scaled_dot_product_attention(*self.heads(x), scale=scale))


class ByPath(Base):
    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.tanh(t) for t in super().heads(x))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*self.heads(x))


class ByName(Base):
    def forward(self, x: Tensor) -> Tensor:
        return sum(scaled_dot_product_attention(q, k, v) for q, k, v in [self.heads(x)] * 2)


class Dispatched(Base):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in self.heads(x))
        return dispatch_attention_fn(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)


class Inherited(ByModule):
    pass


class Another(Base):
    """Its `F` is a parameter's name, too."""

    def forward(self, x: Tensor) -> Tensor:
        self.F = 2.0
        return self.F * F.scaled_dot_product_attention(*self.heads(x))


@pytest.fixture
def called(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of keys that fastdiff's op was called with, which here serves every call."""
    found: list[tuple[int, ...]] = []
    for module in (functions, attention_masks):

        def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, op=module.attention) -> Tensor:
            found.append(tuple(k.shape))
            return op(q, k, v, scale=scale)

        monkeypatch.setattr(module, "attention", attend)
    with fd.backend("reference"):
        yield found


@torch.no_grad()
@pytest.mark.parametrize("cls", [ByModule, ByPath, ByName, Dispatched, Inherited], ids=lambda cls: cls.__name__)
def test_a_class_keeps_its_code_but_for_the_attention_it_calls(called, cls):
    module, x = cls().double(), torch.randn(3, 5, 16, dtype=torch.float64)
    expected = module(x)
    handle = fd.accelerate(module)
    assert handle.changes == {f"attention in {cls.__name__}": 1}
    for each in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        called.clear()
        close(each(x), expected, tolerance=1e-12)
        assert len(called) == (2 if cls is ByName else 1)
    handle.undo()
    called.clear()
    assert type(module) is cls
    assert torch.equal(module(x), expected)
    assert not called


@torch.no_grad()
def test_its_globals_are_those_of_its_own_module_at_the_call(called, monkeypatch):
    module, x = ByModule(), torch.randn(2, 5, 16)
    fd.accelerate(module)
    before = module(x)
    monkeypatch.setitem(globals(), "FACTOR", 0.0)
    assert module(x).abs().sum() == 0
    assert before.abs().sum() > 0
    assert len(called) == 2


def test_a_class_whose_code_would_change_its_meaning_is_left(called):
    module = Another()
    handle = fd.accelerate(module)
    assert not handle.changes
    module(torch.randn(2, 5, 16))
    assert not called


@torch.no_grad()
def test_an_attention_that_the_program_has_put_in_pytorchs_place_is_the_one_called(called, monkeypatch):
    module, x = ByModule(), torch.randn(2, 5, 16)
    fd.accelerate(module)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *_, **__: torch.zeros_like(q))
    assert module(x).abs().sum() == 0
    assert not called


def heads(queries: int = 6, keys: int = 7, shared: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(3, 4, queries, 8, dtype=torch.float64)
    return q, *torch.randn(2, 3, 4 // shared, keys, 8, dtype=torch.float64)


KEPT = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0]]).bool()
ALIKE = KEPT[1:2].expand(3, -1)


def additive(kept: Tensor, low: float = -10000.0) -> Tensor:
    return torch.zeros(kept.shape, dtype=torch.float64).masked_fill(~kept, low)


@pytest.mark.parametrize(
    ("mask", "keys"),
    [
        (KEPT[:, None, None], [7, 3, 1]),
        (KEPT[:, None, None].expand(3, 4, 6, 7), [7, 3, 1]),
        (additive(KEPT)[:, None, None].repeat(1, 4, 1, 1), [7, 3, 1]),
        (additive(ALIKE, -torch.inf)[:, None, None], [3]),
        (ALIKE[:1, None, None], [3]),
        (ALIKE[:1], [3]),
        (torch.ones(3, 1, 1, 7, dtype=torch.bool), [7]),
        (torch.ones(3, 1, 1, 1, dtype=torch.bool), [7]),
    ],
)
def test_keys_that_a_mask_leaves_out_are_not_computed(called, mask, keys):
    q, k, v = heads()
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    close(functions.scaled_dot_product_attention(q, k, v, mask), expected, tolerance=1e-12)
    assert [shape[2] for shape in called] == keys


def ragged() -> Tensor:
    mask = KEPT[:, None, None].repeat(1, 4, 6, 1)
    mask[0, 0, 0, 0] = False
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        ragged(),
        additive(KEPT, -3.0)[:, None, None],
        (KEPT & torch.tensor([[1], [1], [0]]).bool())[:, None, None],  # a sample without keys
        torch.stack([KEPT[1], KEPT[1], KEPT[1], KEPT[0]])[None, :, None],  # another head, other keys
    ],
    ids=["a query", "a bias", "no key", "a head"],
)
def test_any_other_mask_is_for_pytorchs_op(called, mask):
    q, k, v = heads()
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    assert torch.equal(functions.scaled_dot_product_attention(q, k, v, mask), expected)
    assert not called


def test_heads_may_share_their_keys(called):
    q, k, v = heads(shared=2)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    close(functions.scaled_dot_product_attention(q, k, v, enable_gqa=True), expected, tolerance=1e-12)
    assert len(called) == 1


@pytest.mark.parametrize("options", [{"is_causal": True}, {"dropout_p": 1.0}])
def test_what_the_op_does_not_do_is_for_pytorchs(called, options):
    q, k, v = heads()
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    assert torch.equal(functions.scaled_dot_product_attention(q, k, v, **options), expected)
    functions.scaled_dot_product_attention(q.requires_grad_(), k, v).sum().backward()
    assert not called


@torch.no_grad()
def test_diffusers_masks_of_keys_have_two_dimensions_and_its_backends_are_the_users_choice(called):
    module = Dispatched()
    fd.accelerate(module)
    ours = type(module).attend.__globals__["fastdiff_dispatch_attention_fn"]
    q, k, v = (t.transpose(1, 2) for t in heads())
    close(ours(q, k, v, KEPT), dispatch_attention_fn(q, k, v, KEPT), tolerance=1e-12)
    assert len(called) == 3
    called.clear()
    with attention_backend("_native_math"):
        ours(q, k, v)
    ours(q, k, v, backend="native")
    assert not called


class Norm(nn.GroupNorm):
    pass


class Layers(nn.Sequential):
    pass


class Activation(nn.SiLU):
    pass


class Heads(nn.MultiheadAttention):
    pass


@torch.no_grad()
def test_subclasses_of_torch_nn_that_compute_the_same_are_known(monkeypatch):
    monkeypatch.setattr(norms, "_SMALL", {"none": 0, "silu": 0})
    layers, attention = Layers(Norm(2, 8), Activation(), nn.Conv1d(8, 8, 1)), Heads(8, 2, batch_first=True)
    both = nn.ModuleList([layers, attention])
    x, y = torch.randn(2, 8, 5), torch.randn(2, 5, 8)
    expected = layers(x), attention(y, y, y, need_weights=False)[0]
    handle = fd.accelerate(both)
    assert handle.changes == {"Layers with GroupNorm + SiLU": 1, "Heads": 1, "Norm": 1}
    with fd.backend("reference"):
        for _ in range(2):
            close(layers(x), expected[0])
            close(attention(y, y, y, need_weights=False)[0], expected[1])
            layers, attention = copy.deepcopy(both)
    assert [type(m).__bases__[1] for m in both] == [Layers, Heads]
