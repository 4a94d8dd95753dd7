"""accelerate on the networks people run: the ops are called, outputs and gradients stay, undo is exact."""

from __future__ import annotations

import pytest
import torch
from patch_models import Model, close, state_of
from patch_networks import NETWORKS
from torch import Tensor

import fastdiff as fd

CALLS = {  # of attention and of group_norm in one forward; a batch of prompts padded differently has two of each
    "Wan": (4, 0),
    "Stable Audio": (4, 0),
    "HunyuanVideo": (4, 0),  # the two of its token refiner have a mask of queries as well
    "LTX-Video": (6, 0),
    "CogVideoX": (2, 0),
    "Qwen-Image": (4, 0),
    "Z-Image": (5, 0),
    "SANA": (4, 0),
    "FLUX.2": (2, 0),
    "PixArt": (6, 0),
    "Kandinsky 5": (5, 0),
    "Kandinsky 2.2": (4, 25),
    "AudioLDM 2": (28, 29),
}
LINEAR = "Attention with SanaLinearAttnProcessor2_0: it calls neither PyTorch's scaled_dot_product_attention nor"
LEFT = {"SANA": {f"{LINEAR} diffusers' dispatch_attention_fn": 2}}


def output(model: Model) -> Tensor:
    out = model()
    return torch.cat([each.flatten() for each in out]) if isinstance(out, list) else out


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_runs_on_the_ops_with_the_same_outputs_and_can_be_undone(called, name):
    model = NETWORKS[name]()
    expected, before = output(model), state_of(model.module)
    handle = fd.accelerate(model.module)
    assert handle.left == LEFT.get(name, {})
    close(output(model), expected, tolerance=2e-5)
    assert (called["attention"], called["group_norm"]) == CALLS[name]
    handle.undo()
    assert state_of(model.module) == before
    assert torch.equal(output(model), expected)


@pytest.mark.parametrize("name", ["HunyuanVideo", "LTX-Video", "Kandinsky 2.2"])
def test_gradients_are_the_models_own(called, name):
    model = NETWORKS[name]()
    gradients = []
    for _ in range(2):
        model.module.zero_grad()
        model.module(*model.arguments, **model.named)[0].square().mean().backward()
        gradients.append([p.grad.clone() for p in model.module.parameters() if p.grad is not None])
        fd.accelerate(model.module)
    assert len(gradients[0]) > 20
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert not called


def test_the_op_is_in_the_graph_that_is_compiled():
    attention, graphs = NETWORKS["Wan"]().module.blocks[0].attn1, []
    x = torch.randn(2, 6, 24)

    def keep(graph: torch.fx.GraphModule, _: object):
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        expected = attention(x)
        fd.accelerate(attention)
        close(torch.compile(attention, fullgraph=True, backend=keep)(x), expected)
    (graph,) = graphs
    assert sum(node.target is torch.ops.fastdiff.attention for node in graph.graph.nodes) == 1
