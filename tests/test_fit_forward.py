"""The forward fit: rows by least squares on converged trajectories, from a few samples and forward calls alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixtures import SCHEDULE, exact, mean_distance, model, noise, posterior_mean

import fastdiff as fd
from fastdiff.fitting import Trial
from fastdiff.fitting.forward import Forward, Setting
from fastdiff.fitting.parallel import spec_of
from fastdiff.fitting.regression import Moments, choose, fitted
from fastdiff.fitting.search import candidates
from fastdiff.fitting.sources import LinearSource
from fastdiff.fitting.space import PlanSpace
from fastdiff.fitting.trajectory import Trajectory
from fastdiff.plans.grid import make_grid
from fastdiff.plans.schedule import Schedule

SAMPLES = 8
FITTED = 32  # in three dimensions a sample is three equations
SCHEDULES = {
    "edm": (SCHEDULE, "sample"),
    "vp": (Schedule.vp(), "epsilon"),
    "flow": (Schedule.flow(), "flow_prediction"),
    "zero snr": (Schedule.scaled_linear().zero_terminal_snr(), "v_prediction"),
}


def network(schedule: Schedule, prediction: str):
    """The mixture's exact output on a schedule."""

    def output(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (torch.from_numpy(np.asarray(f(t.double().numpy()))) for f in (schedule.alpha, schedule.sigma))
        data = posterior_mean(x, alpha, sigma)
        a, s = alpha[:, None], sigma[:, None]
        eps = (x - a * data) / s
        outputs = {"sample": data, "epsilon": eps, "flow_prediction": eps - data, "v_prediction": a * eps - s * data}
        return outputs[prediction]

    return output


def trace(schedule: Schedule, prediction: str, steps: int, start: torch.Tensor) -> Trajectory:
    plan = fd.plan("dpm_solver_3m_exact", schedule, steps, grid="quadratic", prediction=prediction)
    states, data = [start * plan.init_scale], []
    for step in fd.iter_sample(network(schedule, prediction), plan, start):
        states.append(step.x.clone())
        data.append(step.x0.clone())
    rows = [(row.t, row.alpha, row.sigma) for row in plan.rows] + [(float("nan"), *plan.end)]
    return Trajectory(fd.plans.schedule.Points(*np.array(rows).T), torch.stack(states), torch.stack(data))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_trajectory_is_known_between_its_points(kind):
    coarse, fine = (trace(*SCHEDULES[kind], steps, noise(4)) for steps in (200, 400))
    for j in range(0, 400, 37):  # every second point of the fine one lies between two of the coarse one
        alpha, sigma = float(fine.points.alpha[j]), float(fine.points.sigma[j])
        size = float(fine.states[j].square().mean().sqrt())
        assert float((coarse.at(alpha, sigma) - fine.states[j]).abs().max()) < 2e-3 * size
        data = fine.data[j]
        assert float((coarse.data_at(alpha, sigma) - data).abs().max()) < 3e-2
    assert torch.equal(coarse.at(*map(float, (coarse.points.alpha[-1], coarse.points.sigma[-1]))), coarse.end.double())


def moments_of(b: np.ndarray, samples: int = 6, spoilt: int = 0) -> Moments:
    features = [torch.randn(samples, 50, dtype=torch.float64) for _ in b]
    residual = sum(float(w) * f for w, f in zip(b, features, strict=True))
    residual[:spoilt] += 100 * torch.randn(spoilt, 50, dtype=torch.float64)
    return Moments.of(features, residual)


def test_regression_finds_weights_that_explain_everything():
    b = np.random.normal(size=5)
    found = fitted(moments_of(b), np.arange(6) % 3, choose(moments := moments_of(b), np.arange(6) % 3))
    assert moments.size == 5
    np.testing.assert_allclose(found[0].b, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0].apart, np.tile(b, (6, 1)), rtol=1e-5, atol=1e-5)


def test_one_sample_that_ends_elsewhere_does_not_rule_the_regression():
    b = np.array([0.5, -1.0])
    moments = moments_of(b, samples=12, spoilt=1)
    (solution,) = fitted(moments, np.arange(12) % 4, choose(moments, np.arange(12) % 4))
    np.testing.assert_allclose(solution.b, b, atol=2e-3)


def test_a_sample_is_carried_by_weights_that_were_fitted_without_it():
    moments = moments_of(np.array([1.0]), samples=8)
    folds = np.arange(8) % 4
    folds[0] = -1  # never fitted to
    choices = choose(moments, folds)
    before = fitted(moments, folds, choices)[0]
    moments.cross[0, [0, 3]] *= 5.0
    after = fitted(moments, folds, choices)[0]
    np.testing.assert_array_equal(before.apart[3], after.apart[3])
    assert abs(before.b[0] - after.b[0]) > 1e-6  # the third sample counts in the whole
    moments.cross[0, 0] *= 5.0
    np.testing.assert_array_equal(fitted(moments, folds, choices)[0].b, after.b)


