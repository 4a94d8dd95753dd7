"""Nodes that sample: samplers, grids, plans and fits, in a stand-in for ComfyUI's modules and in ComfyUI."""

from __future__ import annotations

import inspect
import types
from dataclasses import replace

import comfy_blocks
import numpy as np
import pytest
import torch
from comfy_guiders import conditioning
from comfy_modules import ContinuousEDM, DiscreteEPS, Flow, run
from hosts import SHIFT
from peers import difference
from torch import nn

import fastdiff as fd
from fastdiff import comfyui, kdiffusion
from fastdiff.comfyui import plan_files
from fastdiff.comfyui import schedule as schedules
from fastdiff.comfyui.fit import check_guidance
from fastdiff.comfyui.host_plan import sampler_of, sigmas_of
from fastdiff.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from fastdiff.comfyui.samplers import NAMES, options_of, read_options
from fastdiff.fitting import convergence, course
from fastdiff.guidance import APG, CFG, CFGpp, History, ZeroStar

BOTH_KINDS = pytest.mark.parametrize("flow", [False, True], ids=["noise", "flow"])
RUN = 3e-4  # float32's error in whole runs of these networks


def call(name, **values):
    """A node's outputs, with the defaults of its widgets for the values that are not given."""
    node = NODE_CLASS_MAPPINGS[name]
    inputs = {key: widget for group in node.INPUT_TYPES().values() for key, widget in group.items()}
    defaults = {key: widget[1]["default"] for key, widget in inputs.items() if "default" in widget[1]}
    return getattr(node(), node.FUNCTION)(**(defaults | values))


def noise(count=2):
    return torch.randn(count, 4, 6, 5)


def levels(patcher, steps=6):
    return call("FastdiffScheduler", model=patcher, scheduler="karras", steps=steps)[0]


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_nodes_are_described_alike(comfy_modules, name):
    node = NODE_CLASS_MAPPINGS[name]
    assert NODE_DISPLAY_NAME_MAPPINGS[name].endswith("(fastdiff)")
    assert node.CATEGORY.split("/")[0] == "fastdiff"
    assert node.DESCRIPTION.endswith(".")
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    inputs = {key: widget for group in node.INPUT_TYPES().values() for key, widget in group.items()}
    taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
    assert set(inputs) <= set(taken) or any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for text in [*node.OUTPUT_TOOLTIPS, *(widget[1]["tooltip"] for widget in inputs.values())]:
        assert text.endswith(".")


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpm_adaptive", "dpmpp_2m_sde"])
@BOTH_KINDS
def test_a_sampler_is_the_function_of_that_name_with_the_hosts_noise(comfy_modules, name, flow):
    patcher, start = comfy_modules.patcher(flow), noise()
    options = {"dpm_adaptive": "rtol=0.1, order=2", "euler_ancestral": "eta=0.7"}.get(name, "")
    (sampler,) = call("FastdiffSampler", sampler_name=name, options=options)
    before = dict(vars(comfy_modules.sampling))
    drawn = run(patcher, sampler, levels(patcher), start)
    assert vars(comfy_modules.sampling) == before
    assert torch.equal(run(patcher, sampler, levels(patcher), start), drawn)
    import comfy.samplers

    handle = kdiffusion.register(comfy_modules.sampling, prefix="fd_")
    function = getattr(comfy_modules.sampling, f"sample_fd_{name}")
    expected = run(patcher, comfy.samplers.KSAMPLER(function, read_options(name, options)), levels(patcher), start)
    handle.undo()
    assert torch.equal(drawn, expected)


def test_a_seed_keeps_its_image_where_the_host_has_the_sampler(comfy_modules):
    import comfy.samplers

    patcher, start = comfy_modules.patcher(flow=True), noise()
    theirs = comfy.samplers.KSAMPLER(comfy_modules.sampling.sample_euler_ancestral, {"eta": 0.6})
    (ours,) = call("FastdiffSampler", sampler_name="euler_ancestral", options="eta=0.6")
    images = (run(patcher, sampler, levels(patcher), start) for sampler in (ours, theirs))
    assert difference(*images) < RUN


