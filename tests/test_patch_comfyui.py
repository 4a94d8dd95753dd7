"""accelerate on ComfyUI's modules and ModelPatchers: tests/comfy_blocks.py stands for them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from comfy_blocks import CastingGroupNorm, GroupNorm, ModelPatcher, ResBlock, UNetModel, _attention
from patch_models import Model, close, state_of
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.ops import registry
from fastdiff.patch import comfyui, norms

NORMS = [GroupNorm, CastingGroupNorm]


@pytest.fixture(autouse=True)
def small_calls_too(monkeypatch):
    """Norms and attentions here are small, which the automatic choice leaves to PyTorch."""
    monkeypatch.setattr(norms, "_SMALL", {"none": 0, "silu": 0})
    monkeypatch.setattr(registry, "_chosen", lambda op, case, forced: "reference")
    registry._choose.cache_clear()
    yield
    registry._choose.cache_clear()


def unet(norm: type = GroupNorm, mask: Tensor | None = None) -> Model:
    return Model(UNetModel(norm), torch.randn(2, 32, 6, 6), torch.randn(2, 20), torch.randn(2, 9, 24), mask)


@pytest.fixture
def fused(monkeypatch) -> list[torch.Size]:
    """The shapes that fastdiff's group_norm was called with."""
    shapes, op = [], norms.group_norm
    monkeypatch.setattr(norms, "group_norm", lambda x, *a, **k: shapes.append(x.shape) or op(x, *a, **k))
    return shapes


@pytest.mark.parametrize("norm", NORMS)
def test_a_bare_unet_keeps_its_outputs_and_gets_all_its_objects_back(norm, fused):
    model = unet(norm)
    expected, before = model(), state_of(model.module)
    handle = fd.accelerate(model.module)
    assert handle.model is model.module
    assert handle.changes == {
        "ResBlock with GroupNorm + embedding + SiLU": 1, "Sequential with GroupNorm + SiLU": 7, norm.__name__: 8,
    }  # fmt: skip
    close(model(), expected)
    assert len(fused) == 8
    assert hasattr(model.module.norm, "comfy_cast_weights")  # by which ComfyUI knows what it may move and patch
    for copied in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        close(Model(copied, *model.arguments)(), expected)
    handle.undo()
    assert state_of(model.module) == before
    assert torch.equal(model(), expected)


def test_the_handle_says_that_attention_wants_a_patcher():
    said = str(fd.accelerate(unet().module))
    assert said.endswith(
        "and left as it was\n"
        "  1 x CrossAttention: ComfyUI's attention is changed through a ModelPatcher; give accelerate that"
    )


@pytest.mark.parametrize("kind", ["weight_function", "bias_function"])
def test_weights_that_are_patched_at_the_call_are_patched(kind):
    model = unet()
    fd.accelerate(model.module)
    for norm in (model.module.norm, model.module.out[0], model.module.blocks[0].out_layers[0]):
        before = model()
        setattr(norm, kind, [lambda weight: 3 * weight + 1])
        twin = unet()
        twin.module.load_state_dict(model.module.state_dict())
        twin.arguments = model.arguments
        for name, module in model.module.named_modules():
            if isinstance(module, nn.GroupNorm):
                setattr(twin.module.get_submodule(name), kind, getattr(module, kind))
        close(model(), twin())
        assert not torch.equal(model(), before)


def test_weights_of_another_dtype_are_cast_as_the_norm_would():
    model = unet(CastingGroupNorm)
    norms_ = [m for m in model.module.modules() if isinstance(m, nn.GroupNorm)]
    for norm in norms_:
        norm.half()
    expected = model()
    fd.accelerate(model.module)
    close(model(), expected)


