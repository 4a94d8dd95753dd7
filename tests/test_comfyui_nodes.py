"""Nodes of guidance: their inputs, their runs, and where ComfyUI's own nodes of these methods give something else."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from comfy_guiders import Real, conditioning
from comfy_runs import EMPTY, FLOW, NEGATIVE, POSITIVE, RUN, SIGMAS, STEP, Watch, begin, dot, levels, run
from peers import difference

from fastdiff import comfyui, kdiffusion
from fastdiff.comfyui.guidance_nodes import NODES
from fastdiff.comfyui.widgets import layers

NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in NODES.items()}
ON_MODEL = [name for name, node in NODE_CLASS_MAPPINGS.items() if node.RETURN_TYPES == ("MODEL",)]
OWN = {  # where the defaults are plain guidance, on such small latents or at this cfg
    "FastdiffCFG": {"rescale": 0.7},
    "FastdiffSkipLayers": {"double_layers": "1"},
    "FastdiffFreSca": {"cutoff": 1},
    "FastdiffFrequencyDecoupled": {"coarse_cfg": 2.0},
    "FastdiffAdaptive": {"cosine": -1.0},
}
GUIDERS = [name for name in NODE_CLASS_MAPPINGS if name not in ON_MODEL]


def apply(name, patcher, **values):
    """A node's output, with the defaults of its widgets for the values that are not given."""
    node = NODE_CLASS_MAPPINGS[name]
    inputs = {key: widget for group in node.INPUT_TYPES().values() for key, widget in group.items()}
    defaults = {key: widget[1]["default"] for key, widget in inputs.items() if widget[1:] and "default" in widget[1]}
    (output,) = getattr(node(), node.FUNCTION)(**{"model": patcher, **defaults, **values})
    return output


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_a_nodes_inputs_are_what_its_function_takes(name):
    node = NODE_CLASS_MAPPINGS[name]
    assert node.CATEGORY == "fastdiff/guidance"
    groups = node.INPUT_TYPES()
    given = [key for group in groups.values() for key in group]
    if name in ON_MODEL:
        taken = list(inspect.signature(node.guidance).parameters)
        assert [key for key in groups["required"] if key != "model"] == [
            key for key in taken if key not in ("scale", "interval", "space")
        ]
        assert list(groups["optional"]) == ["start_percent", "end_percent"]
        for key, parameter in inspect.signature(node.guidance).parameters.items():
            if parameter.default is not inspect.Parameter.empty and key != "double_layers":
                assert groups["required"][key][1]["default"] == parameter.default
    else:
        assert given == list(inspect.signature(node.get_guider).parameters)[1:]
    for key, widget in ((key, widget) for group in groups.values() for key, widget in group.items()):
        if widget[0] in ("FLOAT", "INT"):
            assert widget[1]["min"] <= widget[1]["default"] <= widget[1]["max"], key


@pytest.mark.parametrize("name", ON_MODEL)
def test_every_node_guides_the_samplers_that_run_its_model(comfy_host, name):
    flow = name in ("FastdiffCFGZeroStar", "FastdiffSkipLayers")
    patcher, x, cfg = comfy_host.patcher(flow), begin(), 0.6 if name == "FastdiffCFGpp" else 5.0
    plain = run(comfy_host, patcher, x, levels(flow), cfg)
    window = {"start_percent": 0.0, "end_percent": 1.0} if flow else {}
    drawn = run(comfy_host, apply(name, patcher, **OWN.get(name, {}), **window), x, levels(flow), cfg)
    assert torch.isfinite(drawn).all()
    assert difference(drawn, plain) > 1e-3


@pytest.mark.parametrize("name", GUIDERS)
def test_every_guider_node_gives_a_guider(comfy_host, name):
    values = {"positive": POSITIVE, "negative": NEGATIVE, "empty": EMPTY, "middle": EMPTY}
    taken = inspect.signature(NODE_CLASS_MAPPINGS[name].get_guider).parameters
    prompts = {prompt: value for prompt, value in values.items() if prompt in taken}
    patcher, weak = comfy_host.patcher(), {"weak": comfy_host.patcher()} if "weak" in taken else {}
    guider = apply(name, patcher, **weak, **{prompt: conditioning(value) for prompt, value in prompts.items()})
    drawn = comfy_host.run(guider, kdiffusion.sample_euler, begin(), SIGMAS)
    assert torch.isfinite(drawn).all()
    assert {value for _, value, _ in patcher.model.diffusion_model.seen} == set(prompts.values())


