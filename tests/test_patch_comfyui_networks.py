"""accelerate on ComfyUI's own networks and ModelPatcher, where ComfyUI is on the path."""

from __future__ import annotations

import importlib

import pytest
import torch
from patch_models import Model, close
from peers import comfyui_module
from torch import Tensor, nn

import fastdiff as fd

CALLS = {  # of attention and of group_norm in one forward
    "flux": (2, 0),
    "hunyuan_video": (4, 0),
    "sd3": (2, 0),
    "wan": (4, 0),
    "qwen_image": (2, 0),
    "ltx": (6, 0),  # each of the two prompts has a length of its own
    "z_image": (4, 0),
    "unet": (14, 24),
}


def run(patcher: object, model: Model) -> Tensor:
    """A forward as the patched model makes it."""
    patcher.patch_model()
    try:
        options = dict(patcher.model_options["transformer_options"])
        return Model(patcher.model.diffusion_model, *model.arguments, **model.named, transformer_options=options)()
    finally:
        patcher.unpatch_model()


@pytest.mark.peers
@pytest.mark.parametrize("name", CALLS)
def test_a_patched_clone_runs_on_the_ops_with_the_same_outputs(called, name):
    patchers = comfyui_module("comfy.model_patcher")
    networks = importlib.import_module("comfy_networks")
    model, holder = networks.with_weights(getattr(networks, name)()), nn.Module()
    holder.diffusion_model = model.module
    given = patchers.ModelPatcher(holder, torch.device("cpu"), torch.device("cpu"))
    expected = run(given, model)
    handle = fd.accelerate(given)
    close(run(handle.model, model), expected, tolerance=2e-5)
    assert (called["attention"], called["group_norm"]) == CALLS[name]
    assert torch.equal(run(given, model), expected)
    handle.undo()
    assert torch.equal(run(handle.model, model), expected)