def test_every_name_has_options_that_can_be_read():
    assert {f"sample_{name}" for name in NAMES} == {n for n in kdiffusion.__all__ if n.startswith("sample_")}
    for name in NAMES:
        written = ", ".join(f"{key}={value}" for key, value in options_of(name).items())
        assert read_options(name, written) == options_of(name)
        assert read_options(name, "") == {}
    assert read_options("dpmpp_2m_sde", "eta = 0.5\nsolver_type=heun") == {"eta": 0.5, "solver_type": "heun"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("eulr", "", "sampler_name: expected one of .*euler.*, got 'eulr'"),
        ("euler", "eta=1", "what euler has, got 'eta=1'; it has s_churn=0.0, s_tmin=0.0"),
        ("euler", "s_churn", "got 's_churn'"),
        ("euler", "s_churn=much", "options: expected a number for s_churn, got 'much'"),
        ("dpm_adaptive", "order=2.5", "options: expected a whole number for order, got '2.5'"),
        ("euler_cfg_pp", "eta=1", "it has no options"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(name, options, message):
    node = NODE_CLASS_MAPPINGS["FastdiffSampler"]
    with pytest.raises(ValueError, match=message):
        read_options(name, options)
    with pytest.raises(ValueError, match=message):
        raise ValueError(node.VALIDATE_INPUTS(name, options))
    assert node.VALIDATE_INPUTS("euler", None) is True
    assert node.VALIDATE_INPUTS(None, options) is True


def test_grids_are_on_the_models_own_levels():
    sd = fd.Schedule.scaled_linear()
    known = {DiscreteEPS(sd): sd, ContinuousEDM(): fd.Schedule.edm(0.002, 120.0)}
    known[Flow()] = fd.Schedule.flow(SHIFT)
    for sampling, schedule in known.items():
        for grid in ("time", "logsnr", "karras", "exponential", "quadratic"):
            rows = fd.plan("euler", schedule, 7, grid=grid, prediction="sample").rows
            expected = [row.sigma if schedule.kind == "flow" else row.sigma / row.alpha for row in rows] + [0.0]
            np.testing.assert_allclose(schedules.sigmas_on(sampling, grid, 7), expected, rtol=2e-6)


def test_every_model_sampling_of_comfyuis_has_a_schedule_with_its_ends(comfyui):
    import comfy.model_sampling as theirs

    kinds = dict.fromkeys(("ModelSamplingDiscrete", "StableCascadeSampling"), "EPS")
    kinds |= dict.fromkeys(("ModelSamplingDiscreteEDM", "ModelSamplingContinuousEDM"), "EDM")
    kinds |= dict.fromkeys(("ModelSamplingFlux", "ModelSamplingDiscreteFlow"), "CONST")
    kinds |= {"ModelSamplingContinuousV": "V_PREDICTION", "ModelSamplingCosmosRFlow": "COSMOS_RFLOW"}
    for name, kind in kinds.items():
        sampling = type(name, (getattr(theirs, name), getattr(theirs, kind)), {})()
        schedule = schedules.schedule_of(sampling)
        ends = schedules.level_of(schedule.at(np.array([schedule.t_min, schedule.t_max])))
        np.testing.assert_allclose(ends, [float(sampling.sigma_min), float(sampling.sigma_max)], rtol=1e-5)
        half = float(sampling.percent_to_sigma(0.5))
        shorter = schedules.up_to(schedule, sampling, 0.5)
        if name != "ModelSamplingDiscreteEDM":  # whose percentages are not within its own range
            assert float(schedules.level_of(schedule.at(shorter.t_max))) == pytest.approx(half, rel=1e-4)
        if kind != "CONST":
            expected = comfyui.get_sigmas_karras(7, float(sampling.sigma_min), float(sampling.sigma_max))
            np.testing.assert_allclose(schedules.sigmas_on(sampling, "karras", 7), expected, rtol=1e-4)


def test_grids_by_comfyuis_names_are_comfyuis(comfyui):
    import comfy.model_sampling as theirs
    from comfy.samplers import SCHEDULER_NAMES, calculate_sigmas

    for name, kind in (("ModelSamplingDiscrete", "EPS"), ("ModelSamplingDiscreteFlow", "CONST")):
        sampling = type(name, (getattr(theirs, name), getattr(theirs, kind)), {})()
        for grid in SCHEDULER_NAMES:
            if kind == "EPS" or grid not in ("karras", "exponential"):  # which are of sigma / alpha here
                expected = calculate_sigmas(sampling, grid, 7)[-8:]  # as ComfyUI's BasicScheduler cuts it
                np.testing.assert_allclose(schedules.sigmas_on(sampling, grid, 7), expected, rtol=1e-3, atol=1e-5)


@BOTH_KINDS
def test_denoise_takes_the_last_steps_as_comfyuis_own_schedulers_do(comfy_modules, flow):
    patcher = comfy_modules.patcher(flow)
    grid = lambda steps, denoise: call(  # noqa: E731
        "FastdiffScheduler", model=patcher, scheduler="time", steps=steps, denoise=denoise
    )[0]
    assert torch.equal(grid(5, 0.25), grid(20, 1.0)[-6:])
    assert grid(5, 0.0).shape == (0,)
    most = float(patcher.get_model_object("model_sampling").sigma_max)
    assert float(grid(5, 1.0)[0]) == pytest.approx(most, rel=1e-6)


def test_a_grid_that_a_model_has_not_is_named(comfy_modules):
    with pytest.raises(ValueError, match="grid: 'trailing' needs a discrete schedule"):
        call("FastdiffScheduler", model=comfy_modules.patcher(flow=True), scheduler="trailing", steps=4)


@pytest.fixture
def small_fits(monkeypatch):
    """Fits that compare a few plans, with references that have hardly converged."""
    monkeypatch.setattr(convergence, "TOLERANCE", 0.2)
    monkeypatch.setattr(convergence, "CONTESTANTS", convergence.CONTESTANTS[:1])
    few = lambda *args, found=course.candidates: found(*args)[:10]  # noqa: E731
    monkeypatch.setattr(course, "candidates", few)


def fit(patcher, latent, **values):
    prompts = {"positive": conditioning(0.5), "negative": conditioning(-0.3)}
    given = {"cfg": 2.0, "steps": 4, "batch": 32, "latent_image": {"samples": latent}}
    return call("FastdiffFitPlan", model=patcher, **prompts, **(given | values))


@pytest.mark.parametrize("denoise", [1.0, 0.5])
@BOTH_KINDS
def test_a_fitted_plan_is_nearer_the_models_converged_images_than_its_first_candidate(
    comfy_modules, small_fits, flow, denoise
):
    import comfy.samplers

    generator = torch.Generator().manual_seed(3)  # the same in every run, as the fit's own noises are
    patcher, start = comfy_modules.patcher(flow), torch.randn(16, 4, 6, 5, generator=generator)
    image = torch.randn(1, 4, 6, 5, generator=generator) * (denoise < 1)
    sampler, sigmas, report = fit(patcher, image, denoise=denoise, save_as="mine")
    assert "catalogue" in report
    assert "4 model evaluations, sample" in report
    sampling = patcher.get_model_object("model_sampling")
    begins = float(sampling.percent_to_sigma(1 - denoise)) if denoise < 1 else float(sampling.sigma_max)
    assert float(sigmas[0]) == pytest.approx(begins, rel=2e-3)
    assert float(sigmas[-1]) == 0

    latent = image.expand_as(start)
    drawn = run(patcher, sampler, sigmas, start, latent)
    fine = torch.cat([torch.linspace(float(sigmas[0]) ** 0.25, 0.2, 300) ** 4, torch.zeros(1)])
    fine = fine if not flow else torch.linspace(float(sigmas[0]), 0, 300)
    exact = run(patcher, comfy.samplers.KSAMPLER(kdiffusion.sample_heun), fine, start, latent)
    schedule = schedules.up_to(schedules.schedule_of(sampling), sampling, denoise)
    first = fd.plan("unipc", schedule, 4, grid="quadratic", prediction="sample")
    other = run(patcher, *plan_outputs(first), start, latent)
    errors = [float((each - exact).square().mean().sqrt()) for each in (drawn, other)]
    assert errors[0] <= errors[1]

    loaded, again, table = call("FastdiffLoadPlan", plan="mine.json")
    assert torch.equal(again, sigmas)
    assert report.endswith(table)
    assert torch.equal(run(patcher, loaded, again, start, latent), drawn)


def plan_outputs(plan):
    from fastdiff.comfyui.plan_nodes import outputs

    return outputs(plan)[:2]


class Host:
    """A host's denoiser around a network that predicts eps or v: fn(x, sigma), with the parts that samplers read."""

    def __init__(self, network, sampling, kind="epsilon"):
        self.network, self.kind = network, kind
        base = types.SimpleNamespace(model_sampling=sampling)
        self.inner_model = types.SimpleNamespace(inner_model=base)

    def __call__(self, x, sigma, **_):
        s = sigma.view(-1, 1)
        if self.kind == "flow_prediction":
            return x - s * self.network(x, sigma)
        m = self.network(x / (1 + s**2) ** 0.5, sigma)
        if self.kind == "epsilon":
            return x - s * m
        return x / (1 + s**2) - m * s / (1 + s**2) ** 0.5


def smooth(x, level):
    return torch.sin(1.3 * x + level.view(-1, 1) / 5) + 0.3 * x.roll(1, -1)


def moved(plan, by):
    """The plan with other times for the model than those of its levels, as a fit makes."""
    rows = [replace(row, t=row.t * (1 - by * (i % 2))) for i, row in enumerate(plan.rows)]
    return replace(plan, rows=tuple(rows))


@pytest.mark.parametrize("by", [0.0, 0.03], ids=["nominal times", "fitted times"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "dpm_solver_3s", "pndm", "heun"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
def test_any_plan_runs_on_comfyuis_denoiser_as_on_its_network(prediction, solver, by):
    flow = prediction == "flow_prediction"
    schedule = fd.Schedule.flow(SHIFT) if flow else fd.Schedule.scaled_linear()
    sampling = Flow() if flow else DiscreteEPS(schedule)
    plan = moved(fd.plan(solver, schedule, 6, grid="time", prediction=prediction), by)

    def network(x, t):
        at = schedule.at(t.numpy())
        return smooth(x, t if flow else torch.from_numpy(at.sigma / at.alpha))

    start = torch.randn(3, 5, dtype=torch.float64)
    expected = fd.sample(network, plan, start)
    alpha = plan.start[0] if not flow else 1.0
    seen = []
    drawn = sampler_of(plan)(
        Host(smooth, sampling, prediction), start / alpha, sigmas_of(plan).double(), callback=seen.append, disable=True
    )
    torch.testing.assert_close(drawn, expected, rtol=1e-8, atol=1e-8)
    assert len(seen) == plan.nfe
    assert sorted({step["i"] for step in seen}) == list(range(len(sigmas_of(plan)) - 1))


def test_plans_of_other_models_are_refused():
    sd, flow = fd.Schedule.scaled_linear(), fd.Schedule.flow()
    vp, other = (fd.plan("ddim", s, 3, grid="time", prediction="epsilon") for s in (sd, fd.Schedule.linear()))
    sigmas = sigmas_of(vp)
    run = lambda plan, sampling: sampler_of(plan)(Host(smooth, sampling), torch.zeros(1, 5), sigmas)  # noqa: E731
    with pytest.raises(
        ValueError, match="plan: it is for models of the kind 'vp', and this model is of the kind 'flow"
    ):
        run(vp, Flow())
    with pytest.raises(
        ValueError, match="plan: it is for models of the kind 'flow', and this model is of the kind 'vp"
    ):
        run(fd.plan("euler", flow, 3, grid="time"), DiscreteEPS(sd))
    knots = replace(other, schedule=fd.Schedule.linear().knots())
    with pytest.raises(ValueError, match=r"plan: it was made for a schedule with sigma / alpha = .* at t = "):
        run(knots, DiscreteEPS(sd))
    with pytest.raises(
        ValueError, match="plan: expected one of the predictions sample, epsilon, v_prediction for this"
    ):
        run(fd.plan("ddim", sd, 3, grid="time", prediction="score"), DiscreteEPS(sd))
    with pytest.raises(ValueError, match="plan: this one draws noise"):
        sampler_of(fd.plan("euler_ancestral", sd, 3, grid="time", prediction="epsilon"))
    zero = fd.plan("ddim", sd.zero_terminal_snr(), 3, grid="time", prediction="v_prediction")
    with pytest.raises(ValueError, match="plan: this one begins at zero signal-to-noise ratio"):
        sampler_of(zero)


def test_a_fit_is_interrupted_and_shows_how_much_time_is_spent(comfy_modules, small_fits):
    shares = []

    def watch(share):
        shares.append(share)
        if len(shares) == 12:
            comfy_modules.interrupt()

    comfy_modules.watch(watch)
    patcher = comfy_modules.patcher()
    with pytest.raises(comfy_modules.interrupted):
        fit(patcher, torch.zeros(1, 4, 6, 5), save_as="never")
    assert len(shares) == 12
    assert shares == sorted(shares)
    assert plan_files.names() == []


def test_guidance_that_looks_at_steps_is_not_fitted_to(comfy_modules, small_fits):
    patcher, empty = comfy_modules.patcher(flow=True), torch.zeros(1, 4, 6, 5)
    for guidance in (APG(5.0, momentum=-0.5), CFGpp(0.6), History(1.0, 4.0), ZeroStar(4.0, zero_steps=1)):
        with pytest.raises(ValueError, match=f"guidance: {type(guidance).__name__} depends on the step"):
            fit(comfyui.guided(patcher, guidance), empty)
    levels = comfyui.Levels(Flow(), torch.tensor([1.0, 0.0]))
    for guidance in (
        CFG(4.0, 0.7, interval=(0.3, 3.0), space="v"),
        ZeroStar(4.0, zero_steps=0),
        APG(4.0, momentum=None),
    ):
        check_guidance(guidance, levels)


def test_what_cannot_be_fitted_is_named(comfy_modules):
    with pytest.raises(ValueError, match="denoise: below 1 a run begins with an image; connect its latent"):
        fit(comfy_modules.patcher(), torch.zeros(1, 4, 6, 5), denoise=0.5)
    node = NODE_CLASS_MAPPINGS["FastdiffFitPlan"]
    for name in ("../x", "a/b", ".hidden", "x\\y"):
        assert node.VALIDATE_INPUTS(name).startswith("save_as: expected a name of letters")
    assert node.VALIDATE_INPUTS("sd 1.5, 8 steps".replace(",", "")) is True
    assert node.VALIDATE_INPUTS("") is True


def test_a_changed_file_is_another_plan(comfy_modules, tmp_path):
    plan = fd.plan("euler", fd.Schedule.flow(), 3, grid="time", prediction="sample")
    node = NODE_CLASS_MAPPINGS["FastdiffLoadPlan"]
    path = plan_files.save(plan, "mine")
    assert path == tmp_path / plan_files.FOLDER / "mine.json"
    assert node.INPUT_TYPES()["required"]["plan"][0] == ["mine.json"]
    first = node.IS_CHANGED("mine.json")
    assert first == node.IS_CHANGED("mine.json")
    plan_files.save(fd.plan("heun", fd.Schedule.flow(), 2, grid="time", prediction="sample"), "mine")
    assert first != node.IS_CHANGED("mine.json")


def test_a_model_is_accelerated_on_a_clone_and_the_report_says_how():
    whole = nn.Module()
    whole.diffusion_model = comfy_blocks.UNetModel()
    given = comfy_blocks.ModelPatcher(whole)
    changed, report = call("FastdiffAccelerate", model=given)
    assert changed.object_patches
    assert changed.model_options["transformer_options"]["optimized_attention_override"]
    assert not given.object_patches
    assert given.model_options == {"transformer_options": {}}
    assert report.startswith("fastdiff.accelerate changed")
    assert "GroupNorm" in report
