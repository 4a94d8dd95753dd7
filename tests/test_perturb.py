"""Perturbed networks as calls: nothing is left behind, whatever is done to the network before, during and after."""

from __future__ import annotations

import threading

import pytest
import tiny_pipelines as tiny
import torch
from patch_models import close, compvis, flux, pixart, sd3, sd15, state_of, wan
from tiny_pipelines import copied, text_unet
from torch import nn
from watched_attention import call_of, output_of

import fastdiff as fd
from fastdiff import perturb
from fastdiff.guidance import Term, Terms
from fastdiff.patch import norms

EVERY = {
    "identity": (perturb.identity_attention, {}),
    "mean queries": (perturb.blurred_queries, {}),
    "blurred queries": (perturb.blurred_queries, {"sigma": 0.7}),
    "skipped": (perturb.skipped_blocks, {}),
    "dropped": (perturb.dropped_blocks, {"p": 0.5}),
    "shuffled": (perturb.shuffled_tokens, {}),
    "dropout": (perturb.dropped_features, {"p": 0.4}),
}
MODELS = {sd15: "mid_block", sd3: [1, 2], pixart: [0], wan: 1}


def made(name, model, layers):
    perturbation, options = EVERY[name]
    return perturbation(call_of(model), layers, network=model.module, **options)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("name", EVERY)
def test_a_call_has_an_effect_and_leaves_the_very_objects(name, make):
    model = make()
    plain, before = output_of(model), state_of(model.module)
    call = made(name, model, MODELS[make])
    assert state_of(model.module) == before
    ours = call(model.arguments[0], 0.5)
    assert state_of(model.module) == before
    assert torch.equal(output_of(model), plain)
    assert float((ours - plain).abs().max()) > 1e-7 * float(plain.abs().max())
    assert torch.equal(call(model.arguments[0], 0.5), ours)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_very_objects(name, error):
    model = sd15()
    plain, call = output_of(model), made(name, model, "mid_block")
    hook = model.module.up_blocks[0].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error("here")))
    before = state_of(model.module)
    with pytest.raises(error, match="here"):
        call(model.arguments[0], 0.5)
    assert state_of(model.module) == before
    hook.remove()
    assert torch.equal(output_of(model), plain)


@pytest.mark.parametrize("name", EVERY)
def test_it_works_on_an_accelerated_model_made_before_or_after(name, monkeypatch):
    monkeypatch.setattr(norms, "_SMALL", {"none": 0, "silu": 0})
    for make, layers in ((sd15, "mid_block"), (sd3, 1), (flux, [0, 3]), (wan, 0)):
        if make is flux and "queries" in name:
            continue  # its ids are no grid
        model = make()
        x = model.arguments[0]
        earlier = made(name, model, layers)
        expected = earlier(x, 0.5)
        handle = fd.accelerate(model.module)
        later, before = made(name, model, layers), state_of(model.module)
        close(earlier(x, 0.5), expected)
        close(later(x, 0.5), expected)
        assert state_of(model.module) == before
        handle.undo()
        assert torch.equal(later(x, 0.5), expected)


def test_two_perturbations_of_one_network_do_not_meet():
    model = sd15()
    x, calls = model.arguments[0], [made(name, model, "mid_block") for name in EVERY]
    alone = [call(x, 0.5) for call in calls]
    for call, expected in zip(calls[::-1], alone[::-1], strict=True):
        assert torch.equal(call(x, 0.5), expected)


def test_one_perturbation_of_another_has_both():
    model = sd15()
    x = model.arguments[0]
    inner = perturb.skipped_blocks(call_of(model), "up_blocks", network=model.module)
    both = perturb.identity_attention(inner, "mid_block", network=model.module)(x, 0.5)
    other = perturb.identity_attention(call_of(model), "mid_block", network=model.module)
    swapped = perturb.skipped_blocks(other, "up_blocks", network=model.module)(x, 0.5)
    assert torch.equal(both, swapped)
    assert not torch.equal(both, inner(x, 0.5))
    assert not torch.equal(both, other(x, 0.5))


