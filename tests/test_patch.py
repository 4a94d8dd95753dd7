"""accelerate: the same outputs on every kind of model, the same objects before and after, weights read when used."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
import types

import diffusers
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastdiff as fd

UNET = {
    "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 4, "cross_attention_dim": 24,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


class Model:
    """A module and the arguments of a call."""

    def __init__(self, module, *arguments, **named):
        self.module, self.arguments, self.named = module.eval(), arguments, named

    @torch.no_grad()
    def __call__(self):
        out = self.module(*self.arguments, **self.named)
        out = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
        return out


def sd15(**options):
    unet = diffusers.UNet2DConditionModel(**UNET | options)
    return Model(unet, torch.randn(2, 4, 8, 8), torch.tensor([7, 400]), torch.randn(2, 9, 24))


def sdxl():
    xl = {
        "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    unet = diffusers.UNet2DConditionModel(**UNET | xl)
    added = {"text_embeds": torch.randn(2, 16), "time_ids": torch.rand(2, 6)}
    return Model(unet, torch.randn(2, 4, 8, 8), 300, torch.randn(2, 9, 24), added_cond_kwargs=added)


def unconditional(**options):
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    return Model(diffusers.UNet2DModel(**sizes, **blocks, **options), torch.randn(2, 3, 8, 8), 30)


def vae():
    module = diffusers.AutoencoderKL(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return Model(module, torch.randn(2, 3, 16, 16))


def dit():
    module = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        norm_num_groups=4, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return Model(module, torch.randn(2, 4, 8, 8), torch.tensor([3, 9]), torch.tensor([0, 5]))


def pixart(mask=None):
    module = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    added = {"resolution": None, "aspect_ratio": None}
    return Model(
        module, torch.randn(2, 4, 8, 8), encoder_hidden_states=torch.randn(2, 9, 12), timestep=torch.tensor([3, 9]),
        added_cond_kwargs=added, encoder_attention_mask=mask,
    )  # fmt: skip


class GroupNorm32(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).type(x.dtype)


class CompVisResBlock(nn.Module):
    """As guided-diffusion and LDM have it: the second norm apart from its Sequential where it is modulated."""

    def __init__(self, channels: int, modulated: bool) -> None:
        super().__init__()
        self.modulated = modulated
        self.in_layers = nn.Sequential(GroupNorm32(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(20, channels * (1 + modulated)))
        self.out_layers = nn.Sequential(
            GroupNorm32(8, channels), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h, emb = self.in_layers(x), self.emb_layers(emb)[:, :, None, None]
        if self.modulated:
            norm, rest = self.out_layers[0], self.out_layers[1:]
            scale, shift = emb.chunk(2, dim=1)
            return x + rest(norm(h) * (1 + scale) + shift)
        return x + self.out_layers(h + emb)


class CrossAttention(nn.Module):
    """LDM's, with its reshapes spelt out."""

    def __init__(self, size: int, context: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size**-0.5
        self.to_q = nn.Linear(size, heads * head_size, bias=False)
        self.to_k = nn.Linear(context, heads * head_size, bias=False)
        self.to_v = nn.Linear(context, heads * head_size, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_size, size), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        logits = q @ k.mT * self.scale
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
        return self.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class LDM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([CompVisResBlock(32, modulated) for modulated in (False, True)])
        self.attentions = nn.ModuleList([CrossAttention(32, 32, 4, 10), CrossAttention(32, 24, 2, 40)])
        self.norm = nn.GroupNorm(4, 32)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, emb)
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attentions[0](tokens)
        return tokens + self.attentions[1](tokens, context, mask)


def compvis(mask=None):
    return Model(LDM(), torch.randn(2, 32, 8, 8), torch.randn(2, 20), torch.randn(2, 9, 24), mask)


