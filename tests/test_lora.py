"""accelerate and LoRA adapters as diffusers and peft load them: every change of an adapter counts at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor, nn

import fastdiff as fd

peft = pytest.importorskip("peft", reason="peft is not installed: it is in the `test` extra")
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "time_emb_proj", "conv1", "ff.net.2"]


@torch.no_grad()
def predicted(unet: nn.Module) -> Tensor:
    """The second answer to the same context: by then its keys and values are kept."""
    for _ in range(2):
        out = unet(tiny.tensor(2, 4, 8, 8), torch.tensor(400), tiny.prompt()["prompt_embeds"], return_dict=False)[0]
    return out


def add(unet: nn.Module, name: str, rank: int) -> None:
    """An adapter that does something: peft's own start with zeros."""
    unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LAYERS), adapter_name=name)
    for k, (key, parameter) in enumerate(unet.named_parameters()):
        if f".{name}." in key:
            parameter.data.copy_(0.2 * tiny.tensor(*parameter.shape, seed=k))


def life(unet: nn.Module) -> Iterator[str]:
    """What users do with adapters, step by step."""
    add(unet, "style", 4)
    yield "an adapter is loaded"
    unet.set_adapters("style", 0.3)
    yield "its weight changes"
    add(unet, "subject", 2)
    unet.set_adapters(["style", "subject"], [0.7, 0.5])
    yield "two are mixed"
    unet.disable_adapters()
    yield "they are switched off"
    unet.enable_adapters()
    unet.fuse_lora()
    yield "they are merged into the weights"
    unet.unfuse_lora()
    unet.set_adapters(["style", "subject"], [0.2, 0.9])
    yield "they are taken out again and mixed anew"
    unet.delete_adapters("style")
    yield "one is deleted"
    unet.unload_lora()
    yield "none is left"


def test_adapters_loaded_after_accelerate_count_at_once():
    ours, plain = tiny.copied(tiny.text_unet()), tiny.copied(tiny.text_unet())
    fd.accelerate(ours)
    before = seen = predicted(plain)
    for what, _ in zip(life(ours), life(plain), strict=True):
        expected = predicted(plain)
        assert float((predicted(ours) - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), what
        assert float((expected - seen).abs().max()) > 1e-3, what
        seen = expected
    torch.testing.assert_close(seen, before)


def test_a_model_with_adapters_is_accelerated_and_put_back():
    plain = tiny.copied(tiny.text_unet())
    add(plain, "style", 4)
    ours = copy.deepcopy(plain)
    handle = fd.accelerate(ours)
    assert handle.changes["attention processor"] > 0
    expected = predicted(plain)
    assert float((predicted(ours) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    handle.undo()
    assert torch.equal(predicted(ours), expected)


def test_adapters_still_train():
    gradients = []
    for accelerated in (False, True):
        unet = tiny.copied(tiny.text_unet())
        add(unet, "style", 4)
        if accelerated:
            fd.accelerate(unet)
        out = unet(tiny.tensor(2, 4, 8, 8), torch.tensor(400), tiny.prompt()["prompt_embeds"], return_dict=False)[0]
        out.square().mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters() if "lora" in name})
    assert gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
