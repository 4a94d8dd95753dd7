"""accelerate: the same outputs on every kind of model, the same objects before and after, weights read when used."""

from __future__ import annotations

import copy
import pickle

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from ldm_blocks import CrossAttention, GroupNorm32, ResnetBlock
from patch_models import (
    MODELS,
    Model,
    autoencoder,
    close,
    compvis,
    flux,
    plain,
    sd3,
    sd15,
    stable_audio,
    state_of,
    unconditional,
    vae,
    wan,
)
from torch import Tensor, nn

import fastdiff as fd
import fastdiff.schedulers
from fastdiff.patch import norms


@pytest.fixture(autouse=True)
def small_norms_too(monkeypatch):
    """The models here are small; accelerate leaves small norms to PyTorch, which is quicker to start."""
    monkeypatch.setattr(norms, "_SMALL", {"none": 0, "silu": 0})


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_same_and_undo_restores_the_very_objects(name):
    model = MODELS[name]()
    expected, before, keys = model(), state_of(model.module), list(model.module.state_dict())
    handle = fd.accelerate(model.module)
    assert sum(handle.changes.values()) > 0
    for _ in range(3):  # the third call finds what the cache has kept
        close(model(), expected)
    assert list(model.module.state_dict()) == keys
    handle.undo()
    assert state_of(model.module) == before
    assert torch.equal(model(), expected)
    handle.undo()  # once more does nothing


CHANGES = {
    sd15: ["8 x attention processor", "8 x ResnetBlock2D with", "1 x GroupNorm + SiLU"],
    sd3: ["3 x attention in JointAttnProcessor2_0"],
    flux: ["4 x attention in FluxAttnProcessor"],
    wan: ["4 x attention in WanAttnProcessor"],
    stable_audio: ["4 x attention in StableAudioAttnProcessor2_0"],
    compvis: ["3 x ResBlock with", "2 x CrossAttention", "1 x QKVAttention", "1 x QKVAttentionLegacy", "1 x GroupNorm"],
    autoencoder: ["3 x ResnetBlock with", "1 x AttnBlock"],
    plain: ["1 x Sequential with GroupNorm + SiLU", "2 x MultiheadAttention"],
}


@pytest.mark.parametrize("make", CHANGES)
def test_it_says_what_it_changed_and_prints_nothing(capsys, make):
    handle = fd.accelerate(make().module)
    assert capsys.readouterr().out == ""
    said = str(handle)
    for line in CHANGES[make]:
        assert f"  {line}" in said
    handle.undo()
    assert str(handle) == str(fd.accelerate(nn.Linear(2, 2))) == "fastdiff.accelerate changed\n  nothing"


NO_CALL = "it calls neither PyTorch's scaled_dot_product_attention nor diffusers' dispatch_attention_fn"


class LinearAttention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.mT @ v)


def test_what_is_seen_and_left_is_counted_with_the_reason():
    model = nn.ModuleList([sd15(act_fn="relu").module.mid_block, LinearAttention(), plain().module, vae().module])
    model[0].attentions[0].transformer_blocks[0].attn1.forward = lambda x: x
    model[3].decoder.conv_norm_out.forward = lambda x: x
    handle = fd.accelerate(model)
    assert handle.left == {
        "Attention: its forward was replaced on the object, as offloading does": 1,
        f"LinearAttention: {NO_CALL}": 1,
        "GroupNorm: it has hooks, or a forward of its own": 1,
    }
    assert "\nand left as it was\n  1 x Attention: its forward" in str(handle)
    said = str(fd.accelerate(model, group_norm=False))
    assert "LinearAttention" in said
    assert "GroupNorm" not in said
    handle.undo()
    assert not handle.left


@pytest.mark.parametrize("make", [wan, stable_audio])
def test_attention_with_a_mask_or_another_backend_is_the_models_own(make):
    model = make()
    expected = model()
    fd.accelerate(model.module)
    module = next(m for m in model.module.modules() if hasattr(m, "processor"))
    x = torch.randn(2, 6, module.to_q.in_features)
    mask = torch.zeros(2, 1, 1, 6) if make is wan else torch.zeros(2, 6)
    with torch.no_grad():
        close(module(x, attention_mask=mask), module(x))
    close(model(), expected)


def test_a_second_call_changes_nothing_more():
    model = compvis()
    fd.accelerate(model.module)
    assert "nothing" in str(fd.accelerate(model.module))


