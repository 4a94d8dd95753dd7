"""Guidance on Gaussian data, where the guided run's end is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, Gaussian, run_rows, slope, smooth_levels

import fastdiff as fd
import fastdiff.guidance as fg

COND, UNCOND = Gaussian(DATA.mean + 1.5, DATA.variance), Gaussian(-DATA.mean, DATA.variance)
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def shifted(scale: float) -> Gaussian:
    """The data whose perfect model is the guided one: D_c - D_u is the same multiple of the means' difference."""
    return Gaussian(UNCOND.mean + scale * (COND.mean - UNCOND.mean), DATA.variance)


def guided_run(plan: fd.Plan, guidance: fg.Guidance, x: np.ndarray) -> np.ndarray:
    combiner, points = fg.Combiner(guidance), iter(fg.Point.of(plan, i) for i in range(plan.nfe))

    def x0(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        outputs = [torch.from_numpy(data.x0(x, alpha, sigma)) for data in (COND, UNCOND)]
        return combiner(next(points), torch.from_numpy(x), outputs).numpy()

    return run_rows(plan, x0, x)


@schedules
@pytest.mark.parametrize("solver", ["dpm_solver_3m_exact", "unipc", "heun"])
def test_cfg_between_two_gaussians_follows_the_flow_of_a_third(schedule, solver):
    errors, counts = [], (16, 32, 64)
    noise = np.random.standard_normal((5, 4))  # the same for all: another noise has another error
    for steps in counts:
        plan = fd.plan(solver, schedule, sigmas=smooth_levels(schedule, steps), prediction="sample")
        x = plan.start[1] * noise
        exact = shifted(3.0).flow(x, plan.start)(*plan.end)
        errors.append(np.abs(guided_run(plan, fg.CFG(3.0), x) - exact).max() / np.abs(exact).max())
    assert errors[-1] < 2e-3
    assert slope(counts, errors) > 1.5


@schedules
def test_an_interval_is_the_flow_of_one_gaussian_and_then_of_the_other(schedule):
    plan = fd.plan("unipc", schedule, sigmas=smooth_levels(schedule, 200), prediction="sample")
    ratios = [row.sigma / row.alpha for row in plan.rows]
    middle = 70
    x = plan.start[1] * np.random.standard_normal((5, 4))
    switch = plan.rows[middle].alpha, plan.rows[middle].sigma
    guided = shifted(3.0).flow(x, plan.start)(*switch)
    exact = COND.flow(guided, switch)(*plan.end)
    between = (ratios[middle - 1] * ratios[middle]) ** 0.5
    found = guided_run(plan, fg.CFG(3.0, interval=(between, float("inf"))), x)
    np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.05)


@schedules
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_apg_without_the_parallel_part_moves_less_along_the_conditional_data(schedule, eta):
    """At one evaluation: what is added to D_c is D_c - D_u, or its part across D_c."""
    plan = fd.plan("ddim", schedule, steps=1, prediction="sample")
    x = plan.start[1] * np.random.standard_normal((5, 4))
    d_c, d_u = (data.x0(x, *plan.start) for data in (COND, UNCOND))
    added = d_c - d_u
    along = (added * d_c).sum(1, keepdims=True) / (d_c * d_c).sum(1, keepdims=True) * d_c
    expected = d_c + 2 * (added - (1 - eta) * along)
    row = plan.rows[0]
    exact = row.x.x * x + row.x.base * x + row.x.history[0] * (row.p_x * x + row.p_m * expected)
    np.testing.assert_allclose(guided_run(plan, fg.APG(3.0, eta=eta), x), exact, rtol=1e-10, atol=1e-10)


@schedules
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2s", "unipc"])
def test_cfgpp_with_lambda_zero_follows_the_unconditional_flow(schedule, solver):
    plan = fd.plan(solver, schedule, sigmas=smooth_levels(schedule, 20), prediction="sample")
    x = plan.start[1] * np.random.standard_normal((5, 4))
    expected = run_rows(plan, UNCOND.x0, x)
    np.testing.assert_allclose(guided_run(plan, fg.CFGpp(0.0), x), expected, rtol=1e-12, atol=1e-12)