def test_other_threads_see_the_network_as_it_is():
    model = sd15()
    x, calls = model.arguments[0], [made("identity", model, "mid_block"), made("skipped", model, "mid_block")]
    before, plain = state_of(model.module), output_of(model)
    functions = [lambda: output_of(model), *(lambda call=call: call(x, 0.5) for call in calls)]
    expected, wrong = [plain, *(call(x, 0.5) for call in calls)], []

    def repeat(function, result):
        for _ in range(15):
            if not torch.equal(function(), result):
                wrong.append(result)

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(functions, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert state_of(model.module) == before


@pytest.mark.slow
def test_blocks_that_are_not_perturbed_stay_compiled():
    model, ran = sd3(), []
    blocks = model.module.transformer_blocks

    def counting(place):
        return lambda graph, inputs: lambda *args: ran.append(place) or graph(*args)

    for i in (0, 1):
        blocks[i].compile(backend=counting(i))
    output_of(model)
    assert {0, 1} == set(ran)
    ran.clear()
    made("identity", model, 1)(model.arguments[0], 0.5)
    assert set(ran) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["network", "network in place", "block", "block in place", "attention"])
@pytest.mark.parametrize("name", ["identity", "blurred queries", "skipped", "shuffled"])
def test_of_what_is_compiled_the_original_runs_where_it_is_perturbed_and_the_rest_stays(what, name):
    model = sd3()
    x, blocks, network = model.arguments[0], model.module.transformer_blocks, model.module
    plain, expected = output_of(model), made(name, model, 1)(x, 0.5)
    if what == "network":
        model.module = torch.compile(network, backend="eager")
    elif what == "network in place":
        network.compile(backend="eager")
    elif what == "block":
        blocks[0], blocks[1] = (torch.compile(blocks[i], backend="eager") for i in (0, 1))
    elif what == "block in place":
        blocks[1].compile(backend="eager")
    else:
        blocks[1].attn = torch.compile(blocks[1].attn, backend="eager")
    close(output_of(model), plain)
    before = state_of(model.module)
    call = made(name, model, 1)
    assert call.layers[0].startswith("transformer_blocks.1")
    close(call(x, 0.5), expected)
    assert state_of(model.module) == before
    close(output_of(model), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [sd3, flux])
def test_half_precision_is_near_float32(make, dtype):
    model = make()
    x = model.arguments[0]
    for name in ("identity", "skipped", "dropout"):
        expected = made(name, model, [0, 1])(x, 0.5)
        half = type(model)(make().module, *(a.to(dtype) if a.is_floating_point() else a for a in model.arguments))
        half.module.load_state_dict(model.module.state_dict())
        half.module.to(dtype)
        half.named = {n: a.to(dtype) if n[-3:] != "ids" else a for n, a in model.named.items()}
        ours = made(name, half, [0, 1])(x.to(dtype), 0.5)
        assert ours.dtype == dtype
        close(ours.float(), expected, 40 * torch.finfo(dtype).eps)


def test_outputs_are_unwrapped_as_in_sample_and_arguments_passed_on():
    model = sd15()
    x, t, text = model.arguments
    expected = perturb.identity_attention(lambda x, t: model.module(x, t, text).sample, network=model.module)(x, t)
    whole = perturb.identity_attention(model.module)
    assert torch.equal(whole(x, t, encoder_hidden_states=text), expected)
    assert torch.equal(whole(x, t, encoder_hidden_states=text, return_dict=False), expected)
    pair = perturb.identity_attention(lambda x, t: (x, model.module(x, t, text)), network=model.module)
    with pytest.raises(TypeError, match="a tuple of 2"):
        pair(x, t)


def test_it_perturbs_the_condition_it_is_given():
    model = sd15()
    x, t, text = model.arguments
    call, empty = perturb.skipped_blocks(model.module, "mid_block"), torch.zeros_like(text)
    cond, uncond = (model.module(x, t, c).sample for c in (text, empty))
    perturbed = call(x, t, encoder_hidden_states=text)
    for other in (cond, uncond, call(x, t, encoder_hidden_states=empty)):
        assert not torch.allclose(perturbed, other)


