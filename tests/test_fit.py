"""fd.fit finds better plans than the catalogue's, and loses nothing when it is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mixtures import SCHEDULE, exact, mean_distance, model, noise, shorten_search

import fastdiff as fd
from fastdiff.fitting import Trial, budget, forward_search, stages
from fastdiff.fitting.search import candidates
from fastdiff.fitting.sources import ModelSource
from fastdiff.fitting.tracing import Tracer

STEPS = 5
COUNT = 160
pytestmark = pytest.mark.slow
SHORT = {"prediction": "sample", "method": "full", "batch": 32, "iterations": 20}


def fit(*arguments: object, **options: object) -> fd.Plan:
    return fd.fit(*(arguments or (model, SCHEDULE, STEPS, noise(COUNT))), **(SHORT | options))


@pytest.fixture(scope="module")
def fitted() -> tuple[fd.Plan, list[Trial]]:
    trials: list[Trial] = []
    return fit(iterations=60, report=trials.append), trials


@pytest.fixture(autouse=True)
def short_search(fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_search(monkeypatch)  # but not of `fitted`, which is made before


@pytest.fixture
def counted() -> tuple[object, list[int]]:
    """The model, and how many samples each of its calls had."""
    calls: list[int] = []

    def counting(x: torch.Tensor, t: torch.Tensor, **conditions: object) -> torch.Tensor:
        calls.append(len(x))
        return model(x, t, **conditions)

    return counting, calls


def test_fitted_plan_halves_the_catalogues_least_error_on_unseen_noise(fitted):
    unseen = noise(200, first=10**6)
    converged = exact(unseen)

    def error(plan: fd.Plan) -> float:
        return mean_distance(fd.sample(model, plan, unseen), converged)

    errors = [error(candidate.plan) for candidate in candidates(SCHEDULE, "sample", STEPS)]
    assert len(errors) > 50
    assert error(fitted[0]) < 0.5 * min(e for e in errors if not math.isnan(e))


def test_fitted_plan_makes_the_evaluations_asked_for(fitted):
    plan, trials = fitted
    assert plan.nfe == STEPS
    assert {trial.nfe for trial in judged(trials)} == {STEPS}


def test_stages_are_reported_in_rising_cost(fitted):
    stages = list(dict.fromkeys(trial.stage for trial in judged(fitted[1])))
    starts, descents = [f"start {i + 1}" for i in range(4)], ["descent 1", "descent 2"]
    assert stages == ["forward", "catalogue", "differences", *starts, *descents]


def test_starts_are_compared_after_a_fifth_of_the_iterations(monkeypatch):
    taken: dict[str, int] = {}
    grids: dict[str, str] = {}

    def by_descent(fit, stage, found, iterations, p, share=1.0):
        taken[stage] = iterations
        grids[stage] = found.candidate.grid
        return fit.judge_held_out(stage, found.plan), p

    monkeypatch.setattr(stages, "by_descent", by_descent)
    fit(iterations=100)
    assert taken == {f"start {i + 1}": 20 for i in range(4)} | {"descent 1": 100, "descent 2": 100}
    assert grids["start 1"] == grids["start 2"]
    assert len(set(grids.values())) == 3
    assert grids["descent 1"] != grids["descent 2"]


def test_the_plan_that_comes_back_is_the_best_on_the_held_out_samples(fitted):
    plan, trials = fitted
    held_out = noise(COUNT)[-COUNT // 4 :]
    error = mean_distance(fd.sample(model, plan, held_out), exact(held_out))
    # The fit's converged samples are only as exact as its tolerance.
    assert error == pytest.approx(min(trial.mean for trial in judged(trials)), abs=1e-3)


def test_more_iterations_than_none_at_all_never_return_worse_than_the_catalogue():
    trials: list[Trial] = []
    fit(iterations=1, report=trials.append)
    best = min(judged(trials), key=lambda trial: trial.mean)
    assert best.mean <= min(trial.mean for trial in trials if trial.stage == "catalogue")


def test_the_same_call_gives_the_same_plan():
    assert fit(iterations=5) == fit(iterations=5)


def test_saved_plan_draws_the_same_samples(fitted, tmp_path):
    fitted[0].save(tmp_path / "plan.json")
    loaded = fd.Plan.load(tmp_path / "plan.json")
    assert torch.equal(fd.sample(model, loaded, noise(4)), fd.sample(model, fitted[0], noise(4)))


def test_plan_of_another_schedule_is_refused(fitted):
    fitted[0].check_schedule(SCHEDULE)
    with pytest.raises(ValueError, match="schedule: the plan was made for one with"):
        fitted[0].check_schedule(fd.Schedule.edm(0.01, 80.0))


def test_recomputed_activations_give_the_same_plan():
    kept, recomputed = fit(iterations=3), fit(iterations=3, save_memory=True)
    torch.testing.assert_close(fd.sample(model, kept, noise(4)), fd.sample(model, recomputed, noise(4)))


def test_a_model_without_gradients_gets_the_stages_that_need_none():
    trials: list[Trial] = []
    plan = fit(torch.no_grad()(model), SCHEDULE, STEPS, noise(COUNT), report=trials.append)
    assert list(dict.fromkeys(trial.stage for trial in judged(trials))) == ["forward", "catalogue", "differences"]
    assert "no gradient" in next(trial.note for trial in trials if trial.stage == "descent")
    assert plan.nfe == STEPS


def test_conditions_go_with_their_noise():
    y = torch.arange(COUNT) % 3
    plan = fit(y=y)
    unseen, labels = noise(60, first=10**6), torch.arange(60) % 3
    drawn = fd.sample(model, plan, unseen, y=labels)
    assert mean_distance(drawn, exact(unseen, y=labels)) < 0.02


def test_guidance_is_fitted_as_it_will_be_sampled():
    guided = {"y": torch.arange(COUNT) % 3, "uncond": {"y": torch.full((COUNT,), -1)}, "guidance": 2.0}
    trials: list[Trial] = []
    fit(report=trials.append, **guided)
    per_sample: list[Trial] = []
    fit(report=per_sample.append, **(guided | {"guidance": torch.full((COUNT,), 2.0)}))
    best = min(trial.mean for trial in judged(trials))
    assert best < 0.5 * judged(trials)[0].mean
    assert best == pytest.approx(min(trial.mean for trial in judged(per_sample)), rel=1e-6)


def test_the_model_never_sees_more_samples_at_once_than_a_batch(counted):
    fit(counted[0], SCHEDULE, STEPS, noise(COUNT), iterations=2, batch=12)
    assert max(counted[1]) == 12


def test_budget_in_evaluations_is_kept_and_the_best_so_far_comes_back(counted):
    limit = 60_000
    plan = fit(counted[0], SCHEDULE, STEPS, noise(COUNT), iterations=10**6, evaluations=limit)
    # Backward passes count too, and a batch is never cut short.
    assert 0.5 * limit < sum(counted[1]) < limit + 3 * STEPS * SHORT["batch"]
    assert plan.nfe == STEPS


def judged(trials: list[Trial]) -> list[Trial]:
    """Those that are no notes."""
    return [trial for trial in trials if not trial.note]


def exhausted(*arguments: object) -> None:
    raise budget.Exhausted


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """The model in a world where nothing takes time but it: a thousandth of a second a sample."""
    now = [0.0]
    monkeypatch.setattr(budget, "monotonic", lambda: now[0])

    def slow(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        now[0] += 1e-3 * len(x)
        return model(x, t)

    return slow


def test_budget_in_seconds_ends_the_fit(ticking):
    notes: list[Trial] = []
    plan = fit(ticking, SCHEDULE, STEPS, noise(COUNT), iterations=10**6, seconds=60.0, report=notes.append)
    assert notes[-1].stage == "budget"
    assert notes[-1].note.startswith("spent after 60 s")
    assert {"forward", "catalogue"} <= {trial.stage for trial in notes}
    assert plan.nfe == STEPS


@pytest.mark.parametrize("folder", [False, True])
def test_budget_that_ends_before_a_trajectory_is_drawn_leaves_the_catalogues_first_plan(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(Tracer, "draw", exhausted)
    plan = fit(folder=tmp_path if folder else None)
    assert plan.rows == fd.plan("unipc", SCHEDULE, STEPS, grid="quadratic", prediction="sample").rows
    plan.check_schedule(SCHEDULE)


def test_budget_that_ends_with_the_trajectories_leaves_what_they_suggest(monkeypatch):
    class Spent(ModelSource):
        outputs = exhausted

    monkeypatch.setattr(forward_search, "ModelSource", Spent)
    trials: list[Trial] = []
    plan = fit(report=trials.append)
    assert not judged(trials)
    assert trials[-1].stage == "budget"
    first = fd.plan("unipc", SCHEDULE, STEPS, grid="quadratic", prediction="sample")
    found, other = (mean_distance(fd.sample(model, each, noise(COUNT)), exact(noise(COUNT))) for each in (plan, first))
    assert found < 0.5 * other  # the noises are the same in every run


def test_budget_that_no_converged_sample_fits_in_is_an_error(ticking):
    with pytest.raises(RuntimeError, match=r"budget: 0 s and \d+ evaluations were spent before .*; give it more"):
        fit(ticking, SCHEDULE, STEPS, noise(COUNT), seconds=0.2)


def test_fit_that_a_budget_stopped_goes_on_in_its_folder(tmp_path, counted):
    counting, calls = counted
    fit(counting, SCHEDULE, STEPS, noise(COUNT), folder=tmp_path, evaluations=8000)
    assert (tmp_path / "trajectory-0.safetensors").exists()
    spent = sum(calls)
    plan = fit(counting, SCHEDULE, STEPS, noise(COUNT), folder=tmp_path, iterations=2)
    resumed, _ = sum(calls) - spent, calls.clear()
    assert plan == fit(counting, SCHEDULE, STEPS, noise(COUNT), iterations=2)
    assert resumed < sum(calls) - 2000  # what was drawn is not drawn again


def test_interrupted_fit_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    from fastdiff.fitting.descent import Descent

    whole = fit(folder=tmp_path / "whole")
    advance, taken = Descent.advance, []

    def interrupting(self: Descent, rate: float) -> float:
        taken.append(rate)
        if len(taken) == 45:  # in the last descent
            raise KeyboardInterrupt
        return advance(self, rate)

    monkeypatch.setattr(Descent, "advance", interrupting)
    with pytest.raises(KeyboardInterrupt):
        fit(folder=tmp_path / "cut")
    assert fit(folder=tmp_path / "cut") == whole
    # What was complete is not done again.
    assert len(taken) <= 45 + 20


def test_fits_of_other_numbers_of_steps_share_the_converged_samples(tmp_path, counted):
    counting, calls = counted
    fit(counting, SCHEDULE, 3, noise(COUNT), folder=tmp_path, iterations=1)
    first, _ = sum(calls), calls.clear()
    plan = fit(counting, SCHEDULE, 2, noise(COUNT), folder=tmp_path, iterations=1)
    assert sum(calls) < first - 40 * COUNT
    assert plan == fit(model, SCHEDULE, 2, noise(COUNT), iterations=1)


def test_finished_fit_comes_back_from_its_folder_at_once(tmp_path, counted):
    counting, calls = counted
    plan = fit(counting, SCHEDULE, STEPS, noise(COUNT), folder=tmp_path)
    calls.clear()
    assert fit(counting, SCHEDULE, STEPS, noise(COUNT), folder=tmp_path) == plan
    assert sum(calls) < 500


def test_best_plan_so_far_comes_back_at_every_budget():
    best = math.inf
    for evaluations in (30_000, 60_000):
        trials: list[Trial] = []
        fit(iterations=10**6, evaluations=evaluations, report=trials.append)
        found = min(trial.mean for trial in judged(trials))
        assert found <= best
        best = found


def test_progress_is_shown_where_it_is_asked_for(capsys):
    fit(iterations=1, progress=True)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("teacher", "start 1", "descent 2"))


def test_trial_is_a_line_of_the_table():
    from fastdiff.fitting import HEADER

    line = str(Trial("descent", "fitted unipc", 5, 0.1, 0.05, 0.2, 3.0, evaluations=1234))
    assert line.split() == ["descent", "fitted", "unipc", "5", "0.10000", "0.05000", "0.20000", "3.0", "1234"]
    assert len(line) == len(HEADER)


def test_folder_holds_no_partial_file(tmp_path: Path):
    fit(folder=tmp_path, iterations=1)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