def test_a_subclass_that_computes_something_else_is_left_with_its_name():
    class Scaled(GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Other(nn.GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    hooked = nn.GroupNorm(2, 4)
    hooked.register_forward_hook(lambda *_: None)
    handle = fd.accelerate(nn.ModuleList([Scaled(2, 4), Other(2, 4), Other(2, 4), hooked]))
    assert not handle.changes
    assert handle.left == {
        "Scaled: its forward is its class's own": 1,
        "Other: its forward is its class's own": 2,
        "GroupNorm: it has hooks, or a forward of its own": 1,
    }


def patcher() -> tuple[ModelPatcher, tuple[Tensor, ...]]:
    holder, model = nn.Module(), unet()
    holder.diffusion_model = model.module
    return ModelPatcher(holder), model.arguments


def test_a_patcher_stays_as_it_is_and_its_clone_runs_on_fastdiff(fused, monkeypatch):
    given, arguments = patcher()
    calls, attend = [], comfyui.attend_where_it_pays
    monkeypatch.setattr(comfyui, "attend_where_it_pays", lambda *heads: calls.append(1) or attend(*heads))

    def run(of: ModelPatcher) -> Tensor:
        return of.run(lambda model, options: model(*arguments, transformer_options=options))

    expected, before = run(given), state_of(given.model)
    handle = fd.accelerate(given)
    assert (given.object_patches, given.model_options) == ({}, {"transformer_options": {}})
    assert state_of(given.model) == before
    assert handle.model is not given
    assert handle.model.model is given.model
    assert torch.equal(run(given), expected)
    assert (len(fused), len(calls)) == (0, 0)
    close(run(handle.model), expected)
    assert (len(fused), len(calls)) == (8, 1)
    assert state_of(given.model) == before
    given.model.diffusion_model.norm.weight_function = [lambda weight: 2 * weight]  # as ComfyUI does to patch weights
    close(run(handle.model), run(given))
    del given.model.diffusion_model.norm.weight_function
    assert str(fd.accelerate(handle.model)) == "fastdiff.accelerate changed\n  nothing"
    handle.undo()
    assert (handle.model.object_patches, handle.model.model_options) == ({}, {"transformer_options": {}})


def test_patches_and_overrides_of_others_stay():
    given, _ = patcher()
    block = ResBlock(32, GroupNorm)
    given.add_object_patch("diffusion_model.blocks.0", block)
    given.model_options["transformer_options"]["optimized_attention_override"] = other = lambda func, *a, **k: func(*a)
    handle = fd.accelerate(given)
    assert handle.model.object_patches["diffusion_model.blocks.0"] is block
    assert not any(name.startswith("diffusion_model.blocks.0.") for name in handle.model.object_patches)
    assert handle.left == {
        "GroupNorm: another patch stands in its place": 2,
        "optimized_attention_override: another one is set": 1,
    }
    handle.undo()
    assert handle.model.object_patches == given.object_patches
    assert handle.model.model_options["transformer_options"]["optimized_attention_override"] is other


@pytest.mark.parametrize("skip_output", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_the_override_takes_heads_in_every_form(skip, skip_output):
    q, k, v = (torch.randn(2, n, 32) for n in (7, 5, 5))
    if skip:
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in (q, k, v))
    named = {"skip_reshape": skip, "skip_output_reshape": skip_output}
    seen = []

    def own(*args: object, **kwargs: object) -> Tensor:
        seen.append(kwargs)
        return _attention(*args, **kwargs)

    close(comfyui.attention_override(own, q, k, v, 4, **named), own(q, k, v, 4, **named))
    assert len(seen) == 1
    mask = torch.rand(2, 1, 7, 5)
    close(comfyui.attention_override(own, q, k, v, 4, mask, **named), own(q, k, v, 4, mask, **named))
    assert len(seen) == 3


def test_the_override_takes_values_whose_heads_are_separate_already():
    q, k, v = torch.randn(3, 2, 7, 32)  # as SD3's come
    close(comfyui.attention_override(None, q, k, v.unflatten(-1, (4, 8)), 4), _attention(q, k, v, 4))
