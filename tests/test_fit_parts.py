"""The parts of a fit: the family of plans, the run that can be differentiated, the dynamic programme."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from mixtures import SCHEDULE, model, noise

import fastdiff as fd
from fastdiff.fitting.gits import cheapest_path, dp_grid
from fastdiff.fitting.search import Base, candidates, eliminate
from fastdiff.fitting.space import PlanSpace
from fastdiff.fitting.unroll import unroll
from fastdiff.grid import make_grid

SCHEDULES = {"edm": SCHEDULE, "vp": fd.Schedule.vp(), "flow": fd.Schedule.flow(), "zero snr": None}
SCHEDULES["zero snr"] = fd.Schedule.scaled_linear().zero_terminal_snr()
DETERMINISTIC = [solver.name for solver in fd.solvers() if not solver.stochastic and solver.order > 0]


def space_of(solver: str, schedule: fd.Schedule = SCHEDULE, steps: int = 4) -> PlanSpace:
    # At zero terminal SNR there is no noise to predict from: v is what such models give.
    base = Base(solver, schedule, "sample" if schedule is SCHEDULE else "v_prediction")
    return PlanSpace(base.build, schedule, make_grid(schedule, steps, "quadratic"))


def run(space: PlanSpace, p: np.ndarray, x: torch.Tensor, **options: object) -> torch.Tensor:
    table = torch.from_numpy(space.table(p)).expand(len(x), -1, -1)
    active = np.ones((space.plan.nfe, table.shape[2] - 1), dtype=bool)
    return unroll(space.plan, table, active, x * space.plan.init_scale, lambda x, t: (model(x, t), None), **options)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", ["ddim", "unipc", "dpmpp_2m", "heun", "gradient_estimation"])
def test_all_zeros_are_the_solvers_own_plan(solver, schedule):
    space = space_of(solver, SCHEDULES[schedule])
    plan = space.plan_of(np.zeros(space.size))
    np.testing.assert_allclose(plan.table.view(float), space.plan.table.view(float), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose([row.t for row in plan.rows], [row.t for row in space.plan.rows], rtol=1e-12)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_differentiable_run_is_the_run_of_sample(solver):
    space = space_of(solver)
    p = np.random.default_rng().normal(size=space.size) * 0.3 * space.widths
    while not space.reaches(p):
        p /= 2
    drawn = fd.sample(model, space.plan_of(p), noise(5))
    torch.testing.assert_close(run(space, p, noise(5)), drawn, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", ["unipc", "dpm_2"])
def test_jacobian_is_the_tables_derivative(solver, schedule):
    space = space_of(solver, SCHEDULES[schedule])
    p = np.random.default_rng().normal(size=space.size) * 0.2 * space.widths
    jacobian = space.jacobian(p)
    for i in range(space.size):
        move = np.zeros(space.size)
        move[i] = 1e-4
        slope = (space.table(p + move) - space.table(p - move)) / 2e-4
        np.testing.assert_allclose(jacobian[:, :, i], slope, rtol=1e-2, atol=1e-3 * np.abs(slope).max() + 1e-7)


def test_gradient_through_the_run_is_the_slope_of_its_result():
    space = space_of("unipc")
    table = torch.from_numpy(space.table(np.zeros(space.size)))
    active = (table[:, :-1] != 0).numpy()
    x = noise(3) * space.plan.init_scale

    def result(table: torch.Tensor) -> torch.Tensor:
        return unroll(space.plan, table.expand(3, -1, -1), active, x, lambda x, t: (model(x, t), None)).sum()

    leaf = table.clone().requires_grad_()
    (slope,) = torch.autograd.grad(result(leaf), leaf)
    for place in (*map(tuple, np.argwhere(active)[::3]), (1, -1)):
        move = torch.zeros_like(table)
        move[place] = 1e-6
        numeric = (result(table + move) - result(table - move)) / 2e-6
        torch.testing.assert_close(slope[place], numeric, rtol=1e-4, atol=1e-6)


def test_cheapest_path_is_the_cheapest_of_all():
    count, steps = 9, 4
    costs = np.random.default_rng().random((count, count))
    costs[np.tril_indices(count)] = np.inf
    paths = [(0, *inner, count - 1) for inner in combinations(range(1, count - 1), steps - 1)]
    cost = {path: sum(costs[a, b] for a, b in pairwise(path)) for path in paths}
    assert tuple(cheapest_path(costs, steps)) == min(cost, key=cost.get)


def test_dynamic_programme_puts_its_points_where_the_prediction_bends():
    """A prediction that is constant but for one stretch needs no points elsewhere."""
    points = make_grid(SCHEDULE, 20, "logsnr", final_sigma="sigma_min")
    log_snr = points.log_snr
    data = torch.tensor(np.clip(log_snr - log_snr[8], 0, log_snr[12] - log_snr[8]))[:-1, None, None]
    states = [torch.zeros(1, 1, dtype=torch.float64)]
    for i in range(20):
        ratio = points.sigma[i + 1] / points.sigma[i]
        states.append(ratio * states[i] + (1 - ratio) * data[i])
    chosen = dp_grid(points, torch.stack(states), data, 6)
    inside = (chosen.log_snr >= log_snr[8] - 1e-9) & (chosen.log_snr <= log_snr[13] + 1e-9)
    assert inside.sum() >= 4


def test_candidates_make_exactly_the_evaluations_asked_for():
    for evaluations in (1, 4, 7):
        found = candidates(SCHEDULE, "sample", evaluations)
        assert {candidate.plan.nfe for candidate in found} == {evaluations}
        assert len({candidate.plan.rows for candidate in found}) == len(found)


def test_elimination_judges_the_best_on_all_samples_and_ranks_them_first():
    found = candidates(SCHEDULE, "sample", 4)
    true = {id(candidate.plan): i for i, candidate in enumerate(found)}
    judged: dict[int, int] = {}

    def score(plan: fd.Plan, count: int) -> float:
        judged[id(plan)] = count
        return float("nan") if true[id(plan)] % 5 == 4 else true[id(plan)]

    ranked = eliminate(found[::-1], score, 4, 64)
    assert ranked[0][1] is found[0]
    assert judged[id(found[0].plan)] == 64
    assert sorted(judged.values())[len(found) // 2] == 4
    assert len(ranked) == len(found)