@pytest.mark.parametrize("solver", ["ddim", "unipc", "midpoint", "lms", "heun", "parallel"])
def test_weights_on_gaussian_data_become_exact(solver):
    """A linear model's whole run is linear, so rows of two numbers can follow it wherever they are laid."""
    schedule, variance = Schedule.flow(), 0.3
    start = torch.randn(SAMPLES, 12, dtype=torch.float64)
    points = schedule.at(np.linspace(1, 0.0, 301)[:-1])
    spread = np.sqrt(points.alpha**2 * variance + points.sigma**2)
    spread = np.append(spread, np.sqrt(variance))
    alpha, sigma = np.append(points.alpha, 1.0), np.append(points.sigma, 0.0)
    states = torch.from_numpy(spread)[:, None, None] * start
    gain = torch.from_numpy(points.alpha * variance / spread[:-1] ** 2)
    trajectory = Trajectory(
        fd.plans.schedule.Points(np.append(points.t, 0), alpha, sigma), states, gain[:, None, None] * states[:-1]
    )
    spec = spec_of(
        solver, schedule, "flow_prediction", {"evaluations": 3, "form": "flow"} if solver == "parallel" else {}
    )
    space = PlanSpace(spec.build, schedule, make_grid(schedule, 4, "quadratic"))
    source = LinearSource(trajectory)
    source._variance = variance
    fit = Forward(source, trajectory, lambda plan: start, np.arange(SAMPLES) % 4)
    setting = Setting(space, np.zeros(space.size))
    theory = mean_distance(fd.sample(lambda x, t: torch.zeros_like(x), space.plan, start), trajectory.end)
    found = fit.run([setting])[0]
    assert found.mean < 1e-4 * theory
    assert space.plan_of(found.p).turns == space.plan.turns
    assert fit.run([setting], crossed=False)[0].mean < 1e-4 * theory


@pytest.fixture(scope="module")
def trials() -> tuple[fd.Plan, list[Trial]]:
    found: list[Trial] = []
    plan = fd.fit(model, SCHEDULE, 5, noise(FITTED), prediction="sample", report=found.append)
    return plan, [trial for trial in found if not trial.note]


def test_a_few_samples_and_no_gradient_beat_the_catalogues_least_error_on_unseen_noise_by_a_third(trials):
    unseen = noise(200, first=10**6)
    converged = exact(unseen)

    def error(plan: fd.Plan) -> float:
        return float((fd.sample(model, plan, unseen) - converged).square().mean(1).sqrt().median())

    best = min(error(candidate.plan) for candidate in candidates(SCHEDULE, "sample", 5))
    assert error(trials[0]) < 0.67 * best


def test_the_forward_fit_is_never_worse_than_the_catalogue_on_its_samples(trials):
    start = noise(FITTED)
    goal = exact(start)
    least = min(mean_distance(fd.sample(model, c.plan, start), goal) for c in candidates(SCHEDULE, "sample", 5))
    assert min(trial.mean for trial in trials[1]) <= least + 1e-3  # the trajectories' tolerance
    assert {trial.stage for trial in trials[1]} == {"forward", "catalogue"}


@pytest.mark.parametrize("kind", [kind for kind in SCHEDULES if kind != "edm"])
def test_every_schedule_and_prediction_can_be_fitted_within_a_budget(kind):
    schedule, prediction = SCHEDULES[kind]
    run, unseen = network(schedule, prediction), noise(100, first=10**6)
    plan = fd.fit(run, schedule, 4, noise(4), prediction=prediction, evaluations=6000)
    goal = fd.sample(
        run, fd.plan("dpm_solver_3m_exact", schedule, 300, grid="quadratic", prediction=prediction), unseen
    )
    first = fd.plan("unipc", schedule, 4, grid="quadratic", prediction=prediction)
    fitted_error, other = (mean_distance(fd.sample(run, p, unseen), goal) for p in (plan, first))
    assert plan.nfe == 4
    assert fitted_error < other


def test_a_model_in_half_precision_can_be_fitted():
    def rough(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float16
        return model(x.double(), t.double()).half()

    start, unseen = noise(SAMPLES).float(), noise(100, first=10**6).float()
    plan = fd.fit(rough, SCHEDULE, 4, start, prediction="sample", model_dtype=torch.float16, tolerance=2e-2)
    first = fd.plan("unipc", SCHEDULE, 4, grid="quadratic", prediction="sample")
    fitted_error, other = (
        mean_distance(fd.sample(rough, p, unseen, model_dtype=torch.float16), exact(unseen.double()))
        for p in (plan, first)
    )
    assert fitted_error < 0.5 * other


@pytest.mark.usefixtures("short_search")
def test_a_model_that_reads_one_time_a_call_gets_the_plan_of_one_that_reads_each_samples():
    def reading_one(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model(x, t[:1].expand(len(x)))

    each, one = (fd.fit(m, SCHEDULE, 4, noise(SAMPLES), prediction="sample").table for m in (model, reading_one))
    np.testing.assert_allclose(one.view(float), each.view(float), rtol=1e-9, atol=1e-9)