def test_gradients_pass_through_a_perturbed_network():
    model = sd15()
    x, t, text = model.arguments
    for name in EVERY:
        perturbation, options = EVERY[name]
        start = x.clone().requires_grad_()
        perturbation(model.module, "mid_block", **options)(start, t, encoder_hidden_states=text).sum().backward()
        assert float(start.grad.abs().max()) > 0


def test_a_plan_runs_on_a_perturbed_unet():
    unet, words = copied(text_unet()), tiny.prompt()["prompt_embeds"]
    plan = fd.plan("ddim", fd.Schedule.scaled_linear(), steps=4)
    noise = torch.randn(2, 4, 8, 8)
    ours, plain = (
        fd.sample(model, plan, noise, encoder_hidden_states=words) for model in (perturb.identity_attention(unet), unet)
    )
    assert not torch.allclose(ours, plain)
    assert ours.isfinite().all()


def test_two_perturbations_of_one_network_are_terms_of_one_guidance():
    unet, words = copied(text_unet()), tiny.prompt()
    text, empty = words["prompt_embeds"], words["negative_prompt_embeds"]
    plan = fd.plan("ddim", fd.Schedule.scaled_linear(), steps=3)
    calls = [perturb.identity_attention(unet), perturb.skipped_blocks(unet, "mid_block")]
    guidance = Terms(7.5, [Term(3.0, calls[0]), Term(2.0, calls[1])])
    noise, condition = torch.randn(2, 4, 8, 8), {"encoder_hidden_states": text}

    @torch.no_grad()
    def guided(x, t):
        good, uncond = (unet(x, t, words).sample for words in (text, empty))
        first, second = (call(x, t, **condition) for call in calls)
        return uncond + 7.5 * (good - uncond) + 3.0 * (good - first) + 2.0 * (good - second)

    before = state_of(unet)
    ours = fd.sample(unet, plan, noise, guidance=guidance, uncond={"encoder_hidden_states": empty}, **condition)
    close(ours, fd.sample(guided, plan, noise), 2e-5)
    assert state_of(unet) == before


NAMES = {
    "mid_block": ["mid_block.attentions.0.transformer_blocks.0.attn1"],
    "down_blocks.0.attentions": ["down_blocks.0.attentions.0.transformer_blocks.0.attn1"],
}


@pytest.mark.parametrize("name", NAMES)
def test_self_attention_inside_a_named_module_is_meant(name):
    assert list(perturb.identity_attention(sd15().module, name).layers) == NAMES[name]


def test_layers_are_names_numbers_or_a_predicate():
    module = flux().module
    skip = perturb.skipped_blocks
    assert skip(module, 2).layers == ("single_transformer_blocks.0",)  # numbers count through the lists
    assert skip(module, "single_transformer_blocks.0").layers == ("single_transformer_blocks.0",)
    assert skip(module, [1, "single_transformer_blocks"]).layers == (
        "transformer_blocks.1", "single_transformer_blocks.0", "single_transformer_blocks.1",
    )  # fmt: skip
    assert skip(module, lambda name, m: name.endswith("blocks.1")).layers == (
        "transformer_blocks.1", "single_transformer_blocks.1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("mid_blok", ValueError, r"no module 'mid_blok'; did you mean mid_block"),
        ("transformer", ValueError, r"no module 'transformer'"),
        ("zzz", ValueError, r"no module 'zzz'; its parts are conv_in"),
        ("", ValueError, r"no module ''"),
        (3, ValueError, r"3 names no block, for the network has no list of them; give names"),
        ([], ValueError, r"expected at least one"),
        ([None], TypeError, r"expected names, numbers of blocks or a predicate, got NoneType"),
        (lambda name, module: False, ValueError, r"the predicate holds for none of the \d+ modules"),
        ("conv_in", ValueError, r"no attention in conv_in; there is some in down_blocks"),
        ("mid_block.attentions.0.transformer_blocks.0.attn2", ValueError, r"no self-attention is among them"),
    ],
)
def test_what_names_no_layer_is_an_error_with_the_names_near_it(layers, error, message):
    with pytest.raises(error, match=message):
        perturb.identity_attention(sd15().module, layers)


