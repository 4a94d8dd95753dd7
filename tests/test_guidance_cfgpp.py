"""CFG++ with every solver: its own update where there is one, and scheduled plain guidance that equals it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gaussian import run_rows

import fastdiff as fd
import fastdiff.guidance as fg
from fastdiff.guidance.step_factors import exact_factor, step_factors

SCHEDULES = {"vp": fd.Schedule.scaled_linear(), "ve": fd.Schedule.edm(), "flow": fd.Schedule.flow()}
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def make_plan(solver: str, schedule: fd.Schedule, steps: int = 6, **options: object) -> fd.Plan:
    return fd.plan(solver, schedule, steps=steps, prediction="sample", **options)


def data(x: torch.Tensor, alpha: float, sigma: float, mean: float) -> torch.Tensor:
    """E[x0 | x] for data of N(mean, 1)."""
    return mean + alpha * (x - alpha * mean) / (alpha**2 + sigma**2)


def scales_of(plan: fd.Plan, guidance: fg.CFGpp) -> np.ndarray:
    rules = [guidance.rule(fg.Point.of(plan, i)) for i in range(plan.nfe)]
    return np.array([rule.scale if rule.weights is None else rule.weights[0, 0] for rule in rules])


@schedules
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_at_first_order_it_is_ddim_that_adds_the_unconditional_noise_back(schedule, eta):
    plan = make_plan("ddim", schedule, eta=eta)
    x = start = plan.init_scale * torch.randn(32, dtype=torch.float64)
    for row, after in zip(plan.rows, [plan.point_after(i) for i in range(plan.nfe)], strict=True):
        d_c, d_u = (data(x, row.alpha, row.sigma, mean) for mean in (2.0, -1.0))
        eps_u = (x - row.alpha * d_u) / row.sigma
        up = row.x.noise[0][1] if row.x.noise else 0.0
        x = after[0] * (d_u + 0.6 * (d_c - d_u)) + (after[1] ** 2 - up**2) ** 0.5 * eps_u
    expected, x = x, start
    for i, row in enumerate(plan.rows):
        d_c, d_u = (data(x, row.alpha, row.sigma, mean) for mean in (2.0, -1.0))
        y = d_u + scales_of(plan, fg.CFGpp(0.6))[i] * (d_c - d_u)
        x = row.x.base * x + row.x.x * x + row.x.history[0] * (row.p_x * x + row.p_m * y)
    torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


@schedules
def test_the_scale_of_a_first_order_step_is_that_of_its_log_snr(schedule):
    plan = make_plan("ddim", schedule)
    h = [np.log(a_t * s / (s_t * a)) if s_t * a else np.inf for (a, s), (a_t, s_t) in steps_of(plan)]
    np.testing.assert_allclose(scales_of(plan, fg.CFGpp(0.6)), 0.6 / -np.expm1(-np.array(h)), rtol=1e-12)
    assert scales_of(plan, fg.CFGpp(0.6))[-1] == pytest.approx(0.6, rel=1e-14)


def steps_of(plan: fd.Plan) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return [((row.alpha, row.sigma), plan.point_after(i)) for i, row in enumerate(plan.rows)]


@schedules
def test_outside_of_a_plan_the_next_noise_level_is_enough(schedule):
    plan = make_plan("ddim", schedule)
    for i, expected in enumerate(scales_of(plan, fg.CFGpp(0.6))):
        at = fg.Point.of(plan, i)._replace(plan=None, row=None)
        assert fg.CFGpp(0.6).rule(at).scale == pytest.approx(expected, rel=1e-12)


@schedules
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2m_sde", "lms", "ipndm", "deis", "res_multistep"])
def test_a_multistep_row_moves_by_the_guided_data_and_remembers_the_unconditional(schedule, solver):
    plan = make_plan(solver, schedule)
    for i, row in enumerate(plan.rows):
        rule = fg.CFGpp(0.4).rule(fg.Point.of(plan, i))
        used, pushed = rule.weights
        np.testing.assert_array_equal(pushed, [0, 1, 0, 0, 0, 0])
        np.testing.assert_array_equal(used[1:], [1, 0, 0, 0, 0])
        p_m = fg.Point.of(plan, i).to_x0[1]
        moved = row.x.history[0] * row.p_m * used[0]  # of x', by c - u
        assert moved == pytest.approx(0.4 * plan.point_after(i)[0] * p_m, rel=1e-12)


@schedules
@pytest.mark.parametrize("solver", ["dpmpp_2s", "dpmpp_3s", "unipc", "heun", "dpm_2", "exp_heun", "sa_solver"])
def test_a_step_of_stages_has_the_scale_of_the_whole_step(schedule, solver):
    plan = make_plan(solver, schedule, **({"tau": 0.0} if solver == "sa_solver" else {}))
    found, i = scales_of(plan, fg.CFGpp(0.6)), 0
    while i < plan.nfe:
        last = next(j for j in range(i, plan.nfe) if plan.rows[j].accepts)
        begin = plan.rows[i].alpha, plan.rows[i].sigma
        np.testing.assert_allclose(found[i : last + 1], 0.6 * exact_factor(begin, plan.point_after(last)), rtol=1e-9)
        i = last + 1


@schedules
@pytest.mark.parametrize("solver", ["dpmpp_sde", "seeds_2", "seeds_3", "dpmpp_2s_ancestral", "dpm_2_ancestral", "heun"])
def test_the_scale_of_a_step_is_what_a_constant_prediction_weighs_in_it(schedule, solver):
    plan = make_plan(solver, schedule)
    last = next(i for i, row in enumerate(plan.rows) if row.accepts)
    step = fd.Plan(plan.rows[: last + 1], plan.point_after(last), plan.prediction)
    x = np.random.standard_normal(3)
    ends = [run_rows(step, lambda x, *_, d=d: np.full_like(x, d), x, noise=lambda j: np.zeros(3)) for d in (0.0, 1.0)]
    weight = (ends[1] - ends[0]) / step.end[0]  # W / alpha'
    np.testing.assert_allclose(step_factors(step).of_row, 1 / weight[0], rtol=1e-10)


@schedules
@pytest.mark.parametrize("solver", [solver.name for solver in fd.solvers()])
def test_every_solver_has_finite_scales(schedule, solver):
    plan = make_plan(solver, schedule)
    factors = step_factors(plan)
    assert np.isfinite(factors.of_row).all()
    assert step_factors(plan) is factors


@schedules
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2s", "unipc", "deis", "pndm"])
def test_what_the_model_predicts_does_not_matter(schedule, prediction, solver):
    start = {"start": 0.9} if prediction == "epsilon" else {}  # which says nothing at alpha = 0
    plan = fd.plan(solver, schedule, steps=6, prediction=prediction, **start)
    other = make_plan(solver, schedule, **start)
    np.testing.assert_allclose(scales_of(plan, fg.CFGpp(0.6)), scales_of(other, fg.CFGpp(0.6)), rtol=1e-9)


def test_a_number_for_each_sample():
    plan = make_plan("ddim", SCHEDULES["flow"])
    guidance = fg.CFGpp(torch.tensor([0.2, 0.8]))
    weights = guidance.rule(fg.Point.of(plan, 2)).weights
    assert weights.shape == (2, 2, 6)
    assert weights[1, 0, 0] == pytest.approx(4 * weights[0, 0, 0], rel=1e-6)


@pytest.mark.parametrize("lam", [7.5, 1.01, -0.1, [0.5, 1.5]])
def test_a_scale_of_plain_guidance_is_refused(lam):
    with pytest.raises(ValueError, match=r"lam: expected numbers in \[0, 1\]"):
        fg.CFGpp(lam)


def test_it_says_so_where_nothing_tells_what_comes_next():
    with pytest.raises(ValueError, match="noise level after"):
        fg.CFGpp(0.6).rule(fg.Point(0, 10, 0.5, 0.8, 0.6, "epsilon"))
