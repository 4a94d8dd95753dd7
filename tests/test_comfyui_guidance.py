"""Guidance in ComfyUI: the calls that are made, the values, and what other nodes see; in a stand-in and in ComfyUI."""

from __future__ import annotations

import math

import pytest
import torch
from comfy_guiders import conditioning
from comfy_runs import EMPTY, FLOW, NEGATIVE, POSITIVE, RUN, SIGMAS, STEP, Watch, begin, dot, levels, run
from hosts import CONST, EPS
from peers import difference

from fastdiff import comfyui, kdiffusion
from fastdiff.comfyui.calls import checked
from fastdiff.guidance import APG, CFG, Autoguidance, CFGpp, Dual, PerpNeg, Point, Tangential, Term, Terms, ZeroStar

BOTH_KINDS = pytest.mark.parametrize("flow", [False, True], ids=["noise", "flow"])


def calls(patcher):
    """For each evaluation in turn, the conditions that the network saw; "!" marks a perturbed call."""
    found = {}
    for t, value, perturbed in patcher.model.diffusion_model.seen:
        found.setdefault(t, set()).add(f"{value}{'!' if perturbed else ''}")
    return [found[t] for t in sorted(found, reverse=True)]


@BOTH_KINDS
def test_plain_guidance_is_comfyuis_own_at_the_guidances_scale(comfy_host, flow):
    patcher, x = comfy_host.patcher(flow), begin()
    expected = run(comfy_host, patcher, x, levels(flow), 3.5)
    guided = comfyui.guided(patcher, CFG(3.5))
    assert difference(run(comfy_host, guided, x, levels(flow), 99.0), expected) < RUN
    by_cfg = comfyui.guided(patcher, lambda scale: CFG(scale))
    assert difference(run(comfy_host, by_cfg, x, levels(flow), 3.5), expected) < RUN
    assert torch.equal(run(comfy_host, patcher, x, levels(flow), 3.5), expected)  # the given patcher stays as it was


