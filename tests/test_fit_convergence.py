"""The converged plan of a fit: as exact as the fit needs, found at little cost; runs of several plans at once."""

from __future__ import annotations

import pytest
import torch
from mixtures import SCHEDULE, model, noise
from torch import Tensor

import fastdiff as fd
from fastdiff.fitting import Trial, convergence, sources
from fastdiff.fitting.budget import Budget
from fastdiff.fitting.convergence import BEARABLE, PROBE_SAMPLES, SMALL, TOLERANCE, Converged, contestants, converged
from fastdiff.fitting.folder import Folder
from fastdiff.fitting.lockstep import drawn_together
from fastdiff.fitting.references import ReferenceSampler
from fastdiff.fitting.sources import Ask, ModelSource
from fastdiff.fitting.target import FitTarget
from fastdiff.fitting.trajectory import distances
from fastdiff.sampling.ranks import Ranks

COUNT = 6
MEMORY = 10**9
SOLVERS = ("ddim", "unipc", "heun", "dpm_solver_3s", "deis", "ipndm", "adams_moulton", "gradient_estimation")


class Counted:
    """The model; how many samples it has seen."""

    def __init__(self, jump: float = 0.0) -> None:
        self.samples, self.jump = 0, jump

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.samples += len(x)
        return model(x, t if not self.jump else (t.log() / self.jump).round().mul(self.jump).exp())


def target_of(subject: Counted, evaluations: int | None = None) -> FitTarget:
    return FitTarget(subject, noise(COUNT), Budget(None, evaluations), batch=16)


def search(target: FitTarget, steps: int, tolerance: float | None = None) -> Converged:
    return converged(target, SCHEDULE, "sample", steps, tolerance, MEMORY)


def gap(x: Tensor, exact: Tensor) -> float:
    return float(distances(x, exact).median() / exact.square().mean().sqrt())


def test_plans_that_run_together_give_the_samples_of_each_alone():
    subject, plans = Counted(), [fd.plan(s, SCHEDULE, 5 + len(s) % 3, prediction="sample") for s in SOLVERS]
    target, places = target_of(subject), torch.arange(1, COUNT)
    starts = [target.started(plan, places, None) for plan in plans]
    for plan, x in zip(plans, drawn_together(ModelSource(target, places), plans, starts), strict=True):
        torch.testing.assert_close(x, fd.sample(model, plan, noise(COUNT)[1:]), rtol=1e-9, atol=1e-9)
    # All begin with the same question, and the model is asked once.
    assert subject.samples == target.budget.evaluations <= (sum(p.nfe for p in plans) - len(plans) + 1) * len(places)


def test_what_the_model_has_been_asked_is_not_asked_again():
    subject = Counted()
    source = ModelSource(target_of(subject), torch.arange(COUNT))
    row = fd.plan("ddim", SCHEDULE, 1, prediction="sample").rows[0]
    asks = [Ask(x, t, x, row, 0) for x, t in ((noise(COUNT), 2.0), (noise(COUNT), 1.0), (noise(COUNT), 2.0))]
    first = source.outputs(asks)
    assert subject.samples == 2 * COUNT
    assert torch.equal(first[0], first[2])
    again = source.outputs([*asks, Ask(noise(COUNT) + 1e-9, 2.0, noise(COUNT), row, 0)])
    assert subject.samples == 3 * COUNT
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=False))


def test_the_answers_that_are_kept_are_those_used_last(monkeypatch):
    monkeypatch.setattr(sources, "MAX_ANSWERED", 2 * noise(COUNT).numel())
    subject = Counted()
    source = ModelSource(target_of(subject), torch.arange(COUNT))
    row = fd.plan("ddim", SCHEDULE, 1, prediction="sample").rows[0]
    for t, asked in ((1.0, 1), (2.0, 2), (1.0, 2), (3.0, 3), (1.0, 3), (2.0, 4)):  # 3 takes the place of 2, not of 1
        source.outputs([Ask(noise(COUNT), t, noise(COUNT), row, 0)])
        assert subject.samples == asked * COUNT


@pytest.mark.parametrize("steps", [3, 6, 15])
def test_samples_count_as_converged_where_they_change_little_beside_what_few_evaluations_err(steps):
    found = search(target_of(Counted()), steps)
    finest = fd.plan("dpm_solver_3m_exact", SCHEDULE, 640, grid="logsnr", prediction="sample")
    exact = fd.sample(model, finest, noise(PROBE_SAMPLES))
    few = [plan for _, plan in contestants(SCHEDULE, "sample", steps)]
    least = min(gap(fd.sample(model, plan, noise(PROBE_SAMPLES)), exact) for plan in few)
    assert found.change < max(TOLERANCE, 1.2 * SMALL * least)
    x = fd.sample(model, found.plan, noise(PROBE_SAMPLES))
    assert gap(x, exact) < found.change
    assert found.runs is not None
    torch.testing.assert_close(found.runs[0][-1], x, rtol=1e-9, atol=1e-9)


def test_a_tolerance_that_is_given_holds():
    assert search(target_of(Counted()), 3, 1e-5).change < 1e-5
    with pytest.raises(ValueError, match="tolerance: halving 640 steps still changes the samples by"):
        search(target_of(Counted(jump=0.5)), 3, 1e-5)


def test_a_model_that_jumps_in_t_converges_as_far_as_it_can():
    subject = Counted(jump=0.5)
    found = search(target_of(subject), 3)
    assert found.plan.nfe < 640
    assert TOLERANCE < found.change < BEARABLE


def test_a_budget_ends_the_search_where_what_there_is_can_be_borne(monkeypatch):
    monkeypatch.setattr(convergence, "TOLERANCE", 0.0)
    unlimited = search(target_of(Counted()), 30)
    target = target_of(Counted(), evaluations=PROBE_SAMPLES * 400)
    limited = search(target, 30)
    assert limited.plan.nfe < unlimited.plan.nfe
    assert limited.change > unlimited.change
    assert target.budget.share < 1


def test_a_budget_draws_as_many_trajectories_as_it_has_room_for():
    notes: list[Trial] = []
    plan = fd.fit(model, SCHEDULE, 4, noise(32), prediction="sample", evaluations=2500, report=notes.append)
    told = next(trial.note for trial in notes if "room" in trial.note)
    assert told.endswith("of 32 trajectories")
    assert 3 <= int(told.split()[3]) < 32
    assert plan.solver.startswith("fitted")


def test_a_fit_of_more_evaluations_in_the_same_folder_has_finer_trajectories_where_it_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(convergence, "TOLERANCE", 0.0)
    subject, folder = Counted(), Folder(tmp_path, Ranks())
    sampler = ReferenceSampler(target_of(subject), folder)
    coarse = sampler.find_plan(SCHEDULE, "sample", 2, None, MEMORY)
    folder.of_plan(coarse.plan).save_tensors("trajectory-0.safetensors", {"states": torch.zeros(2)}, {})
    fine = sampler.find_plan(SCHEDULE, "sample", 30, None, MEMORY)
    assert coarse.plan.nfe < fine.plan.nfe
    assert not list(tmp_path.glob("trajectory-*"))
    calls = subject.samples
    assert sampler.find_plan(SCHEDULE, "sample", 2, None, MEMORY).plan == fine.plan
    assert subject.samples == calls
