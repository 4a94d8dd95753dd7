"""Fits of plans whose calls of the model make several evaluations."""

from __future__ import annotations

import pytest
import torch
from mixtures import SCHEDULE, exact, model, noise

import fastdiff as fd
from fastdiff.fitting import Trial, search
from fastdiff.fitting.parallel import parallel_candidates
from fastdiff.fitting.search import candidates

pytestmark = pytest.mark.usefixtures("short_fits")
CALLS, COUNT = 5, 32


class Counted:
    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.samples += len(x)
        return model(x, t)


def fit(parallel: int, subject: object = model, **options: object) -> fd.Plan:
    return fd.fit(subject, SCHEDULE, CALLS, noise(COUNT), prediction="sample", parallel=parallel, **options)


def test_three_evaluations_a_call_err_less_in_as_many_calls(tmp_path, monkeypatch):
    """And the fit counts what it spends, and goes on in its folder."""
    monkeypatch.setattr(search, "GRIDS", ("logsnr", "karras"))
    counted, told = Counted(), []
    plan = fit(3, counted, folder=tmp_path, report=told.append)
    assert [len(turn) for turn in plan.turns] == [3] * CALLS
    spent = next(trial for trial in told if trial.stage == "total").note
    assert int(spent.split()[0].replace(",", "")) == counted.samples
    unseen = noise(200, first=10**6)
    converged = exact(unseen)

    def error(plan: fd.Plan, parallel: bool) -> float:
        return float((fd.sample(model, plan, unseen, parallel=parallel) - converged).square().mean(1).sqrt().median())

    assert error(plan, True) < 0.6 * error(fit(1), False)  # of other noises it was 0.20 to 0.34 times as much
    before = counted.samples
    assert fit(3, counted, folder=tmp_path) == plan
    assert counted.samples - before < 100  # what tells one model from another


def test_every_candidate_has_the_turns_that_were_asked_for():
    for schedule, prediction in ((SCHEDULE, "sample"), (fd.Schedule.flow(), "flow_prediction")):
        for count in (2, 3, 4):
            found = parallel_candidates(schedule, prediction, 3, count)
            assert {c.spec.options["form"] for c in found} >= {"data", "flow"}
            assert all([len(turn) for turn in c.plan.turns] == [count] * 3 for c in found)
    assert all(len(c.plan.turns) == 3 for c in candidates(SCHEDULE, "sample", 3))


@pytest.mark.parametrize("parallel", [0, 5, 1.5])
def test_a_number_of_evaluations_that_cannot_be_is_refused(parallel):
    with pytest.raises(ValueError, match="parallel: expected a whole number from 1 to 4"):
        fit(parallel)


def test_a_model_of_one_time_is_refused():
    with pytest.raises(ValueError, match="parallel: the model reads one time"):
        fit(2, lambda x, t: model(x, t[:1].expand(len(x))))


def test_a_head_start_is_refused(tmp_path):
    with pytest.raises(ValueError, match="head: not with parallel"):
        fit(2, head=2, folder=tmp_path)


def test_the_full_fit_keeps_the_turns():
    told: list[Trial] = []
    plan = fit(2, method="full", iterations=1, tolerance=0.02, report=told.append)
    assert {"forward", "differences", "descent 1"} <= {trial.stage for trial in told}
    assert [len(turn) for turn in plan.turns] == [2] * CALLS
