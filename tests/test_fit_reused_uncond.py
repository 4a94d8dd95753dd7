"""Fits under guidance: rows without an unconditional call, and what a plan that has such is for its user."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixtures import SCHEDULE, model, noise

import fastdiff as fd
from fastdiff.fitting import Trial, journal
from fastdiff.fitting.budget import Budget
from fastdiff.fitting.forward import Setting
from fastdiff.fitting.forward_search import folds_of
from fastdiff.fitting.found import Found
from fastdiff.fitting.reused_rows import ReuseForward
from fastdiff.fitting.search import candidates
from fastdiff.fitting.target import FitTarget
from fastdiff.fitting.trajectory import Trajectory, distances, points_of

pytestmark = pytest.mark.usefixtures("short_fits")
STEPS, COUNT = 4, 16
CALLS = (True, True, False, True, False, False)
LABELS = torch.arange(COUNT) % 3


class Guided:
    """A model under guidance on one schedule, its converged runs, and fits of plans to them."""

    def __init__(self, subject, schedule, prediction, guidance, uncond, start, **conditions):
        budget = Budget(None, None)
        self.target = FitTarget(subject, start, budget, 64, guidance, uncond, conditions=conditions)
        self.schedule, self.prediction, self.start = schedule, prediction, start
        places = torch.arange(len(start))
        plan = fd.plan("dpm_solver_3m_exact", schedule, 100, grid="logsnr", prediction=prediction)
        self.trajectory = Trajectory(points_of(plan), *self.target.trace(plan, places, start.device))
        self.options = {"guidance": guidance, "uncond": uncond, **conditions}
        starts = lambda plan: self.target.started(plan, places, None)  # noqa: E731
        self.model = ReuseForward(self.target, self.trajectory, starts, folds_of(len(start)))

    def found(self, solver: str, calls: tuple[bool, ...]) -> Found:
        every = candidates(self.schedule, self.prediction, len(calls))
        return replace(Found.at(next(c for c in every if c.spec.solver == solver)), calls=calls)


@pytest.fixture(scope="module")
def mixture() -> Guided:
    scales = torch.rand(COUNT, dtype=torch.float64) + 1.5
    return Guided(model, SCHEDULE, "sample", scales, {"y": torch.full((COUNT,), -1)}, noise(COUNT), y=LABELS)


@pytest.mark.parametrize("solver", ["dpm_solver_2m", "unipc", "plms", "lms"])
def test_the_plan_runs_as_its_rows_were_fitted(mixture, solver):
    """Differences are fitted in the form of D and divided by its weight; the plan has them as its run reads them."""
    found = mixture.found(solver, CALLS)
    (fitted,) = mixture.model.run([Setting(found.space, found.p, CALLS)], crossed=False)
    plan = replace(found, p=fitted.p, uncond=fitted.uncond).plan
    assert [bool(row.uncond) for row in plan.rows] == [not called for called in CALLS]
    drawn = fd.sample(model, plan, mixture.start, **mixture.options)
    torch.testing.assert_close(drawn, fitted.x, rtol=1e-7, atol=1e-7)


def test_evaluations_are_counted_as_they_are_made(mixture):
    counts = [0]

    def counted(x, t, **conditions):
        counts[0] += len(x)
        return model(x, t, **conditions)

    before, own = mixture.target.budget.evaluations, mixture.target.model
    mixture.target.model = counted
    anew = ReuseForward(mixture.target, mixture.trajectory, mixture.model.starts, mixture.model.folds)
    try:
        found = mixture.found("dpm_solver_2m", CALLS)
        (fitted,) = anew.run([Setting(found.space, found.p, CALLS)])
        plan = replace(found, p=fitted.p, uncond=fitted.uncond).plan
        mixture.target.draw(plan, torch.arange(COUNT))
    finally:
        mixture.target.model = own
    assert mixture.target.budget.evaluations - before == counts[0] == 2 * COUNT * (2 * 3 + 3)


@pytest.mark.parametrize("uncond", [False, True])
def test_a_model_that_reads_one_time_is_asked_for_both_outputs_at_each_time(mixture, uncond):
    places = torch.arange(6)
    x, t = noise(6), torch.tensor([3.0, 0.5, 3.0, 1.0, 0.5, 3.0], dtype=torch.float64)
    together = mixture.target.outputs(x, t, places, uncond)
    assert together.shape == (6, 1 + uncond, 3)
    mixture.target.one_time = True
    try:
        torch.testing.assert_close(mixture.target.outputs(x, t, places, uncond), together)
    finally:
        mixture.target.one_time = False


def shifted(x, t, mean):
    """E[x0 | x] of Gaussian data of variance 0.3 around `mean`, for x = x0 + t eps."""
    gain = 0.3 / (0.3 + t[:, None] ** 2)
    return mean + gain * (x - mean)


def test_where_u_and_c_differ_by_a_constant_direction_nothing_is_lost():
    """u - c = (mean_u - mean_c) t^2 / (0.3 + t^2): the earlier difference, times a number, is the one wanted."""
    means = torch.randn(COUNT, 8, dtype=torch.float64)
    start = torch.randn(COUNT, 8, dtype=torch.float64)
    case = Guided(shifted, SCHEDULE, "sample", 2.5, {"mean": torch.randn(1, 8, dtype=torch.float64)}, start, mean=means)
    found = case.found("dpm_solver_2m", CALLS)
    (fitted,) = case.model.run([Setting(found.space, found.p, CALLS)], crossed=False)
    errors = distances(fitted.x, case.trajectory.end)
    assert float(errors.max()) < 1e-6 * float(case.trajectory.end.square().mean().sqrt())
    unfitted = replace(found, uncond=tuple(() if called else (1.0,) for called in CALLS)).plan
    drawn = fd.sample(shifted, unfitted, start, **case.options)
    assert float(distances(drawn, case.trajectory.end).mean()) > 20 * float(errors.mean())


GUIDED = {"y": LABELS, "uncond": {"y": torch.full((COUNT,), -1)}, "guidance": 2.0}


def fit(**options: object) -> fd.Plan:
    return fd.fit(
        model, SCHEDULE, STEPS, noise(COUNT), prediction="sample", **(GUIDED | {"reuse_uncond": True} | options)
    )


def test_a_fit_finds_which_rows_make_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SHOWN_INTERVAL", 0.0)
    trials: list[Trial] = []
    plan = fit(folder=tmp_path, report=trials.append)
    assert {t.stage for t in trials if ", u in " in t.name} == {"reuse"}
    kept = {t.stage: t for t in trials if not t.note}
    best = min(t.mean for t in kept.values())
    assert plan.reuses_uncond == (kept["reuse"].mean == best)
    again: list[Trial] = []
    assert fit(folder=tmp_path, report=again.append) == plan
    assert [t for t in again if t.stage == "reuse"] == [kept["reuse"]]


def test_as_many_network_evaluations_as_were_asked_for(tmp_path):
    fit(folder=tmp_path)
    (found,) = json.loads((tmp_path / f"{STEPS}" / "reuse.json").read_text())["content"]["found"]
    plan = fd.Plan.from_dict(found["plan"])
    assert plan.reuses_uncond
    assert sum(1 if row.uncond else 2 for row in plan.rows) == 2 * STEPS
    x = fd.sample(model, plan, noise(COUNT), **GUIDED)
    assert bool(torch.isfinite(x).all())


def test_nothing_of_it_is_tried_where_it_was_not_asked_for():
    trials: list[Trial] = []
    plan = fit(reuse_uncond=False, report=trials.append)
    assert not plan.reuses_uncond
    assert plan.nfe == STEPS
    assert "reuse" not in [t.stage for t in trials]
    assert np.isfinite([t.mean for t in trials if not t.note]).all()
    with pytest.raises(ValueError, match="reuse_uncond: without guidance"):
        fit(guidance=None)
