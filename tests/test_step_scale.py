"""Longer steps and much churn, as models of structures take them: the law of the samples, computed exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from structure_laws import algorithm_18, end_variance

import fastdiff as fd

SCHEDULES = {
    "edm": fd.Schedule.edm(0.01, 300.0),
    "vp": fd.Schedule.scaled_linear(),
    "flow": fd.Schedule.flow(),
}


@pytest.mark.parametrize(("gamma", "noise_scale", "step_scale"), [(0.0, 1.0, 1.0), (0.8, 1.003, 1.5), (2.0, 1.1, 0.7)])
@pytest.mark.parametrize("steps", [5, 40])
def test_the_variance_is_that_of_alphafolds_algorithm(steps, gamma, noise_scale, step_scale):
    data = 10.0
    sigmas = np.append(np.geomspace(100.0, 0.02, steps), 0.0)
    churns = sigmas[:-1] >= 1.0
    plan = fd.plan(
        "euler", SCHEDULES["edm"], sigmas=sigmas, prediction="sample", s_churn=math.inf, max_churn=gamma,
        s_tmin=1.0, s_noise=noise_scale, step_scale=step_scale,
    )  # fmt: skip
    expected = algorithm_18(sigmas, np.where(churns, gamma, 0.0), data, noise_scale, step_scale)
    assert end_variance(plan, data, plan.init_scale) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_step_is_lengthened_in_the_schedules_own_coordinate(kind):
    """z_s + c (z_t - z_s), from the plan without it: on flows z is x itself."""
    schedule, c = SCHEDULES[kind], 1.3
    plain, longer = (fd.plan("euler", schedule, 6, **o) for o in ({}, {"step_scale": c}))
    for i, (row, other) in enumerate(zip(plain.rows, longer.rows, strict=True)):
        end = 1.0 if kind != "vp" else plain.point_after(i)[0]
        start = 1.0 if kind != "vp" else row.alpha
        stays = end / start
        assert other.x.x == pytest.approx(stays + c * (row.x.x - stays), rel=1e-12, abs=1e-12)
        assert other.x.history[0] == pytest.approx(c * row.x.history[0], rel=1e-12)


def test_without_it_nothing_changes():
    plain, same = (fd.plan("euler", SCHEDULES["vp"], 9, **o) for o in ({}, {"step_scale": 1.0}))
    assert plain.rows == same.rows


def test_longer_steps_leave_less_spread():
    """A ratio below 1 at a scale above 1: low temperature, which is what they are for."""
    plans = [fd.plan("euler", SCHEDULES["edm"], 100, prediction="sample", step_scale=c) for c in (0.9, 1.0, 1.2)]
    spreads = [end_variance(plan, 1.0, plan.init_scale) for plan in plans]
    assert spreads == sorted(spreads, reverse=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, "long"])
def test_other_values_are_refused(scale):
    with pytest.raises(ValueError, match="step_scale: expected a number > 0"):
        fd.plan("euler", SCHEDULES["edm"], 5, step_scale=scale)


def test_it_belongs_to_euler_and_needs_data_in_x():
    with pytest.raises(ValueError, match="step_scale: heun has no such option"):
        fd.plan("heun", SCHEDULES["edm"], 5, step_scale=1.5)
    with pytest.raises(ValueError, match="step_scale: expected data in x"):
        fd.plan("euler", SCHEDULES["vp"].zero_terminal_snr(), 5, prediction="v_prediction", step_scale=1.5)
