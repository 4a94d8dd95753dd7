"""Schedule.from_scheduler: what a diffusers scheduler's configuration describes, against its own tables and times."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest

import fastdiff as fd

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VARIANCE_PRESERVING = {
    "Stable Diffusion": (diffusers.PNDMScheduler(**SD), "epsilon"),
    "linear": (diffusers.DDPMScheduler(num_train_timesteps=100, prediction_type="sample"), "sample"),
    "cosine": (diffusers.UnCLIPScheduler(num_train_timesteps=50), "epsilon"),
    "sigmoid": (diffusers.DDPMScheduler(beta_schedule="sigmoid"), "epsilon"),
    "laplace": (diffusers.DDPMScheduler(beta_schedule="laplace"), "epsilon"),
    "trained": (diffusers.DDIMScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3), "epsilon"),
    "CogVideoX": (
        diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True), "v_prediction",
    ),
    "zero SNR": (
        diffusers.DDIMScheduler(**SD, rescale_betas_zero_snr=True, prediction_type="v_prediction"), "v_prediction",
    ),
    "fastdiff's own": (fd.EulerDiscreteScheduler(**SD, prediction_type="v_prediction"), "v_prediction"),
    "original_sample": (diffusers.LCMScheduler(prediction_type="original_sample"), "sample"),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_alpha_is_the_schedulers_table_and_the_prediction_goes_with_it(name: str):
    scheduler, prediction = VARIANCE_PRESERVING[name]
    schedule = fd.Schedule.from_scheduler(scheduler)
    table = scheduler.alphas_cumprod.double().numpy()
    # Their tables are products and differences of numbers near 1, in float32.
    np.testing.assert_allclose(schedule.alpha(np.arange(len(table))) ** 2, table, rtol=3e-4, atol=2e-7)
    assert schedule.default_prediction == prediction
    assert fd.Schedule.from_scheduler(scheduler.config).knots() == schedule.knots()
    assert fd.plan("ddim", schedule, 2).prediction == prediction
    assert (schedule.alpha(schedule.t_max) == 0) == bool(scheduler.config.get("rescale_betas_zero_snr"))


def test_betas_are_not_rounded_to_float32():
    expected = fd.Schedule.scaled_linear()
    np.testing.assert_allclose(
        fd.Schedule.from_scheduler(diffusers.EulerDiscreteScheduler(**SD)).alphas_cumprod,
        expected.alphas_cumprod, rtol=1e-13,
    )  # fmt: skip


MU = 0.9
FLOW = {
    "fixed": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), {}),
    "flow_shift": (
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0), {},
    ),
    "mu": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), {"mu": MU}),
    "linear mu": (
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear"), {"mu": MU},
    ),
    "terminal": (
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1), {"mu": MU},
    ),
}  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", FLOW)
def test_a_flows_uniform_grid_is_shifted_and_stretched_as_the_scheduler_does(name: str, steps: int):
    scheduler, given = FLOW[name]
    schedule = fd.Schedule.from_scheduler(scheduler, **given)
    even = np.linspace(1, 0, steps + 1)[:-1]
    if name == "flow_shift":
        expected = 5.0 * even / (1 + 4.0 * even)
    elif name == "terminal" and steps == 1:
        expected = even  # diffusers divides by 0
    else:
        scheduler.set_timesteps(sigmas=even.tolist(), **given)
        expected = scheduler.sigmas[:-1].double().numpy()
    plan = fd.plan("euler", schedule, steps)
    np.testing.assert_allclose([row.t for row in plan.rows], expected, rtol=1e-6)
    assert (plan.prediction, plan.end) == ("flow_prediction", (1.0, 0.0))


def test_a_shift_follows_from_the_number_of_tokens():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=1.0, base_image_seq_len=100, max_image_seq_len=400
    )
    by_tokens, by_mu = (fd.Schedule.from_scheduler(scheduler, **given) for given in ({"tokens": 200}, {"mu": 0.5}))
    assert by_tokens.knots() == by_mu.knots()
    with pytest.raises(ValueError, match="mu: the scheduler's shift depends on the resolution; pass mu"):
        fd.Schedule.from_scheduler(scheduler)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(sigma_max=70.0),
        diffusers.EulerDiscreteScheduler(
            sigma_min=0.002, sigma_max=70.0, prediction_type="v_prediction", timestep_type="continuous"
        ),
    ],
)
def test_edm_has_sigma_for_its_time_and_a_model_that_predicts_the_sample(scheduler: object):
    schedule = fd.Schedule.from_scheduler(scheduler)
    assert (schedule.t_min, schedule.t_max, schedule.default_prediction) == (0.002, 70.0, "sample")


def test_stable_audios_schedule_is_the_cosine_between_its_sigmas():
    scheduler = diffusers.CosineDPMSolverMultistepScheduler()
    scheduler.set_timesteps(5)
    schedule = fd.Schedule.from_scheduler(scheduler)
    sigmas = scheduler.sigmas[:-1].double().numpy()
    points = schedule.at(scheduler.timesteps.double().numpy())
    # At sigma = 500 the time is rounded next to 1, to 6e-8, and alpha is 0.002.
    np.testing.assert_allclose(points.alpha, 1 / np.hypot(1, sigmas), rtol=2e-4)
    assert [schedule.t_min, schedule.t_max] == [pytest.approx(2 / math.pi * math.atan(s)) for s in (0.3, 500)]
    assert schedule.default_prediction == "v_prediction"


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "with invert_sigmas noise rises"),
        (diffusers.AmusedScheduler(mask_token_id=5), "AmusedScheduler draws tokens"),
        (diffusers.SCMScheduler(), "expected betas, a flow's shift, or sigma_data with sigma_max .* got SCMScheduler"),
        (diffusers.CMStochasticIterativeScheduler(), "got CMStochasticIterativeScheduler with num_train_timesteps"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), "sigma_min and sigma_max in the configuration"),
        (diffusers.CosineDPMSolverMultistepScheduler(sigma_data=0.5), "expected sigma_data 1"),
        (
            {"beta_schedule": "linear", "prediction_type": "noise"},
            "prediction_type of epsilon, sample, v_p.*'noise'",
        ),
        ({"beta_schedule": "steep"}, "expected beta_schedule linear, scaled_linear"),
        ({}, "got dict with nothing"),
    ],
)
def test_what_has_no_such_schedule_is_refused(scheduler: object, words: str):
    with pytest.raises(ValueError, match=words):
        fd.Schedule.from_scheduler(scheduler)


def test_something_else_than_a_scheduler_is_refused():
    with pytest.raises(TypeError, match="scheduler: expected a diffusers scheduler or its configuration, got 'ddim'"):
        fd.Schedule.from_scheduler("ddim")
    with pytest.raises(TypeError, match=r"make one by Schedule\.from_scheduler"):
        fd.plan("ddim", diffusers.DDIMScheduler(), 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fd.Schedule.flow(terminal=1.0), r"terminal: expected a time in \(0, 1\), got 1"),
        (lambda: fd.Schedule.cosine(None, t_min=0.5, t_max=0.5), "t_min, t_max: expected 0 < t_min < t_max <= 1"),
    ],
)
def test_times_outside_the_schedule_are_refused(make: object, words: str):
    with pytest.raises(ValueError, match=words):
        make()