def test_numbers_out_of_range_and_models_without_a_network_are_errors():
    for number in (3, -1):
        with pytest.raises(ValueError, match=f"numbers of blocks from 0 to 2, got {number}"):
            perturb.skipped_blocks(sd3().module, number)
    with pytest.raises(TypeError, match=r"a model that is no torch\.nn\.Module needs it, got function"):
        perturb.skipped_blocks(lambda x, t: x, 0)
    with pytest.raises(TypeError, match=r"network: expected a torch\.nn\.Module, got str"):
        perturb.skipped_blocks(lambda x, t: x, 0, network="unet")


@pytest.mark.parametrize("name", EVERY)
def test_a_model_that_calls_another_network_is_an_error(name):
    model = sd15()
    perturbation, options = EVERY[name]
    call = perturbation(lambda x, t: x, "mid_block", network=model.module, **options)
    with pytest.raises(RuntimeError, match="mid_block"):
        call(model.arguments[0], 0.5)


def test_a_patch_put_around_a_module_during_a_call_stays_and_the_perturbation_does_not():
    """Offloading wraps the forward of an object, for one."""
    network, seen = nn.Sequential(nn.Linear(4, 4)), []
    x = torch.randn(2, 4)

    def model(x, t):
        if not seen:
            inner = network[0].forward
            network[0].forward = lambda x: seen.append(1) or inner(x)
        return network(x)

    expected = network(x)
    call = perturb.skipped_blocks(model, "0", network=network)
    assert torch.equal(call(x, 0.5), x)
    assert torch.equal(network(x), expected)
    assert torch.equal(call(x, 0.5), x)
    assert torch.equal(network(x), expected)
    assert len(seen) == 3


class FewerKeys(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.processor = None

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x[..., ::2, :], x[..., ::2, :])


def test_self_attention_to_fewer_keys_has_no_identity_but_queries_to_blur():
    network = nn.Sequential(FewerKeys())
    x = torch.randn(1, 2, 6, 4)
    with pytest.raises(RuntimeError, match="identity_attention: 6 tokens attend to 3 others"):
        perturb.identity_attention(lambda x, t: network(x), "0", network=network)(x, 0.5)
    ours = perturb.blurred_queries(lambda x, t: network(x), "0", grid=(2, 3), network=network)(x, 0.5)
    close(ours, mean_attention(x))


def mean_attention(x):
    weights = (x.mean(2, keepdim=True) @ x[..., ::2, :].mT / 2).softmax(-1)
    return (weights @ x[..., ::2, :]).expand(x.shape)


def test_ldms_attention_can_be_seen_once_it_is_accelerated():
    model = compvis()
    x, *others = model.arguments

    def attends(name, module):
        return type(module).__name__.endswith("CrossAttention")

    plain, outputs = model(), []
    call = perturb.identity_attention(
        lambda x, t: outputs.append(model.module(x, *others)) or x, attends, network=model.module
    )
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="CrossAttention computes its attention neither"):
            call(x, 0.5)
        fd.accelerate(model.module)
        call(x, 0.5)
    assert not torch.allclose(outputs[-1], plain)


class OwnAttention(nn.Module):
    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x


def test_an_attention_that_cannot_be_seen_is_an_error():
    network = nn.Sequential(OwnAttention())
    call = perturb.identity_attention(lambda x, t: network(x), "0", network=network)
    with pytest.raises(RuntimeError, match="0: OwnAttention computes its attention neither"):
        call(torch.randn(1, 4, 4), 0.5)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_own_multihead_attention(batch_first, fast):
    network = nn.ModuleDict({"part": nn.MultiheadAttention(32, 4, batch_first=batch_first)}).eval()
    if fast:
        fd.accelerate(network)
    attention, x = network["part"], torch.randn(5, 5, 32)
    call = perturb.identity_attention(lambda x, t: attention(x, x, x, need_weights=False)[0], "part", network=network)
    with torch.no_grad():
        values = nn.functional.linear(x, *(p.chunk(3)[2] for p in (attention.in_proj_weight, attention.in_proj_bias)))
        close(call(x, 0.5), attention.out_proj(values))
