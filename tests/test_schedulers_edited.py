"""What hosts change after set_timesteps, or between steps, counts here as it does in diffusers."""

from __future__ import annotations

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_loops import QUICK, model, start

from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
STEPS = 6
V = {"prediction_type": ["v_prediction"]}
PREDICTION = {"prediction_type": ["v_prediction", "sample"]}
THRESHOLDS = {"thresholding": [True], "dynamic_thresholding_ratio": [0.9], "sample_max_value": [1.7, 0.6]}
CLIPS = {"clip_sample": [True, False], "clip_sample_range": [0.5]}
SOLVER = {"solver_order": [1], "lower_order_final": [False], "solver_type": ["heun"], "euler_at_final": [True]}
EDITS = {  # of each class, the keys that diffusers' step reads, and values of them other than the default
    "CogVideoXDDIMScheduler": {**PREDICTION, "num_train_timesteps": [500]},
    "CosineDPMSolverMultistepScheduler": {**SOLVER, "prediction_type": ["epsilon"], "sigma_data": [0.8]},
    "DDIMInverseScheduler": {**PREDICTION, **CLIPS, "num_train_timesteps": [500]},
    "DDIMScheduler": {**PREDICTION, **CLIPS, **THRESHOLDS, "num_train_timesteps": [500]},
    "DDIMParallelScheduler": {"prediction_type": ["sample"], "clip_sample": [False]},
    "DDPMScheduler": {**PREDICTION, **CLIPS, **THRESHOLDS, "variance_type": ["fixed_large"]},
    "DEISMultistepScheduler": {**PREDICTION, **THRESHOLDS, "solver_order": [1], "lower_order_final": [False]},
    "DPMSolverMultistepScheduler": {**PREDICTION, **THRESHOLDS, **SOLVER, "algorithm_type": ["sde-dpmsolver++"]},
    "DPMSolverMultistepInverseScheduler": {**PREDICTION, **SOLVER},
    "DPMSolverSDEScheduler": V,
    "DPMSolverSinglestepScheduler": {**PREDICTION, **THRESHOLDS, "solver_type": ["heun"]},
    "CMStochasticIterativeScheduler": {"clip_denoised": [False], "s_noise": [1.1], "sigma_data": [0.8]},
    "EDMDPMSolverMultistepScheduler": {**THRESHOLDS, **SOLVER, **V, "sigma_data": [0.8]},
    "EDMEulerScheduler": {**V, "sigma_data": [0.8]},
    "EulerAncestralDiscreteScheduler": V,
    "EulerDiscreteScheduler": PREDICTION,
    "FlowMatchEulerDiscreteScheduler": {"stochastic_sampling": [True]},
    "FlowMapEulerDiscreteScheduler": {},
    "FlowMatchLCMScheduler": {},
    "HeunDiscreteScheduler": {**V, **CLIPS},
    "KDPM2AncestralDiscreteScheduler": V,
    "KDPM2DiscreteScheduler": V,
    "LCMScheduler": {**PREDICTION, **CLIPS, **THRESHOLDS, "timestep_scaling": [3.0]},
    "LMSDiscreteScheduler": V,
    "LTXEulerAncestralRFScheduler": {"eta": [0.4], "s_noise": [1.2]},
    "MiniMaxH3Scheduler": {},
    "PNDMScheduler": {"num_train_timesteps": [900]},
    "SASolverScheduler": {**PREDICTION, **THRESHOLDS, "predictor_order": [1], "lower_order_final": [False]},
    "TCDScheduler": {**PREDICTION, **THRESHOLDS, **CLIPS},
    "UniPCMultistepScheduler": {**PREDICTION, **THRESHOLDS, "solver_order": [1], "lower_order_final": [False]},
}
FIXED = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "DPMSolverSDEScheduler": {"noise_sampler_seed": 1},
    "UniPCMultistepScheduler": {"final_sigmas_type": "sigma_min"},  # onto 0 diffusers has NaN with most options
    **QUICK,
}
NAN = [("DDIMInverseScheduler", "sample")]  # in diffusers' first step
CASES = [(name, key, value) for name, keys in EDITS.items() for key, values in keys.items() for value in values]
OWN_MIDDLES = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler")
WITH_SIGMAS = [name for name in EDITS if "sigmas" in vars(getattr(diffusers, name)(**FIXED.get(name, {})))]


def make(library: object, name: str) -> object:
    return getattr(library, name)(**FIXED.get(name, {}))


def image(scheduler: object, edits: dict[int, object], times: object = None) -> torch.Tensor:
    """The loop of pipelines; before step i, edits[i] is called with the scheduler."""
    torch.manual_seed(0)
    x = start(scheduler)
    for i, t in enumerate(scheduler.timesteps if times is None else times):
        edits.get(i, lambda scheduler: None)(scheduler)
        read = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(read, torch.as_tensor(t)), t, x, return_dict=False)[0]
    return x


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_same(name: str, edits: dict[int, object], again: bool = False) -> None:
    images = []
    for library in (schedulers, diffusers):
        scheduler = make(library, name)
        scheduler.set_timesteps(STEPS)
        images.append(image(scheduler, edits))
        if again:  # and a second image, without any edit
            scheduler.set_timesteps(STEPS)
            images[-1] = torch.cat([images[-1], image(scheduler, {})])
    assert gap(*images) < 1e-4


def by_attribute(key: str, value: object) -> object:
    return lambda scheduler: setattr(scheduler.config, key, value)


def by_item(key: str, value: object) -> object:
    return lambda scheduler: scheduler.config.__setitem__(key, value)


def by_registration(key: str, value: object) -> object:
    return lambda scheduler: scheduler.register_to_config(**{key: value})