class Plain(nn.Module):
    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(6, 32, 1), nn.GroupNorm(4, 32), nn.SiLU(), nn.GroupNorm(8, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.weighted = nn.MultiheadAttention(32, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).transpose(1, 2)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        out, weights = self.weighted(h, h[:, :5], h[:, :5])
        return out + weights.sum()


def plain(batch_first=True):
    return Model(Plain(batch_first), torch.randn(3, 6, 40) if batch_first else torch.randn(3, 6, 3))


MODELS = {
    "SD 1.5 U-Net": sd15,
    "SD U-Net with scale and shift": lambda: sd15(resnet_time_scale_shift="scale_shift"),
    "SD U-Net without the embedding's SiLU": lambda: sd15(resnet_skip_time_act=True, resnet_out_scale_factor=1.4),
    "SD U-Net with ReLU": lambda: sd15(act_fn="relu"),
    "SDXL U-Net": sdxl,
    "unconditional U-Net": unconditional,
    "U-Net that resamples in its blocks": lambda: unconditional(
        downsample_type="resnet", upsample_type="resnet", mid_block_scale_factor=2.0
    ),
    "VAE": vae,
    "DiT": dit,
    "PixArt": pixart,
    "PixArt with masked prompts": lambda: pixart(torch.tensor([[1.0] * 9, [1.0] * 4 + [0.0] * 5])),
    "LDM": compvis,
    "LDM with masked prompts": lambda: compvis(torch.tensor([[True] * 9, [True] * 4 + [False] * 5])),
    "torch.nn": plain,
    "torch.nn, sequence first": lambda: plain(False),
}


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def state_of(module):
    """Every module with its class and what hangs on it, by identity."""
    found = []
    for name, m in module.named_modules():
        tensors = [(k, id(t)) for k, t in itertools.chain(m._parameters.items(), m._buffers.items())]
        others = {k: id(v) for k, v in vars(m).items() if k not in ("_parameters", "_buffers", "_modules")}
        found.append((name, id(m), type(m), tensors, others))
    return found


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


def test_it_says_what_it_changed_and_prints_nothing(capsys):
    handle = fd.accelerate(sd15().module)
    assert capsys.readouterr().out == ""
    said = str(handle)
    assert "x ResnetBlock2D with GroupNorm + embedding + SiLU" in said
    assert "x attention processor" in said
    assert "1 x GroupNorm + SiLU" in said
    assert "nothing" in str(fd.accelerate(nn.Linear(2, 2)))
    handle.undo()
    assert "nothing" in str(handle)


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


@pytest.mark.parametrize("make", [sd15, compvis, plain])
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


@pytest.mark.parametrize("make", [sd15, compvis, plain])
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


@pytest.mark.parametrize("make", [sd15, vae, dit, compvis, plain])
def test_compiles_to_one_graph_where_the_model_did(make):
    model = make()
    expected = model()
    fd.accelerate(model.module)
    model.module = torch.compile(model.module, fullgraph=True, backend="aot_eager")
    with fd.backend("reference"):
        close(model(), expected)


@pytest.mark.parametrize("make", [sd15, compvis])
def test_an_accelerated_model_can_be_copied(make):
    model = make()
    expected = model()
    fd.accelerate(model.module)
    for module in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        close(Model(module, *model.arguments, **model.named)(), expected)


def test_hooks_on_a_norm_keep_it_out_of_the_fusion():
    model, seen = compvis(), []
    model.module.blocks[0].in_layers[0].register_forward_hook(lambda *_: seen.append(1))
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


def test_a_look_alike_with_more_in_it_is_left_alone():
    class Rotary(CrossAttention):
        def __init__(self):
            super().__init__(32, 24, 2, 8)
            self.frequencies = 3.0

    Rotary.__name__ = "CrossAttention"
    norm = GroupNorm32(4, 32)
    norm.swish = 1.0
    assert "nothing" in str(fd.accelerate(nn.ModuleList([Rotary(), nn.Sequential(norm, nn.SiLU())])))


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


def pipeline():
    unet = unconditional().module
    return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=50))


def test_a_pipeline_is_accelerated_in_all_its_parts_and_draws_the_same_images(monkeypatch):
    ours = types.ModuleType("fastdiff.schedulers")
    ours.DDPMScheduler = type("DDPMScheduler", (diffusers.DDPMScheduler,), {})
    pipe = pipeline()
    pipe.set_progress_bar_config(disable=True)

    def draw():
        return pipe(generator=torch.Generator().manual_seed(3), num_inference_steps=3, output_type="np").images

    before, expected = pipe.scheduler, draw()
    monkeypatch.setitem(sys.modules, "fastdiff.schedulers", ours)
    handle = fd.accelerate(pipe)
    assert type(pipe.scheduler) is ours.DDPMScheduler
    assert "scheduler DDPMScheduler" in str(handle)
    assert abs(draw() - expected).max() < 1e-5
    handle.undo()
    assert pipe.scheduler is before
    assert type(pipe.unet.mid_block.resnets[0]).__name__ == "ResnetBlock2D"
    fd.accelerate(pipe, scheduler=False)
    assert pipe.scheduler is before


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module or a diffusers pipeline, got list"):
        fd.accelerate([nn.Linear(2, 2)])


def test_the_fused_norm_is_the_formula_in_float64():
    from fastdiff.patch.norms import normalise

    norm, x = nn.GroupNorm(4, 8).double(), torch.randn(2, 8, 5, dtype=torch.float64)
    add, scale, shift = torch.randn(3, 2, 8, dtype=torch.float64)
    expected = F.silu(norm(x + add[..., None]) * (1 + scale[..., None]) + shift[..., None])
    torch.testing.assert_close(normalise(norm, x, add, scale, shift, "silu"), expected)
    with torch.no_grad():
        torch.testing.assert_close(normalise(norm, x, add, scale, shift, "silu"), expected.detach())