def test_a_later_guidance_replaces_the_earlier_one(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    twice = comfyui.guided(comfyui.guided(patcher, APG(9.0)), CFG(2.0))
    assert difference(run(comfy_host, twice, x, SIGMAS), run(comfy_host, patcher, x, SIGMAS, 2.0)) < RUN


@BOTH_KINDS
def test_outside_of_the_interval_the_negative_prompt_is_not_evaluated(comfy_host, flow):
    patcher = comfyui.guided(comfy_host.patcher(flow), CFG(4.0, interval=(0.5, 8.0)))
    run(comfy_host, patcher, begin(), levels(flow))
    ratios = [s / (1 - s) if flow and s < 1 else s if not flow else math.inf for s in levels(flow).tolist()[:-1]]
    both = {str(POSITIVE), str(NEGATIVE)}
    assert calls(patcher) == [both if 0.5 < ratio <= 8 else {str(POSITIVE)} for ratio in ratios]


def test_where_the_scale_is_one_the_negative_prompt_is_not_evaluated_either(comfy_host):
    patcher = comfyui.guided(comfy_host.patcher(), lambda scale: Tangential(scale))
    run(comfy_host, patcher, begin(), SIGMAS, 1.0)
    assert calls(patcher) == [{str(POSITIVE)}] * 6


def test_zero_star_makes_no_call_in_its_first_step_and_x_stays(comfy_host):
    patcher = comfyui.guided(comfy_host.patcher(flow=True), ZeroStar(4.0, zero_steps=1))
    watch = Watch()
    run(comfy_host, patcher, begin(), FLOW, sampler=watch)
    assert len(calls(patcher)) == 5
    torch.testing.assert_close(watch.steps[1]["x"], watch.steps[0]["x"], rtol=1e-6, atol=1e-6)


def test_cfg_zero_star_is_the_papers_in_the_velocity(comfy_host):
    patcher, x = comfy_host.patcher(flow=True), begin()
    watch = Watch()
    run(comfy_host, comfyui.guided(patcher, ZeroStar(4.0, zero_steps=0)), x, FLOW, sampler=watch)

    def combine(x, at, sigma):
        c, u = ((x - at(value)) / sigma for value in (POSITIVE, NEGATIVE))
        s = dot(c, u) / dot(u, u)
        return x - sigma * (s * u + 4.0 * (c - s * u))

    assert watch.error(patcher, combine) < STEP


@BOTH_KINDS
def test_momentum_is_kept_within_a_run_and_not_between_runs(comfy_host, flow):
    patcher, x = comfy_host.patcher(flow), begin()
    guided = comfyui.guided(patcher, APG(5.0, 3.0, 0.2, -0.5))
    watch = Watch()
    first = run(comfy_host, guided, x, levels(flow), sampler=watch)
    assert torch.equal(run(comfy_host, guided, x, levels(flow)), first)
    kept = torch.zeros_like(x)

    def combine(x, at, sigma):
        nonlocal kept
        c, u = at(POSITIVE), at(NEGATIVE)
        kept = c - u - 0.5 * kept
        d = kept * (3.0 / dot(kept, kept).sqrt()).clamp(max=1)
        along = dot(d, c) / dot(c, c) * c
        return c + 4.0 * (d - along + 0.2 * along)

    assert watch.error(patcher, combine) < STEP


@BOTH_KINDS
def test_three_prompts_are_three_calls(comfy_host, flow):
    patcher, x = comfy_host.patcher(flow), begin()
    guidance = PerpNeg(4.0, 0.7, comfyui.condition("empty"))
    guider = comfyui.guider(
        patcher, guidance, conditioning(POSITIVE), conditioning(NEGATIVE), empty=conditioning(EMPTY)
    )
    watch = Watch()
    comfy_host.run(guider, watch, x, levels(flow))
    assert calls(patcher) == [{str(POSITIVE), str(NEGATIVE), str(EMPTY)}] * 6
    assert patcher.model.diffusion_model.places == {(POSITIVE, 0), (NEGATIVE, 1), (EMPTY, 2)}

    def combine(x, at, sigma):
        e = at(EMPTY)
        p, n = at(POSITIVE) - e, at(NEGATIVE) - e
        return e + 4.0 * (p - 0.7 * (n - dot(n, p) / dot(p, p) * p))

    assert watch.error(patcher, combine) < STEP


def test_a_call_that_is_not_made_leaves_the_places_of_the_others(comfy_host):
    patcher = comfy_host.patcher()
    guidance = Dual(6.0, 1.0, comfyui.condition("middle"))  # without the negative prompt
    guider = comfyui.guider(patcher, guidance, conditioning(POSITIVE), middle=conditioning(EMPTY))
    comfy_host.run(guider, kdiffusion.sample_euler, begin(), SIGMAS)
    assert patcher.model.diffusion_model.places == {(POSITIVE, 0), (EMPTY, 2)}


@pytest.mark.parametrize("nested", [False, True])
def test_two_conditions_are_instruct_pix2pixs(comfy_host, nested):
    patcher, x = comfy_host.patcher(), begin()
    guidance = Dual(6.0, 1.5, comfyui.condition("middle"), nested)
    guider = comfyui.guider(
        patcher, guidance, conditioning(POSITIVE), conditioning(NEGATIVE), middle=conditioning(EMPTY)
    )
    watch = Watch()
    comfy_host.run(guider, watch, x, SIGMAS)

    def combine(x, at, sigma):
        c, u, m = at(POSITIVE), at(NEGATIVE), at(EMPTY)
        return u + 1.5 * (m + 6 * (c - m) - u) if nested else u + 1.5 * (m - u) + 6.0 * (c - m)

    assert watch.error(patcher, combine) < STEP


def test_a_perturbed_call_is_made_where_its_term_acts(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    term = Term(3.0, comfyui.perturbed_attention(), (1.0, 6.0))
    watch = Watch()
    run(comfy_host, comfyui.guided(patcher, Terms(4.0, (term,))), x, SIGMAS, sampler=watch)
    both = {str(POSITIVE), str(NEGATIVE)}
    assert calls(patcher) == [both | ({f"{POSITIVE}!"} if 1 < s <= 6 else set()) for s in SIGMAS.tolist()[:-1]]
    assert patcher.model.diffusion_model.places == {(POSITIVE, 0), (NEGATIVE, 1)}
    options = {"patches_replace": {"attn1": {("middle", 0): None}}}

    def combine(x, at, sigma):
        c, u = at(POSITIVE), at(NEGATIVE)
        return u + 4.0 * (c - u) + (3.0 * (c - at(POSITIVE, options)) if 1 < sigma <= 6 else 0)

    assert watch.error(patcher, combine) < STEP


def test_a_weaker_model_runs_beside_with_its_own_options(comfy_host):
    patcher, weak, x = comfy_host.patcher(), comfy_host.patcher(), begin()
    weak.model_options["transformer_options"]["patches_replace"] = {"attn1": {("middle", 0): None}}
    made = comfyui.guider(patcher, Autoguidance(2.5, comfyui.weak_model(weak)), conditioning(POSITIVE))
    watch, networks = Watch(), [each.model.diffusion_model for each in (patcher, weak)]
    comfy_host.run(made, watch, x, SIGMAS)
    assert [{(value, perturbed) for _, value, perturbed in network.seen} for network in networks] == [
        {(POSITIVE, False)}, {(POSITIVE, True)},
    ]  # fmt: skip
    options = weak.model_options["transformer_options"]
    combine = lambda x, at, sigma: 2.5 * at(POSITIVE) - 1.5 * at(POSITIVE, options)  # noqa: E731
    assert watch.error(patcher, combine) < STEP
    with pytest.raises(ValueError, match="weak_model: expected a model with weights of its own"):
        comfyui.guided(patcher, Autoguidance(2.0, comfyui.weak_model(patcher.clone())))
    with pytest.raises(ValueError, match="weak_model: ComfyUI has not loaded it"):
        run(comfy_host, comfyui.guided(patcher, lambda cfg: Autoguidance(cfg, comfyui.weak_model(weak))), x, SIGMAS)
    assert comfyui.guided(made.model_patcher, CFG(2.0)).additional_models == {}


def test_layers_are_skipped_beside_other_patches_and_those_stay():
    options = {"transformer_options": {"patches_replace": {"dit": {("double_block", 5): print}}}, "other": 1}
    call = checked(comfyui.skipped_layers([1, 2], [3]), {"positive": None})
    changed = call["options"](options)
    places = changed["transformer_options"]["patches_replace"]["dit"]
    assert set(places) == {("double_block", 5), ("double_block", 1), ("double_block", 2), ("single_block", 3)}
    assert places["double_block", 1]({"img": 1}, {}) == {"img": 1}
    assert options == {"transformer_options": {"patches_replace": {"dit": {("double_block", 5): print}}}, "other": 1}
    attention = comfyui.perturbed_attention("output", 2)["options"]({})
    patch = attention["transformer_options"]["patches_replace"]["attn1"]["output", 2]
    assert patch(1, 2, 3, {}, mask=None) == 3


@pytest.mark.parametrize("name", ["euler_cfg_pp", "dpmpp_2m_cfg_pp"])
def test_samplers_with_cfg_pp_see_the_negative_output_where_guidance_makes_no_use_of_it(comfy_host, name):
    """CFG at scale 1 needs no unconditional output, but those samplers do."""
    patcher, x = comfy_host.patcher(), begin()
    sampler = getattr(kdiffusion, f"sample_{name}")
    guided = comfyui.guided(patcher, CFG(1.0))
    drawn, expected = (run(comfy_host, each, x, SIGMAS, 1.0, sampler) for each in (guided, patcher))
    assert difference(drawn, expected) < RUN


@BOTH_KINDS
def test_cfg_pp_as_guidance_of_euler_is_the_sampler_of_that_name(comfy_host, flow):
    patcher, x = comfy_host.patcher(flow), begin()
    expected = run(comfy_host, patcher, x, levels(flow), 0.6, kdiffusion.sample_euler_cfg_pp)
    drawn = run(comfy_host, comfyui.guided(patcher, CFGpp(0.6)), x, levels(flow))
    assert difference(drawn, expected) < RUN


def test_functions_of_other_nodes_run_before_and_after(comfy_host):
    patcher, x, after = comfy_host.patcher(), begin(), []
    patcher.set_model_sampler_pre_cfg_function(lambda args: [0.9 * args["conds_out"][0], *args["conds_out"][1:]])
    patcher.set_model_sampler_post_cfg_function(lambda args: after.append(args) or 1.1 * args["denoised"])
    watch = Watch()
    run(comfy_host, comfyui.guided(patcher, CFG(3.0)), x, SIGMAS, sampler=watch)
    combine = lambda x, at, sigma: 1.1 * (at(NEGATIVE) + 3.0 * (0.9 * at(POSITIVE) - at(NEGATIVE)))  # noqa: E731
    assert watch.error(patcher, combine) < STEP
    assert len(after) == 6


def test_a_function_that_evaluates_the_conditions_still_does(comfy_host):
    patcher, x, batches = comfy_host.patcher(), begin(), []

    def evaluate(args):
        from comfy.samplers import calc_cond_batch

        batches.append(len(args["conds"]))
        return calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

    patcher.model_options["sampler_calc_cond_batch_function"] = evaluate
    run(comfy_host, comfyui.guided(patcher, CFG(3.0)), x, SIGMAS)
    assert batches == [2] * 6


def test_what_does_not_fit_is_refused(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    with pytest.raises(TypeError, match=r"guidance: expected a fastdiff\.guidance object or a function, got int"):
        comfyui.guided(patcher, 7)
    with pytest.raises(ValueError, match="it asks for the condition 'empty', and this run has 'positive', 'negative'"):
        run(comfy_host, comfyui.guided(patcher, PerpNeg(4.0, 1.0, comfyui.condition("empty"))), x, SIGMAS)
    with pytest.raises(ValueError, match=r"guidance: expected its further calls from fastdiff\.comfyui"):
        run(comfy_host, comfyui.guided(patcher, PerpNeg(4.0, 1.0, {"y": 1})), x, SIGMAS)
    with pytest.raises(ValueError, match="it asks for the condition 'negative', and this run has 'positive'"):
        comfy_host.run(comfyui.guider(patcher, CFG(4.0), conditioning(POSITIVE)), kdiffusion.sample_euler, x, SIGMAS)
    with pytest.raises(ValueError, match="scale"):
        run(comfy_host, comfyui.guided(patcher, CFG([1.0, 2.0, 3.0])), x, SIGMAS)
    with pytest.raises(ValueError, match="double, single: expected the number of a layer"):
        comfyui.skipped_layers()


def test_a_guider_without_a_negative_prompt_runs_guidance_that_needs_none(comfy_host):
    patcher, x = comfy_host.patcher(), begin()
    guider = comfyui.guider(patcher, CFG(1.0), conditioning(POSITIVE))
    drawn = comfy_host.run(guider, kdiffusion.sample_euler, x, SIGMAS)
    assert difference(drawn, run(comfy_host, patcher, x, SIGMAS, 1.0)) < RUN


def test_a_sample_is_the_same_in_any_batch(comfy_host):
    patcher, x = comfy_host.patcher(), begin(3)
    for guidance in (APG(6.0, 4.0, 0.0, -0.5), Tangential(6.0), ZeroStar(6.0, 0)):
        guided = comfyui.guided(patcher, guidance)
        together = run(comfy_host, guided, x, SIGMAS)
        assert difference(run(comfy_host, guided, x[1:2], SIGMAS), together[1:2]) < RUN


def test_a_level_is_a_point_of_its_step():
    """Steps, not evaluations: a sampler may evaluate several times in one."""
    found = comfyui.Levels(EPS(), SIGMAS)
    assert found.point(torch.tensor([14.6])) == Point(
        0, 6, pytest.approx(14.6), 1.0, pytest.approx(14.6), "sample", after=(1.0, 9.0)
    )
    assert [found.point(torch.tensor([s])).i for s in (20.0, 9.0, 8.9, 0.2, 0.1)] == [0, 1, 1, 5, 5]
    point = comfyui.Levels(CONST(), FLOW).point(torch.tensor([0.75, 0.75]))
    assert (point.i, point.alpha, point.sigma, point.after) == (2, 0.25, 0.75, (0.5, 0.5))
    rising = comfyui.Levels(EPS(), torch.tensor([0.5, 1.0, 3.0]))
    assert [rising.point(torch.tensor([s])).i for s in (0.5, 0.7, 1.0, 2.0)] == [0, 0, 1, 1]


def test_percentages_are_of_the_models_time_and_become_levels():
    flow = CONST()
    low, high = comfyui.interval_of(flow, 0.2, 0.6)
    sigmas = [flow.percent_to_sigma(p) for p in (0.6, 0.2)]
    assert (low, high) == pytest.approx([s / (1 - s) for s in sigmas])
    assert comfyui.interval_of(flow, 0.0, 1.0) is None
    assert comfyui.interval_of(flow, 0.0, 0.6) == (pytest.approx(low), math.inf)
    assert comfyui.interval_of(flow, 0.2, 1.0) == (0.0, pytest.approx(high))
    with pytest.raises(ValueError, match="start_percent, end_percent: expected 0 <= start < end <= 1"):
        comfyui.interval_of(flow, 0.6, 0.6)
