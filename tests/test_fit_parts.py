"""The parts of a fit: the family of plans, the run that can be differentiated, the race."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mixtures import SCHEDULE, model, noise, posterior_mean

import fastdiff as fd
from fastdiff.fitting.search import SolverSpec, candidates, race
from fastdiff.fitting.space import PlanSpace
from fastdiff.fitting.trajectory import distances
from fastdiff.fitting.unroll import unroll
from fastdiff.plans.grid import GRIDS, make_grid

SCHEDULES = {"edm": SCHEDULE, "vp": fd.Schedule.vp(), "flow": fd.Schedule.flow(), "zero snr": None}
SCHEDULES["zero snr"] = fd.Schedule.scaled_linear().zero_terminal_snr()
DETERMINISTIC = [solver.name for solver in fd.solvers() if not solver.stochastic and solver.order > 0]


def space_of(solver: str, schedule: fd.Schedule = SCHEDULE, steps: int = 4) -> PlanSpace:
    # At zero terminal SNR there is no noise to predict from: v is what such models give.
    base = SolverSpec(solver, schedule, "sample" if schedule is SCHEDULE else "v_prediction")
    return PlanSpace(base.build, schedule, make_grid(schedule, steps, "quadratic"))


def run(space: PlanSpace, p: np.ndarray, x: torch.Tensor, **options: object) -> torch.Tensor:
    table = torch.from_numpy(space.table(p)).expand(len(x), -1, -1)
    active = np.ones((space.plan.nfe, table.shape[2] - 1), dtype=bool)
    return unroll(space.plan, table, active, x * space.plan.init_scale, model, **options)


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
    p = np.random.normal(size=space.size) * 0.3 * space.widths
    while not space.reaches(p):
        p /= 2
    drawn = fd.sample(model, space.plan_of(p), noise(5))
    torch.testing.assert_close(run(space, p, noise(5)), drawn, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", ["unipc", "dpm_2"])
def test_jacobian_is_the_tables_derivative(solver, schedule):
    space = space_of(solver, SCHEDULES[schedule])
    p = np.random.normal(size=space.size) * 0.2 * space.widths
    jacobian = space.jacobian(p)
    for i in range(space.size):
        move = np.zeros(space.size)
        move[i] = 1e-6  # the weights bend where alpha is next to 0
        slope = (space.table(p + move) - space.table(p - move)) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, i], slope, rtol=1e-2, atol=1e-3 * np.abs(slope).max() + 1e-7)


def test_space_reaches_only_grids_where_the_rows_move_the_same_registers():
    """Where a step grows too long for a second order, there is nothing to correct after it."""
    space = space_of("dpm_solver_v3")
    p = np.zeros(space.size)
    p[: (space.kinds == "grid").sum()] = np.linspace(-2, 2, (space.kinds == "grid").sum())
    assert space.rebuilt(p[space.kinds == "grid"]).nfe == space.plan.nfe
    assert space.reaches(np.zeros(space.size))
    assert not space.reaches(p)


def test_gradient_through_the_run_is_the_slope_of_its_result():
    space = space_of("unipc")
    table = torch.from_numpy(space.table(np.zeros(space.size)))
    active = (table[:, :-1] != 0).numpy()
    x = noise(3) * space.plan.init_scale

    def result(table: torch.Tensor) -> torch.Tensor:
        return unroll(space.plan, table.expand(3, -1, -1), active, x, model).sum()

    leaf = table.clone().requires_grad_()
    (slope,) = torch.autograd.grad(result(leaf), leaf)
    for place in (*map(tuple, np.argwhere(active)[::3]), (1, -1)):
        move = torch.zeros_like(table)
        move[place] = 1e-6
        numeric = (result(table + move) - result(table - move)) / 2e-6
        torch.testing.assert_close(slope[place], numeric, rtol=1e-4, atol=1e-6)


def test_candidates_make_exactly_the_evaluations_asked_for():
    for evaluations in (1, 4, 7):
        found = candidates(SCHEDULE, "sample", evaluations)
        assert {candidate.plan.nfe for candidate in found} == {evaluations}
        assert len({candidate.plan.rows for candidate in found}) == len(found)


@pytest.mark.parametrize("schedule", [SCHEDULE, fd.Schedule.vp(), fd.Schedule.flow(), fd.Schedule.scaled_linear()])
def test_candidates_lie_on_every_grid_that_the_schedule_has(schedule):
    """Grids that are one on a schedule, such as exponential and log-SNR, are tried once."""
    found = candidates(schedule, "sample", 6)
    tables = {candidate.plan.table.tobytes() for candidate in found}
    for grid in GRIDS:
        try:
            plan = fd.plan("ddim", schedule, 6, grid=grid, prediction="sample")
        except ValueError:
            continue
        if plan.start[1] > schedule.init_scale * (1 + 1e-9):
            continue  # a table that begins at more noise than this schedule has
        points = [c.points.log_snr for c in found if c.spec.name == "ddim"]
        mine = np.array([np.log(row.alpha / row.sigma) if row.alpha else -np.inf for row in plan.rows])
        assert any(np.allclose(p[:6], mine, rtol=1e-6, atol=1e-6) for p in points), grid
    assert len(tables) == len(found)


def each(judge: Callable[[fd.Plan, torch.Tensor], torch.Tensor]) -> Callable:
    return lambda plans, places: [judge(plan, places) for plan in plans]


def test_the_race_finds_the_best_and_gives_the_others_up_early():
    found = candidates(SCHEDULE, "sample", 4)
    generator = torch.Generator().manual_seed(0)
    hardness = torch.rand(64, generator=generator).exp()  # some samples are hard for every plan
    true = {id(candidate.plan): 1 + i for i, candidate in enumerate(found)}
    judged: dict[int, int] = {}

    def judge(plan: fd.Plan, places: torch.Tensor) -> torch.Tensor:
        judged[id(plan)] = judged.get(id(plan), 0) + len(places)
        spoilt = true[id(plan)] % 5 == 4
        own = 1 + 0.1 * torch.rand(len(places), generator=generator)
        return torch.full((len(places),), torch.nan) if spoilt else true[id(plan)] * hardness[places] * own

    ranked = race(found[::-1], each(judge), 64)
    assert ranked[0][1] is found[0]
    assert judged[id(found[0].plan)] == 64
    assert sorted(judged.values())[len(found) // 2] == 8
    assert {id(candidate) for _, candidate in ranked} == {id(candidate) for candidate in found}


@pytest.mark.parametrize("steps", [3, 5, 8])
@pytest.mark.parametrize("schedule", ["edm", "vp", "flow"])
def test_what_the_race_finds_is_the_best_of_the_whole_catalogue_on_all_samples(schedule, steps):
    """On every grid, by a mixture's exact score: as if every plan had been judged on every sample."""
    kind, count = SCHEDULES[schedule], 48
    start = noise(count)

    def exact_model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (torch.from_numpy(np.asarray(f(t.numpy()))).double() for f in (kind.alpha, kind.sigma))
        return posterior_mean(x, alpha, sigma)

    converged = fd.sample(exact_model, fd.plan("dpmpp_3m_exact", kind, 200, grid="logsnr", prediction="sample"), start)

    def judge(plan: fd.Plan, places: torch.Tensor) -> torch.Tensor:
        return distances(fd.sample(exact_model, plan, start[places]), converged[places])

    found = candidates(kind, "sample", steps)
    means = [float(judge(candidate.plan, torch.arange(count)).mean()) for candidate in found]
    distance, winner = race(found, each(judge), count)[0]
    mean = float(distance.mean())
    assert mean == pytest.approx(min(m for m in means if not np.isnan(m)), rel=1e-12)
    assert mean == pytest.approx(means[found.index(winner)], rel=1e-12)
