"""Flow schedulers: each line of their table of deviations, what diffusers does and what is done here."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from scheduler_protocols import PROTOCOLS, first_sample, make, times_of, walk

from fastdiff import schedulers

X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
STD = 0.5  # of Gaussian data around 0


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """eps - x0 of the exact flow, whose solution is x times the spread at its time."""
    return x * (sigma - (1 - sigma) * STD**2) / spread(sigma) ** 2


def spread(sigma: float) -> float:
    return math.hypot((1 - sigma) * STD, sigma)


def error(library: object, n: int, form: str = "flow_prediction", **options: object) -> float:
    """Of Helios' last sample from t = 1 on, in shares of the exact one."""
    scheduler = library.HeliosScheduler(stages=1, stage_range=[0, 1], prediction_type=form, **options)
    scheduler.set_timesteps(n)
    x = X.double()
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        v = velocity(x, sigma)
        eps, x0 = x + (1 - sigma) * v, x - sigma * v
        x = scheduler.step((1 - sigma) * eps - sigma * x0 if form == "v_prediction" else v, t, x).prev_sample
    return float((x / (X.double() * STD) - 1).abs().max())


@pytest.mark.parametrize(
    "options",
    [
        {"lower_order_final": False},  # diffusers extrapolates over an infinite step
        {"solver_order": 3},  # NaN from the first corrector that looks back to t = 1
        {"solver_order": 1, "prediction_type": "v_prediction"},  # converts as if alpha^2 + sigma^2 were 1
    ],
    ids=str,
)
def test_helios_follows_the_flow(options):
    form = (options := {**options}).pop("prediction_type", "flow_prediction")
    assert error(schedulers, 10, form, **options) < 0.1
    theirs = error(diffusers, 10, form, **options)
    assert math.isnan(theirs) or theirs > 0.3


def test_helios_begins_in_the_middle_at_the_time_it_is_given():
    lengths = []
    for library in (schedulers, diffusers):
        scheduler = library.HeliosScheduler(stages=1, stage_range=[0, 1], shift=3.0, scheduler_type="euler",
                                            time_shift_type="linear")  # fmt: skip
        scheduler.set_timesteps(8)
        scheduler.set_begin_index(4)
        x = scheduler.step(torch.ones_like(X), scheduler.timesteps[4], torch.zeros_like(X)).prev_sample
        lengths.append([float(x[0, 0, 0]), *(float(scheduler.sigmas[i + 1] - scheduler.sigmas[i]) for i in (4, 0))])
    assert lengths[0][0] == pytest.approx(lengths[0][1], rel=1e-5)
    assert lengths[1][0] == pytest.approx(lengths[1][2], rel=1e-5)
    assert lengths[0][1] < 1.5 * lengths[0][2]


def test_helios_has_velocities_in_noise_form():
    options = {"predict_x0": False}
    with pytest.raises(ValueError, match="prediction_type"):
        error(diffusers, 20, **options)
    assert error(schedulers, 20, **options) < 0.05


def test_ancestral_steps_without_noise_keep_the_data_whole():
    """At sigma_t a sample has 1 - sigma_t of the data, whatever s_noise; diffusers leaves more where s_noise is 0."""
    shares = []
    for library, s_noise in ((schedulers, 0.0), (schedulers, 1e-9), (diffusers, 1e-9), (diffusers, 0.0)):
        scheduler = library.LTXEulerAncestralRFScheduler(s_noise=s_noise)
        scheduler.set_timesteps(sigmas=[0.6, 0.3, 0.0])
        # The model sees x0 = 1 in x = 0.4 x0: v = (x - x0) / sigma.
        x = torch.full((1, 1), 0.4)
        shares.append(float(scheduler.step((x - 1) / 0.6, scheduler.timesteps[0], x).prev_sample))
    assert shares[:3] == pytest.approx([0.7] * 3, abs=1e-5)
    assert shares[3] == pytest.approx(0.85, abs=1e-5)


def test_one_step_has_nothing_to_stretch_to_its_terminal():
    for library, finite in ((schedulers, True), (diffusers, False)):
        scheduler = library.FlowMatchLCMScheduler(shift_terminal=0.1)
        scheduler.set_timesteps(1)
        assert bool(scheduler.sigmas.isfinite().all()) is finite


@pytest.mark.parametrize("name", ["SCMScheduler", "RFD4ProteinaScheduler"])
def test_in_half_precision_a_sample_keeps_its_dtype(name):
    ours, theirs = (walk(name, make(library, name), 2, dtype=torch.bfloat16) for library in (schedulers, diffusers))
    assert ours.dtype == torch.bfloat16
    assert theirs.dtype == torch.float32


def test_a_distilled_sample_is_not_rounded_to_the_models_dtype():
    results = []
    for library in (schedulers, diffusers):
        scheduler = make(library, "HeliosDMDScheduler")
        PROTOCOLS["HeliosDMDScheduler"].begin(scheduler, 1)
        x = first_sample(PROTOCOLS["HeliosDMDScheduler"])
        (t,) = times_of(scheduler)
        arguments = PROTOCOLS["HeliosDMDScheduler"].step(scheduler, 0, x.shape)
        results.append(scheduler.step(x.bfloat16(), t, x, **arguments).prev_sample)
    assert [result.dtype for result in results] == [torch.float32, torch.bfloat16]


def test_a_step_after_the_end_of_an_ancestral_run_is_an_error():
    for library in (schedulers, diffusers):
        scheduler = library.LTXEulerAncestralRFScheduler()
        scheduler.set_timesteps(2)
        x = X
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * x, t, x).prev_sample
        if library is diffusers:
            assert torch.equal(scheduler.step(X, t, x).prev_sample, x)
        else:
            with pytest.raises(IndexError, match="step: expected 2 steps"):
                scheduler.step(X, t, x)


def test_helios_gives_the_next_sample_alone():
    for library, parts in ((schedulers, 1), (diffusers, 4)):
        scheduler = library.HeliosScheduler()
        scheduler.set_timesteps(3, 0)
        assert len(scheduler.step(X, scheduler.timesteps[0], X, return_dict=False)) == parts
