"""Normalised attention guidance against its formula in float64, in the networks and pipelines of diffusers."""

from __future__ import annotations

import functools

import diffusers
import pytest
import tiny_flow_pipelines as flow
import tiny_pipelines as tiny
import torch
from diffusers.models.embeddings import apply_rotary_emb
from patch_models import Model, close, flux, pixart, sd3, sd15, sdxl, state_of, wan
from test_perturb_attention import ltx_grid
from torch import Tensor, nn
from watched_attention import double, output_of, perturbed, softmax_attention

import fastdiff as fd
from fastdiff.patch.nag import normalised

NUMBERS = {"scale": 4.0, "tau": 1.7, "alpha": 0.3}


def literal(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """The paper's formula for tokens [..., H D]."""
    away = scale * positive - (scale - 1) * negative
    ratio = away.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True)
    return alpha * away * torch.clamp(tau / ratio, max=1.0) + (1 - alpha) * positive


def of_tokens(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("tau", [0.5, 2.5, 9.0, 1e3])
def test_the_formula_for_each_token_over_all_heads(tau):
    z, other = torch.randn(2, 3, 4, 50, 8, dtype=torch.float64)
    ours = of_tokens(normalised(z, other, 5.0, tau, 0.25))
    close(ours, literal(of_tokens(z), of_tokens(other), 5.0, tau, 0.25), 1e-13)


def test_without_an_effect_it_is_the_positive_attention_to_the_bit():
    z, other = torch.randn(2, 2, 4, 9, 8)
    assert torch.equal(normalised(z, other, 5.0, 2.5, 0.0), z)
    close(normalised(z, other, 1.0, 2.5, 0.25), z, 1e-6)
    close(normalised(z, z, 5.0, 2.5, 0.25), z, 1e-6)


def test_tokens_of_zeros_stay_finite():
    z, other = torch.zeros(2, 1, 2, 3, 4)
    assert torch.equal(normalised(z, other, 5.0, 2.5, 0.25), z)
    assert torch.equal(normalised(z, other + 1, 5.0, 2.5, 0.25), z)  # tau |Z+| = 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_it_is_the_rounded_result_also_near_the_largest_number(dtype):
    z, other = (60000 * (torch.rand(2, 1, 24, 7, 64) * 2 - 1)).to(dtype)
    exact = normalised(z.double(), other.double(), 5.0, 2.5, 0.1)
    ours = normalised(z, other, 5.0, 2.5, 0.1)
    assert ours.dtype == dtype
    inside = exact.abs() < 65504
    assert float((ours.double() - exact)[inside].abs().max()) < torch.finfo(dtype).eps * float(exact.abs().max())


def sana() -> Model:
    pipe, _ = flow.sana(None)
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 9, 8)
    return Model(tiny.copied(pipe.transformer), x, text, torch.tensor([30.0, 900.0]))