@pytest.mark.parametrize(("name", "key", "value"), CASES, ids=str)
def test_an_option_counts_from_the_step_on_before_which_it_is_set(name, key, value):
    before = 1 if key in ("num_train_timesteps", "algorithm_type") else 3
    if name.startswith("UniPC") and key == "solver_order":
        before = 0  # the corrector of the step before takes the new order here, and the old one in diffusers
    assert_same(name, {before: by_attribute(key, value)}, again=(name, value) not in NAN)


@pytest.mark.parametrize(("name", "key", "value"), [case for case in CASES if case[::2] not in NAN][::5], ids=str)
@pytest.mark.parametrize("how", [by_attribute, by_item, by_registration])
def test_every_way_to_set_an_option_does_what_it_does_in_diffusers(how, name, key, value):
    assert_same(name, {0: how(key, value)}, again=True)


def test_options_of_dpm_solver_pp_are_those_of_its_configuration_when_it_steps():
    x, scheduler = torch.ones(1, 1, 1, 1), schedulers.DPMSolverMultistepScheduler()
    scheduler.config.prediction_type = "v_prediction"
    scheduler.set_timesteps(4)
    assert float(scheduler.step(0.1 * x, scheduler.timesteps[0], x).prev_sample) == pytest.approx(0.9935, abs=1e-4)


@pytest.mark.parametrize("attribute", ["predict_x0", "disable_corrector"])
def test_attributes_that_unipc_reads_itself_count_too(attribute):
    value = False if attribute == "predict_x0" else [1, 2]
    assert_same("UniPCMultistepScheduler", {0: lambda scheduler: setattr(scheduler, attribute, value)}, again=True)


def scaled(i: int, by: float) -> object:
    def edit(scheduler: object) -> None:
        scheduler.sigmas[i] *= by

    return edit


@pytest.mark.parametrize("name", [n for n in WITH_SIGMAS if n not in OWN_MIDDLES])
@settings(max_examples=6)
@given(data=st.data())
def test_sigmas_edited_in_place_are_those_of_the_next_step(name, data):
    """Whether the first steps are made or not; where each level comes twice, both of its copies."""
    before = 2 * data.draw(st.integers(0, 1), label="steps before")
    place = data.draw(st.integers(before + 1, STEPS - 1), label="place")
    by = data.draw(st.sampled_from([0.9, 1.1]), label="factor")

    def edit(scheduler: object) -> None:
        if scheduler.order == 1:
            scheduler.sigmas[place] *= by
        else:
            scheduler.sigmas[2 * place - 1 : 2 * place + 1] *= by

    assert_same(name, {before: edit}, again=True)


@pytest.mark.parametrize("name", OWN_MIDDLES)
def test_of_steps_whose_middles_have_tensors_of_their_own_the_edited_start_is_read(name):
    found = []
    for library in (schedulers, diffusers):
        scheduler = make(library, name)
        scheduler.set_timesteps(STEPS)
        scheduler.sigmas[0] *= 0.9
        found.append(scheduler.scale_model_input(start(scheduler), scheduler.timesteps[0]))
    torch.testing.assert_close(*found)


def test_the_last_sigma_may_be_set_to_the_one_before():
    """As Cosmos' pipelines do, so that the last step leaves the sample where it is."""

    def edit(scheduler: object) -> None:
        scheduler.sigmas[-1] = scheduler.sigmas[-2]

    for name in ("EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"):
        assert_same(name, {0: edit})


@pytest.mark.parametrize("inference", [False, True])
def test_an_edit_counts_in_inference_mode_too(inference):
    with torch.inference_mode(inference):
        scheduler = schedulers.FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(4)
        scheduler.sigmas[2] *= 1.5
        y = torch.ones(1, 1)
        for t in scheduler.timesteps[:2]:
            y = scheduler.step(torch.full((1, 1), 0.5), t, y).prev_sample
        assert float(y) == pytest.approx(1 + 0.5 * (float(scheduler.sigmas[2]) - 1))
        scheduler.sigmas = scheduler.sigmas * 0.5  # a tensor that keeps no count of its edits
        scheduler.set_begin_index(0)
        scheduler._step_index = None
        scheduler.sigmas[1] = 0.3
        first = float(scheduler.sigmas[0])
        y = scheduler.step(torch.full((1, 1), 0.5), scheduler.timesteps[0], torch.ones(1, 1)).prev_sample
        assert float(y) == pytest.approx(1 + 0.5 * (0.3 - first))


@pytest.mark.parametrize("edit", ["replaced", "in place"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler", "PNDMScheduler"])
def test_another_schedule_counts_after_a_run_of_the_same_times(name, edit):
    images = []
    for library in (schedulers, diffusers):
        scheduler = make(library, name)
        scheduler.set_timesteps(STEPS)
        image(scheduler, {})
        if edit == "replaced":
            scheduler.alphas_cumprod = scheduler.alphas_cumprod**1.2
        else:
            scheduler.alphas_cumprod.mul_(0.9)
        scheduler.set_timesteps(STEPS)
        images.append(image(scheduler, {}))
    assert gap(*images) < 1e-4


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_timesteps_edited_in_place_are_the_times_of_the_run(name):
    def edit(scheduler: object) -> None:
        scheduler.timesteps[:] = torch.tensor([970, 800, 610, 400, 190, 50])

    found = []
    for library in (schedulers, diffusers):
        scheduler = getattr(library, name)()
        scheduler.set_timesteps(STEPS)
        image(scheduler, {})
        edit(scheduler)
        scheduler.set_timesteps(STEPS)
        edit(scheduler)
        found.append(image(scheduler, {}))
    assert gap(*found) < 1e-4
