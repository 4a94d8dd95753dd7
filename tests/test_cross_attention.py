"""CrossAttentionCache: what it gives is always what the layers would, and it computes no more than it must."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fastdiff.nn.cross_attention import CrossAttentionCache


class Counting:
    """A cache over two layers, and how often they were run."""

    def __init__(self, monkeypatch, size=(24, 16)):
        self.cache, self.to_k, self.to_v = CrossAttentionCache(), nn.Linear(*size), nn.Linear(*size, bias=False)
        self.calls = 0
        linear = torch.nn.functional.linear

        def counted(*arguments):
            self.calls += 1
            return linear(*arguments)

        monkeypatch.setattr(torch.nn.functional, "linear", counted)
        self.expected = lambda x: (
            linear(x, self.to_k.weight, self.to_k.bias), linear(x, self.to_v.weight, self.to_v.bias)
        )  # fmt: skip

    def __call__(self, context):
        """How many layers ran; asserts the result."""
        before = self.calls
        found = self.cache.project(context, self.to_k, self.to_v)
        for ours, theirs in zip(found, self.expected(context), strict=True):
            assert torch.equal(ours, theirs)
        return self.calls - before


@pytest.fixture
def counting(monkeypatch):
    with torch.no_grad():
        yield Counting(monkeypatch)


def test_a_context_that_comes_back_is_projected_twice_in_all(counting):
    context = torch.randn(2, 9, 24)
    assert [counting(context) for _ in range(5)] == [2, 2, 0, 0, 0]


def test_a_context_that_never_comes_back_is_only_projected(counting):
    assert [counting(torch.randn(2, 9, 24)) for _ in range(4)] == [2, 2, 2, 2]


CHANGES = {
    "the context in place": lambda c, x: x.mul_(1.5),
    "the context through .data": lambda c, x: x.data.mul_(1.5),
    "the context from NumPy": lambda c, x: x.numpy().__imul__(1.5),
    "a weight in place": lambda c, x: c.to_v.weight.add_(0.1),
    "a weight through .data": lambda c, x: c.to_k.weight.data.add_(0.1),
    "a bias": lambda c, x: c.to_k.bias.zero_(),
    "a weight's storage": lambda c, x: setattr(c.to_k.weight, "data", torch.randn(16, 24)),
    "a parameter": lambda c, x: setattr(c.to_v, "weight", nn.Parameter(torch.randn(16, 24))),
    "a loaded state": lambda c, x: c.to_k.load_state_dict(nn.Linear(24, 16).state_dict()),
    "one layer": lambda c, x: setattr(c, "to_v", nn.Linear(24, 16, bias=False)),
    "both layers": lambda c, x: vars(c).update(to_k=nn.Linear(24, 16), to_v=nn.Linear(24, 16)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_the_next_call(counting, change):
    context = torch.randn(2, 9, 24)
    for _ in range(3):
        counting(context)
    CHANGES[change](counting, context)
    assert counting(context) == 2  # and equal to what the layers give now
    counting(context)
    assert counting(context) == 0


def test_another_context_of_the_same_address_is_another_context(counting):
    storage = torch.randn(4, 9, 24)
    views = [storage[:2], storage[:2].view(2, 9, 24), storage[:2].transpose(0, 1)]
    for _ in range(3):
        for view in views:
            counting(view)
    for _ in range(30):  # ids and addresses come again as tensors go
        context = torch.randn(2, 9, 24)
        assert counting(context) == 2
        del context


def test_contexts_in_turn_are_both_kept(counting):
    conditional, unconditional = torch.randn(2, 9, 24), torch.randn(2, 9, 24)
    for _ in range(2):
        counting(conditional)
        counting(unconditional)
    assert counting(conditional) + counting(unconditional) == 0


def test_gradients_flow_and_nothing_recorded_is_kept(monkeypatch):
    counting = Counting(monkeypatch)
    context = torch.randn(2, 9, 24, requires_grad=True)
    for _ in range(3):
        key, value = counting.cache.project(context, counting.to_k, counting.to_v)
        (key.sum() + value.sum()).backward()
    expected = 3 * (counting.to_k.weight.sum(0) + counting.to_v.weight.sum(0))
    torch.testing.assert_close(context.grad, expected.expand(2, 9, 24))
    with torch.no_grad():
        for _ in range(3):
            counting(context)
    key, _ = counting.cache.project(context, counting.to_k, counting.to_v)
    assert key.requires_grad  # not the one kept without gradients


def test_inference_mode_and_autocast_have_results_of_their_own(counting):
    context = torch.randn(2, 9, 24)
    for _ in range(3):
        counting(context)
    with torch.inference_mode():
        for _ in range(3):
            counting(context)
    assert not counting.cache.project(context, counting.to_k, counting.to_v)[0].is_inference()
    with torch.autocast("cpu", torch.bfloat16):
        assert counting.cache.project(context, counting.to_k, counting.to_v)[0].dtype == torch.bfloat16
    assert counting.cache.project(context, counting.to_k, counting.to_v)[0].dtype == torch.float32


def test_adapters_and_hooks_are_run_every_time(counting):
    class LoRALinear(nn.Linear):
        gain = 1.0

        def forward(self, x):
            return super().forward(x) * self.gain

    context, adapted = torch.randn(2, 9, 24), LoRALinear(24, 16)
    for gain in (1.0, 2.0, 3.0, 4.0):
        adapted.gain = gain
        found, _ = counting.cache.project(context, adapted, counting.to_v)
        assert torch.equal(found, adapted(context))
    for _ in range(3):
        counting(context)
    hook = counting.to_v.register_forward_hook(lambda module, inputs, output: output + 1)
    _, value = counting.cache.project(context, counting.to_k, counting.to_v)
    assert torch.equal(value, counting.to_v(context))
    hook.remove()
    counting(context)


def test_contexts_and_layers_are_not_kept_alive(counting):
    context = torch.randn(2, 9, 24)
    for _ in range(3):
        counting(context)
    del context
    gc.collect()
    assert [len(entries) for entries in counting.cache._entries.values()] == [0]
    counting.to_k = nn.Linear(24, 16)
    gc.collect()
    assert len(counting.cache._entries) == 0


def test_compiled_code_computes_afresh_in_one_graph(counting):
    cache, to_k, to_v = counting.cache, counting.to_k, counting.to_v
    compiled = torch.compile(lambda x: cache.project(x, to_k, to_v), fullgraph=True, backend="eager")
    context = torch.randn(2, 9, 24)
    for _ in range(3):
        counting(context)
    for _ in range(2):
        context.mul_(2)
        to_k.weight.data.add_(1)
        torch.testing.assert_close(compiled(context), counting.expected(context))


def test_threads_get_their_own_layers_results():
    cache, start = CrossAttentionCache(), threading.Barrier(4)
    layers = [(nn.Linear(24, 16), nn.Linear(24, 16)) for _ in range(3)]
    contexts = [torch.randn(2, 9, 24) for _ in range(6)]

    @torch.no_grad()
    def work(seed):
        start.wait()
        for i in range(300):
            to_k, to_v = layers[(i + seed) % 3]
            context = contexts[(i * seed + i) % 6]
            key, value = cache.project(context, to_k, to_v)
            assert torch.equal(key, to_k(context))
            assert torch.equal(value, to_v(context))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_copy_starts_empty_and_clear_forgets(counting):
    context = torch.randn(2, 9, 24)
    for _ in range(3):
        counting(context)
    for other in (copy.deepcopy(counting.cache), pickle.loads(pickle.dumps(counting.cache))):
        assert len(other._entries) == 0
    counting.cache.clear()
    assert counting(context) == 2