class Cross:
    """An attention to a text with the formula, from the prompt and a negative prompt that it is handed."""

    def __init__(self, attn: nn.Module, negative: Tensor, mask: Tensor | None) -> None:
        self.out, self.negative, self.mask = list(attn.to_out), negative, mask
        self.forward = attn.forward
        attn.to_out = nn.ModuleList([nn.Identity(), nn.Identity()])

    def __call__(self, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        z = self.forward(hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        other = self.forward(hidden_states, self.negative, self.mask, *args, **kwargs)
        return self.out[1](self.out[0](literal(z, other, **NUMBERS)))


# By network: how it projects a text, and the width of the text.
PROJECTED = {
    sd15: (lambda network, text: text, 24),
    sdxl: (lambda network, text: text, 24),
    pixart: (lambda network, text: network.caption_projection(text), 12),
    wan: (lambda network, text: network.condition_embedder.text_embedder(text), 16),
    ltx_grid: (lambda network, text: network.caption_projection(text), 12),
    sana: (lambda network, text: network.caption_norm(network.caption_projection(text)), 8),
}


@pytest.mark.parametrize("make", PROJECTED)
@pytest.mark.parametrize("tokens", [4, 9, 12])
@torch.no_grad()
def test_cross_attention_follows_the_formula(make, tokens):
    project, width = PROJECTED[make]
    model = double(make())
    negative = torch.randn(2, tokens, width, dtype=torch.float64)
    plain = output_of(model)
    with fd.nag(model.module, negative, **NUMBERS):
        ours = output_of(model)
    assert torch.equal(output_of(model), plain)
    for name, module in model.module.named_modules():
        if name.endswith("attn2"):
            module.forward = Cross(module, project(model.module, negative), None)
    close(ours, output_of(model), 1e-11)
    assert not torch.allclose(ours, plain)


@pytest.mark.parametrize("given", [True, False])
def test_tokens_that_do_not_count_may_be_masked_or_left_out(given):
    """With the mask of the prompt that the network is given, and where it is given none."""
    model = double(pixart(torch.tensor([[1.0] * 9, [1.0] * 4 + [0.0] * 5]) if given else None))
    negative, mask = torch.randn(1, 6, 12, dtype=torch.float64), torch.tensor([[1, 1, 1, 1, 0, 0]])
    with fd.nag(model.module, negative[:, :4], **NUMBERS):
        short = output_of(model)
    with fd.nag(model.module, negative, mask=mask, **NUMBERS):
        close(output_of(model), short, 1e-11)
    with fd.nag(model.module, negative, **NUMBERS):
        assert not torch.allclose(output_of(model), short)


def heads(attn: nn.Module, x: Tensor, layers: tuple[str, ...], norms: tuple[str, ...]) -> list[Tensor]:
    size = getattr(attn, "head_dim", None) or attn.inner_dim // attn.heads
    out = [getattr(attn, layer)(x).unflatten(-1, (-1, size)) for layer in layers]
    return [
        t if getattr(attn, n, None) is None else getattr(attn, n)(t) for t, n in zip(out, (*norms, ""), strict=True)
    ]


class JointOfTwo:
    """Joint attention of one image with a batch of two texts, as in the authors' code, with the paper's norm."""

    def __init__(self, text_first: bool) -> None:
        self.text_first = text_first

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states
        image = heads(attn, hidden_states, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if text is not None:
            added = heads(attn, text, ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"))
            pairs = [(b, a.expand(2, -1, -1, -1)) for a, b in zip(image, added, strict=True)]
            image = [torch.cat(pair if self.text_first else pair[::-1], dim=1) for pair in pairs]
        q, k, v = image
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(t, image_rotary_emb, sequence_dim=1) for t in (q, k))
        out = of_tokens(softmax_attention(*(t.transpose(1, 2) for t in (q, k, v))))
        if text is None and len(out) == 1:
            return attn.to_out[1](attn.to_out[0](out))  # SD3's attention to the image alone
        words = 5 if text is None else text.shape[1]
        count = out.shape[1] - words
        image_part, text_part = out.split([count, words] if not self.text_first else [words, count], 1)[
            :: 1 - 2 * self.text_first
        ]
        mixed = literal(image_part[:1], image_part[1:], **NUMBERS)
        if text is None:
            return torch.cat([text_part, mixed.expand(2, -1, -1)], dim=1)
        return attn.to_out[1](attn.to_out[0](mixed)), text_part if attn.context_pre_only else attn.to_add_out(text_part)


def single_of_two(forward, hidden_states, encoder_hidden_states, *args, **kwargs):
    text, image = forward(hidden_states.expand(2, -1, -1), encoder_hidden_states, *args, **kwargs)
    return text, image[:1]


@pytest.mark.parametrize("make", [sd3, flux])
@torch.no_grad()
def test_joint_attention_follows_the_formula_and_each_text_sees_the_image_and_itself(make):
    model = double(make())
    arguments = tuple(a[:1] for a in model.arguments)
    named = {n: a if n.endswith("ids") else a[:1] for n, a in model.named.items()}
    model = Model(model.module, *arguments, **named)
    negative = torch.randn(1, 5, 24, dtype=torch.float64)
    plain = output_of(model)
    with fd.nag(model.module, negative, **NUMBERS):
        ours = output_of(model)
    assert torch.equal(output_of(model), plain)
    for module in model.module.modules():
        if hasattr(module, "processor"):
            module.processor = JointOfTwo(make is flux)
        if type(module).__name__ == "FluxSingleTransformerBlock":
            module.forward = functools.partial(single_of_two, module.forward)
    if make is flux:
        model.named["encoder_hidden_states"] = torch.cat([model.named["encoder_hidden_states"], negative])
    else:
        model.arguments = (arguments[0], torch.cat([arguments[1], negative]), *arguments[2:])
    close(ours, output_of(model), 1e-11)
    assert not torch.allclose(ours, plain)


NETWORKS = {sd15: 24, sdxl: 24, pixart: 12, wan: 16, ltx_grid: 12, sana: 8, sd3: 24, flux: 24}


@pytest.mark.parametrize("make", NETWORKS)
def test_the_prompt_alone_counts_where_alpha_is_0_and_the_model_is_left_as_it_was(make):
    model = make()
    plain, before = output_of(model), state_of(model.module)
    with fd.nag(model.module, torch.randn(1, 3, NETWORKS[make]), alpha=0.0):
        close(output_of(model), plain)
    assert state_of(model.module) == before
    with fd.nag(model.module, torch.randn(1, 3, NETWORKS[make])):
        assert not torch.allclose(output_of(model), plain)
    with pytest.raises(TypeError), fd.nag(model.module, torch.randn(1, 3, NETWORKS[make])):
        model.module(nothing=1)
    assert state_of(model.module) == before
    assert torch.equal(output_of(model), plain)


@pytest.mark.parametrize("make", [sd15, sd3, flux, wan])
def test_it_works_on_accelerated_models_in_either_order_and_in_half_precision(make):
    model, negative = make(), torch.randn(1, 4, NETWORKS[make])
    with fd.nag(model.module, negative):
        expected = output_of(model)
        inside = fd.accelerate(model.module)
        close(output_of(model), expected)
    inside.undo()
    handle = fd.accelerate(model.module)
    for _ in range(3):
        with fd.nag(model.module, negative):
            close(output_of(model), expected)
    handle.undo()
    assert not any("forward" in vars(m) for m in model.module.modules())
    half = Model(
        model.module.bfloat16(), *map(bfloat16, model.arguments), **{n: bfloat16(a) for n, a in model.named.items()}
    )
    with fd.nag(half.module, negative):
        close(output_of(half).float(), expected, 0.1)


def bfloat16(value):
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 and value.ndim > 1 else value


def test_perturbations_and_guidance_are_both_in_force():
    model, negative = sd15(), torch.randn(1, 4, 24)
    alone = perturbed(model, fd.perturb.identity_attention)
    with fd.nag(model.module, negative):
        guided = output_of(model)
        both = perturbed(model, fd.perturb.identity_attention)
        assert torch.equal(output_of(model), guided)
    assert not torch.allclose(both, alone)
    assert not torch.allclose(both, guided)
    assert torch.equal(perturbed(model, fd.perturb.identity_attention), alone)


def test_of_a_compiled_network_the_original_runs():
    model, negative = sd3(), torch.randn(1, 4, 24)
    with fd.nag(model.module, negative):
        expected = output_of(model)
    model.module = torch.compile(model.module, backend="eager")
    plain = output_of(model)
    with fd.nag(model.module, negative):
        close(output_of(model), expected)
    assert torch.equal(output_of(model), plain)


def distilled(make):
    """A pipeline without classifier-free guidance, its arguments, and a negative prompt for it."""
    flows = (flow.sd3, flow.wan, flow.sana, flow.ltx, tiny.flux)
    kind = diffusers.FlowMatchEulerDiscreteScheduler if make in flows else diffusers.EulerDiscreteScheduler
    pipe, arguments = make(kind())
    arguments = {n: a for n, a in arguments.items() if not n.startswith("negative")}
    return pipe, {**arguments, "guidance_scale": 1.0}, torch.randn(1, 6, arguments["prompt_embeds"].shape[-1])


PIPELINES = [tiny.text_to_image, tiny.sdxl, tiny.pixart, tiny.flux, flow.sd3, flow.wan, flow.sana, flow.ltx]


@pytest.mark.parametrize("make", PIPELINES)
def test_in_a_pipeline_the_network_runs_once_a_step_with_it(make):
    pipe, arguments, negative = distilled(make)
    pipe.set_progress_bar_config(disable=True)

    def run():
        out = pipe(**arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
        return torch.as_tensor(out[0])

    plain, calls = run(), []
    network = getattr(pipe, "transformer", None) or pipe.unet
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    with fd.nag(pipe, negative):
        ours = run()
    with fd.nag(pipe, negative, alpha=0.0):
        close(run(), plain)
    hook.remove()
    assert len(calls) == 6
    assert torch.equal(run(), plain)
    assert not torch.allclose(ours, plain)
    assert ours.isfinite().all()


ERRORS = {
    "negative: expected an embedding": {"negative": torch.randn(4, 24)},
    "negative: expected an embedding .*, got str": {"negative": "blurry"},
    r"mask: expected shape \(1, 4\), got \(4,\)": {"mask": torch.ones(4)},
    "scale: expected a finite number >= 1, got 0.5": {"scale": 0.5},
    "tau: expected a number > 0, got 0": {"tau": 0},
    r"alpha: expected a number in \[0, 1\], got 1.5": {"alpha": 1.5},
}


@pytest.mark.parametrize("message", ERRORS)
def test_what_is_refused_before_the_block_begins(message):
    options = {"negative": torch.randn(1, 4, 24), **ERRORS[message]}
    with pytest.raises(ValueError, match=message), fd.nag(sd15().module, **options):
        raise AssertionError


def test_models_whose_way_with_a_text_is_not_known_are_refused():
    for model, message in (
        (nn.Linear(2, 2), "not how Linear does"),
        (wan(image=True).module, "also given an image"),
        (object(), "not how object does"),
    ):
        with pytest.raises(ValueError, match=message), fd.nag(model, torch.randn(1, 4, 16)):
            raise AssertionError


def test_a_network_that_attends_to_no_text_is_an_error_when_called():
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": None}
    model = sd15(**plain)
    with (
        pytest.raises(RuntimeError, match="has computed no attention to a text"),
        fd.nag(model.module, model.arguments[2]),
    ):
        output_of(model)


def test_calls_that_do_not_fit_the_negative_prompt_are_refused_and_undone():
    model = flux()
    before = state_of(model.module)
    for negative, options, message in (
        (torch.randn(3, 4, 24), {}, r"negative: expected shape \(1 or 2, tokens, 24\), got \(3, 4, 24\)"),
        (torch.randn(1, 4, 23), {}, r"negative: expected shape"),
        (torch.randn(1, 6, 24), {}, r"at most the prompt's 5 tokens, got 6"),
        (torch.randn(1, 4, 24), {"mask": torch.ones(1, 4)}, r"mask: FluxTransformer2DModel takes none"),
    ):
        with pytest.raises(ValueError, match=message), fd.nag(model.module, negative, **options):
            output_of(model)
        assert state_of(model.module) == before