def test_a_window_is_of_noise_levels(comfy_host):
    patcher, x = comfy_host.patcher(flow=True), begin()
    half = apply("FastdiffCFG", patcher, end_percent=0.5)
    watch = Watch()
    run(comfy_host, half, x, FLOW, 4.0, watch)
    end = float(patcher.get_model_object("model_sampling").percent_to_sigma(0.5))

    def combine(x, at, sigma):
        return at(NEGATIVE) + 4.0 * (at(POSITIVE) - at(NEGATIVE)) if sigma > end else at(POSITIVE)

    assert watch.error(patcher, combine) < STEP


def test_adaptive_guidance_leaves_the_negative_prompt_out_for_good(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    run(comfy_host, apply("FastdiffAdaptive", patcher, cosine=-1.0), x, SIGMAS)
    values = [value for _, value, _ in patcher.model.diffusion_model.seen]
    assert values.count(NEGATIVE) == len(x)
    assert values.count(POSITIVE) == 6 * len(x)
    run(comfy_host, apply("FastdiffAdaptive", patcher, cosine=1.0), x, SIGMAS)  # a new run begins anew
    assert [value for _, value, _ in patcher.model.diffusion_model.seen].count(NEGATIVE) == 6 * len(x)


def test_layers_are_read_from_a_text():
    assert layers("7, 8,9") == [7, 8, 9]
    assert layers("") == []
    with pytest.raises(ValueError, match="layers: expected numbers such as '7, 8, 9', got 'a'"):
        layers("a")


def check_theirs(comfy_host, name, patcher, formula, x, sigmas, cfg, **values):
    """Where ComfyUI is there, its node gives the formula by which these tests describe it."""
    if isinstance(comfy_host, Real):
        module, node = name.split(".")
        node = getattr(importlib.import_module(f"comfy_extras.{module}"), node)
        new = hasattr(node, "execute")
        guided = node.execute(patcher, **values).result[0] if new else node().patch(patcher, **values)[0]
        watch = Watch()
        run(comfy_host, guided, x, sigmas, cfg, watch)
        assert watch.error(patcher, formula) < 5 * STEP


def test_apg_with_nothing_taken_away_is_guidance_at_cfg_and_in_comfyui_at_one_more(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    off = {"eta": 1.0, "momentum": 0.0}
    watch = Watch()
    run(comfy_host, apply("FastdiffAPG", patcher, norm=0.0, **off), x, SIGMAS, 7.0, watch)
    plain = lambda scale: lambda x, at, sigma: at(NEGATIVE) + scale * (at(POSITIVE) - at(NEGATIVE))  # noqa: E731
    assert watch.error(patcher, plain(7.0)) < STEP
    assert watch.error(patcher, plain(8.0)) > 1e-3
    check_theirs(comfy_host, "nodes_apg.APG", patcher, plain(8.0), x, SIGMAS, 7.0, norm_threshold=0.0, **off)


def test_perpendicular_guidance_is_each_samples_own_and_in_comfyui_the_batchs(comfy_host):
    patcher, x = comfy_host.patcher(), begin(3) * torch.tensor([1.0, 2.0, 0.3]).view(-1, 1, 1, 1)

    def combine(inner):
        def combined(x, at, sigma):
            e = at(EMPTY)
            p, n = at(POSITIVE) - e, at(NEGATIVE) - e
            return e + 8.0 * (p - (n - inner(n, p) / inner(p, p) * p))

        return combined

    over_all = lambda a, b: (a * b).sum()  # noqa: E731
    prompts = {"positive": conditioning(POSITIVE), "negative": conditioning(NEGATIVE)}
    watch = Watch()
    comfy_host.run(apply("FastdiffPerpNegGuider", patcher, empty=conditioning(EMPTY), **prompts), watch, x, SIGMAS)
    assert watch.error(patcher, combine(dot)) < 5 * STEP
    assert watch.error(patcher, combine(over_all)) > 1e-3
    if isinstance(comfy_host, Real):
        from comfy_extras.nodes_perpneg import PerpNegGuider

        watch = Watch()
        node = PerpNegGuider.execute(patcher, **prompts, empty_conditioning=conditioning(EMPTY), cfg=8.0, neg_scale=1.0)
        comfy_host.run(node.result[0], watch, x, SIGMAS)
        assert watch.error(patcher, combine(over_all)) < 5 * STEP


def test_cfg_zero_star_is_of_velocities_and_in_comfyui_a_term_is_missing(comfy_host):
    patcher, x, g = comfy_host.patcher(flow=True), begin(), 5.0

    def parts(x, at):
        c, u = at(POSITIVE), at(NEGATIVE)
        return c, u, dot(x - c, x - u) / dot(x - u, x - u)

    def papers(x, at, sigma):
        c, u, s = parts(x, at)
        return g * c + (1 - g) * s * u + (1 - g) * (1 - s) * x

    def comfyuis(x, at, sigma):
        c, u, s = parts(x, at)
        return g * c + (1 - g) * s * u

    watch = Watch()
    run(comfy_host, apply("FastdiffCFGZeroStar", patcher, zero_steps=0), x, FLOW, g, watch)
    assert watch.error(patcher, papers) < 5 * STEP
    assert watch.error(patcher, comfyuis) > 1e-3
    check_theirs(comfy_host, "nodes_cfg.CFGZeroStar", patcher, comfyuis, x, FLOW, g)


def test_mahiro_is_each_images_own_and_in_comfyui_the_batchs(comfy_host):
    patcher, g = comfy_host.patcher(), 5.0
    x = begin(3) * torch.tensor([1.0, 2.0, 0.3]).view(-1, 1, 1, 1)

    def mixed(mean):
        def combined(x, at, sigma):
            c, u = at(POSITIVE), at(NEGATIVE)
            plain = u + g * (c - u)
            a, b = (z.sign() * z.abs().sqrt() for z in (g * u, (g * c + plain) / 2))
            q = mean((a * b).sum(1, keepdim=True) / (a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True)))
            return (1 + q) / 2 * plain + (1 - q) / 2 * g * c

        return combined

    watch = Watch()
    run(comfy_host, apply("FastdiffMahiro", patcher), x, SIGMAS, g, watch)
    assert watch.error(patcher, mixed(lambda q: q.mean((1, 2, 3), keepdim=True))) < 5 * STEP
    assert watch.error(patcher, mixed(torch.mean)) > 1e-3
    check_theirs(comfy_host, "nodes_mahiro.Mahiro", patcher, mixed(torch.mean), x, SIGMAS, g)


@pytest.mark.parametrize("size", [32, 96])
def test_fresca_is_comfyuis(comfy_host, size):
    patcher, x, g = comfy_host.patcher(), torch.randn(1, 4, size, size), 4.0
    periods = torch.fft.fftfreq(size, 1 / size)
    coarse = (periods >= -20) & (periods < 20)
    weight = torch.where(coarse[:, None] & coarse, 1.0, 1.25)

    def combine(x, at, sigma):
        c, u = at(POSITIVE), at(NEGATIVE)
        return u + g * torch.fft.ifft2(torch.fft.fft2(c - u) * weight).real

    watch = Watch()
    run(comfy_host, apply("FastdiffFreSca", patcher), x, SIGMAS, g, watch)
    assert watch.error(patcher, combine) < 5 * STEP
    widgets = {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 20}
    check_theirs(comfy_host, "nodes_fresca.FreSca", patcher, combine, x, SIGMAS, g, **widgets)


def test_a_norm_that_is_not_exceeded_is_comfyuis(comfy_host):
    patcher, x, g = comfy_host.patcher(), begin(), 4.0

    def combine(x, at, sigma):
        c, u = at(POSITIVE), at(NEGATIVE)
        y = u + g * (c - u)
        return 0.9 * y * (c.norm(dim=1, keepdim=True) / y.norm(dim=1, keepdim=True)).clamp(max=1)

    watch = Watch()
    run(comfy_host, apply("FastdiffCFGNorm", patcher, strength=0.9), x, SIGMAS, g, watch)
    assert watch.error(patcher, combine) < 5 * STEP
    check_theirs(comfy_host, "nodes_cfg.CFGNorm", patcher, combine, x, SIGMAS, g, strength=0.9)


@pytest.mark.parametrize("flow", [False, True], ids=["noise", "flow"])
def test_tangential_damping_is_comfyuis(comfy_host, flow):
    patcher, x = comfy_host.patcher(flow), begin()

    def combine(x, at, sigma):
        c, u = (x - at(value) for value in (POSITIVE, NEGATIVE))
        rows = torch.stack([u, c], 1).flatten(2).double()
        along = torch.linalg.svd(rows, full_matrices=False)[2][:, :1]
        damped = ((rows[:, :1] @ along.mT) @ along).view_as(x)
        return (x - damped - 6.0 * (c - damped)).float()

    watch = Watch()
    run(comfy_host, apply("FastdiffTangentialCFG", patcher), x, levels(flow), 6.0, watch)
    assert watch.error(patcher, combine) < 5 * STEP
    check_theirs(comfy_host, "nodes_tcfg.TCFG", patcher, combine, x, levels(flow), 6.0)


def test_rescaled_guidance_is_comfyuis_in_v_and_on_flows_in_the_velocity(comfy_host):
    x, g, phi = begin(), 6.0, 0.7

    def rescaled(c, u):
        y = u + g * (c - u)
        return y * (1 - phi + phi * c.std((1, 2, 3), keepdim=True) / y.std((1, 2, 3), keepdim=True))

    def in_v(x, at, sigma):
        a = 1 / (1 + sigma**2) ** 0.5
        v = lambda d: (a**2 * x - d) / (a * sigma)  # noqa: E731
        return a**2 * x - a * sigma * rescaled(v(at(POSITIVE)), v(at(NEGATIVE)))

    def in_velocity(x, at, sigma):
        return x - sigma * rescaled((x - at(POSITIVE)) / sigma, (x - at(NEGATIVE)) / sigma)

    for flow, combine in ((False, in_v), (True, in_velocity)):
        patcher, watch = comfy_host.patcher(flow), Watch()
        run(comfy_host, apply("FastdiffCFG", patcher, rescale=phi), x, levels(flow), g, watch)
        assert watch.error(patcher, combine) < 5 * STEP
    check_theirs(
        comfy_host, "nodes_model_advanced.RescaleCFG", comfy_host.patcher(), in_v, x, SIGMAS, g, multiplier=phi
    )


def test_perturbed_attention_is_comfyuis(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    options = {"patches_replace": {"attn1": {("middle", 0): None}}}

    def combine(x, at, sigma):
        c, u = at(POSITIVE), at(NEGATIVE)
        return u + 5.0 * (c - u) + 3.0 * (c - at(POSITIVE, options))

    watch = Watch()
    run(comfy_host, apply("FastdiffPerturbedAttention", patcher), x, SIGMAS, 5.0, watch)
    assert watch.error(patcher, combine) < 5 * STEP
    check_theirs(comfy_host, "nodes_pag.PerturbedAttentionGuidance", patcher, combine, x, SIGMAS, 5.0, scale=3.0)


def test_the_cfg_pp_node_takes_the_samplers_cfg_for_lambda(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    expected = run(comfy_host, patcher, x, SIGMAS, 0.6, kdiffusion.sample_euler_cfg_pp)
    assert difference(run(comfy_host, apply("FastdiffCFGpp", patcher), x, SIGMAS, 0.6), expected) < RUN
    with pytest.raises(ValueError, match=r"lam: expected numbers in \[0, 1\]"):
        run(comfy_host, apply("FastdiffCFGpp", patcher), x, SIGMAS, 7.0)


def test_the_public_names_are_there():
    assert all(hasattr(comfyui, name) for name in comfyui.__all__)