@pytest.mark.parametrize("switch", ["attention", "group_norm"])
def test_each_part_can_be_left_out(switch):
    model = sd15()
    expected = model()
    handle = fd.accelerate(model.module, **{switch: False})
    said = str(handle)
    assert ("attention" in said) == (switch != "attention")
    assert ("GroupNorm" in said) == (switch != "group_norm")
    close(model(), expected)


@pytest.mark.parametrize("make", [sd15, sd3, compvis, autoencoder, plain])
def test_edited_and_replaced_weights_count_at_once(make):
    model, twin = make(), None
    fd.accelerate(model.module)
    for _ in range(3):
        model()
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.module.named_parameters()):
            if i % 3 == 0:
                parameter.data.mul_(1.1)
            elif i % 3 == 1:
                parameter.add_(0.01)
            else:
                owner = model.module.get_submodule(name.rpartition(".")[0])
                setattr(owner, name.rpartition(".")[2], nn.Parameter(parameter * 0.9))
    twin = make()
    twin.module.load_state_dict(model.module.state_dict())
    twin.arguments, twin.named = model.arguments, model.named
    close(model(), twin())


class LoRA(nn.Linear):
    """A low-rank addition to a layer, as adapters wrap it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight, self.bias = base.weight, base.bias
        self.down, self.up, self.gain = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features), 0.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.gain * self.up(self.down(x))


def test_adapters_put_in_and_turned_up_afterwards_count_at_once():
    model, plain_model = sd15(), sd15()
    plain_model.module.load_state_dict(model.module.state_dict())
    plain_model.arguments = model.arguments
    fd.accelerate(model.module)
    for _ in range(3):
        model()
    torch.manual_seed(1)
    layers = {}
    for name, module in list(model.module.named_modules()):
        if name.endswith(("to_k", "to_v", "to_q", "time_emb_proj")):
            layers[name] = LoRA(module)
    for gain in (0.5, 2.0):
        for name, layer in layers.items():
            layer.gain = gain
            for m in (model, plain_model):
                setattr(m.module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer)
        close(model(), plain_model())


@pytest.mark.parametrize("make", [sd15, sd3, flux, wan, stable_audio, compvis, autoencoder, plain])
def test_gradients_are_those_of_the_model_as_it_was(make):
    model = make()
    gradients = []
    for accelerated in (False, True):
        if accelerated:
            fd.accelerate(model.module)
        model.module.zero_grad()
        out = model.module(*model.arguments, **model.named)
        getattr(out, "sample", out).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.module.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [sd15, flux, compvis, autoencoder, plain])
def test_compiles_to_one_graph_where_the_model_did(make):
    model = make()
    expected = model()
    fd.accelerate(model.module)
    model.module = torch.compile(model.module, fullgraph=True, backend="aot_eager")
    with fd.backend("reference"):
        close(model(), expected)


@pytest.mark.parametrize("make", [sd15, compvis, autoencoder])
def test_an_accelerated_model_can_be_copied(make):
    model = make()
    expected = model()
    fd.accelerate(model.module)
    for module in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        close(Model(module, *model.arguments, **model.named)(), expected)


def test_hooks_on_a_norm_keep_it_out_of_the_fusion():
    model, seen = compvis(), []
    model.module.blocks[0].out_layers[0].register_forward_hook(lambda *_: seen.append(1))
    expected = model()
    fd.accelerate(model.module)
    close(model(), expected)
    assert len(seen) == 2


@pytest.mark.parametrize("make", [sd15, unconditional])
def test_norms_that_are_hooked_or_replaced_later_run_their_own_code(make):
    model, seen = make(), []
    fd.accelerate(model.module)
    resnet = model.module.down_blocks[0].resnets[0]
    resnet.norm2 = nn.GroupNorm(2, resnet.out_channels, eps=1e-3)
    expected = model()
    resnet.norm1.register_forward_hook(lambda *_: seen.append("hook"))
    forward = type(resnet.norm2).forward
    resnet.norm2.forward = lambda x: seen.append("forward") or forward(resnet.norm2, x)
    close(model(), expected)
    assert seen == ["hook", "forward"]


def test_look_alikes_are_left_alone(monkeypatch):
    class Rotary(CrossAttention):
        def __init__(self):
            super().__init__(32, 24, 2, 8)
            self.frequencies = 3.0

    Rotary.__name__ = "CrossAttention"
    norm = GroupNorm32(4, 32)
    norm.swish = 1.0
    assert "nothing" in str(fd.accelerate(nn.ModuleList([Rotary(), nn.Sequential(norm, nn.SiLU())])))
    monkeypatch.setattr("ldm_blocks.nonlinearity", torch.relu)
    assert dict(fd.accelerate(ResnetBlock(8, 8, 0)).changes) == {"GroupNorm": 2}


@pytest.mark.parametrize("make", [sd15, sd3, flux, wan, stable_audio, compvis, autoencoder, plain])
def test_autocast_gives_the_same_dtype_and_about_as_many_digits(make):
    model = make()
    exact = model()
    with torch.autocast("cpu", torch.bfloat16):
        before = model()
        fd.accelerate(model.module)
        for _ in range(3):
            after = model()
    assert after.dtype == before.dtype
    error, allowed = (float((x.float() - exact).abs().max()) for x in (after, before))
    assert error <= 3 * allowed


def test_half_precision_and_channels_last_keep_their_dtype_and_layout():
    model = vae()
    model.module.to(torch.bfloat16, memory_format=torch.channels_last)
    model.arguments = tuple(a.bfloat16().to(memory_format=torch.channels_last) for a in model.arguments)
    expected = model()
    fd.accelerate(model.module)
    found = model()
    assert found.dtype == torch.bfloat16
    assert found.stride() == expected.stride()
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


SCHEDULERS = [diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda cls: cls.__name__)
def test_a_pipeline_is_accelerated_in_all_its_parts_and_draws_the_same_images(scheduler):
    pipe = diffusers.StableDiffusionPipeline(
        vae().module, None, None, sd15().module, scheduler(num_train_timesteps=50, steps_offset=1), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    prompt, empty = torch.randn(2, 1, 9, 24)

    def draw():
        options = {"num_inference_steps": 4, "output_type": "np", "height": 16, "width": 16}
        generator = torch.Generator().manual_seed(3)
        return pipe(prompt_embeds=prompt, negative_prompt_embeds=empty, generator=generator, **options).images

    before, expected = pipe.scheduler, draw()
    handle = fd.accelerate(pipe)
    assert type(pipe.scheduler) is getattr(fastdiff.schedulers, scheduler.__name__)
    assert f"1 x scheduler {scheduler.__name__}" in str(handle)
    assert abs(draw() - expected).max() < 1e-4
    assert "nothing" in str(fd.accelerate(pipe))
    handle.undo()
    assert pipe.scheduler is before
    assert type(pipe.unet.mid_block.resnets[0]) is type(pipe.vae.decoder.mid_block.resnets[0]) is ResnetBlock2D
    assert (draw() == expected).all()
    fd.accelerate(pipe, scheduler=False)
    assert pipe.scheduler is before


def test_a_scheduler_that_fastdiff_does_not_have_stays():
    class Other(diffusers.DDIMScheduler):
        pass

    pipe = diffusers.DDPMPipeline(unconditional().module, Other())
    before = pipe.scheduler
    fd.accelerate(pipe)
    assert pipe.scheduler is before


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, .* or a ComfyUI ModelPatcher, got list"):
        fd.accelerate([nn.Linear(2, 2)])


def test_the_fused_norm_is_the_formula_in_float64():
    norm, x = nn.GroupNorm(4, 8).double(), torch.randn(2, 8, 5, dtype=torch.float64)
    add, scale, shift = torch.randn(3, 2, 8, dtype=torch.float64)
    expected = F.silu(norm(x + add[..., None]) * (1 + scale[..., None]) + shift[..., None])
    torch.testing.assert_close(norms.normalise(norm, x, add, scale, shift, "silu"), expected)
    with torch.no_grad():
        torch.testing.assert_close(norms.normalise(norm, x, add, scale, shift, "silu"), expected.detach())


@torch.no_grad()
def test_small_norms_are_left_to_pytorch_and_large_ones_are_not(monkeypatch):
    monkeypatch.undo()  # the rule is in force
    layers = nn.Sequential(nn.GroupNorm(4, 32), nn.GroupNorm(4, 32), nn.SiLU())
    small, large = torch.randn(2, 32, 8, 8), torch.randn(2, 32, 32, 32)
    expected = layers(small), layers(large)
    fd.accelerate(layers)
    calls, fused = [], norms.group_norm
    monkeypatch.setattr(norms, "group_norm", lambda x, *a, **k: calls.append(x.shape) or fused(x, *a, **k))
    assert torch.equal(layers(small), expected[0])
    assert calls == []
    close(layers(large), expected[1])
    assert calls == [large.shape] * 2
