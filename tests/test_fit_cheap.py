"""A fit that chooses which rows are full and which are cheap."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mixtures import SCHEDULE, model, noise
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.fitting import Trial
from fastdiff.fitting.budget import Budget
from fastdiff.fitting.cheap_calls import kept_share, share, told
from fastdiff.fitting.cheap_rows import counts, neighbours, patterns
from fastdiff.fitting.folder import Folder
from fastdiff.fitting.forward import Forward, Setting
from fastdiff.fitting.frozen import frozen
from fastdiff.fitting.journal import Journal
from fastdiff.fitting.partial_run import PartialRun
from fastdiff.fitting.search import SolverSpec
from fastdiff.fitting.sources import ModelSource
from fastdiff.fitting.space import PlanSpace
from fastdiff.fitting.target import FitTarget
from fastdiff.fitting.trajectory import Trajectory, distances, points_of
from fastdiff.plans.grid import make_grid
from fastdiff.sampling.partial import Here
from fastdiff.sampling.ranks import Ranks

pytestmark = pytest.mark.usefixtures("short_fits")
COUNT = 8
Options = dict[str, object]


class Rough(nn.Module):
    """The posterior mean of unit Gaussian data: the part that cheap calls run."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / (1 + t[:, None] ** 2)


class Rest(nn.Module):
    """What the mixture's posterior mean is beside it: the part that is kept."""

    def __init__(self, one_time: bool) -> None:
        super().__init__()
        self.one_time = one_time

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        t = t[:1].expand(len(t)) if self.one_time else t
        return model(x, t, y) - Rough()(x, t)


class Mixture(nn.Module):
    """`mixtures.model` in two parts. one_time: the inner one reads the first sample's time for all."""

    def __init__(self, one_time: bool = False) -> None:
        super().__init__()
        self.rough, self.rest, self.one_time = Rough(), Rest(one_time), one_time

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.rough(x, t) + self.rest(x, t, y)


class Exact(nn.Module):
    """The mixture's mean, and an inner part whose output never changes: a cheap call is as good as a full one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.outer(model(x, t) + self.inner(torch.zeros_like(x)))


class Counted:
    """A model with cheap calls, and how many samples each kind of call was made with."""

    def __init__(self, cached: fd.Cached) -> None:
        self.cached, self.samples = cached, {"full": 0, "cheap": 0}

    def __call__(self, x: Tensor, t: Tensor, **kwargs: Tensor) -> Tensor:
        self.samples["full"] += len(x)
        return self.cached(x, t, **kwargs)

    def full(self, x: Tensor, t: Tensor, state: object = None, **kwargs: object) -> tuple[Tensor, object]:
        self.samples["full"] += len(x)
        return self.cached.full(x, t, state, **kwargs)

    def cheap(self, x: Tensor, t: Tensor, state: object, **kwargs: object) -> Tensor:
        self.samples["cheap"] += len(x)
        return self.cached.cheap(x, t, state, **kwargs)


def in_parts(one_time: bool = False) -> fd.Cached:
    return fd.cached(Mixture(one_time), split=fd.Split(("rest",)))


def guiding_itself() -> fd.Cached:
    """A model that calls its network on twice as many samples."""
    network = Mixture()

    def guided(x: Tensor, t: Tensor) -> Tensor:
        labels = torch.cat([torch.full((len(x),), -1), torch.zeros(len(x), dtype=torch.long)])
        uncond, cond = network(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
        return uncond + 2 * (cond - uncond)

    return fd.cached(guided, network=network, split=fd.Split(("rest",)))


def free_lunch() -> fd.Cached:
    return fd.cached(Exact(), split=fd.Split(("inner",)))


def stale(network: nn.Module) -> fd.Cached:
    """All of it is kept: a cheap call says again what the full one said."""
    return fd.cached(network, split=fd.Split(tuple(name for name, _ in network.named_children())), order=0)


def fit(subject: Callable, steps: int = 3, **options: object) -> fd.Plan:
    return fd.fit(subject, SCHEDULE, steps, noise(COUNT), prediction="sample", tolerance=0.02, **options)


@pytest.mark.parametrize("cheap", [0.01, 0.12, 0.45, 0.68, 0.95])
def test_numbers_of_rows_stay_within_the_cost_and_are_more_than_full_rows_would_be(cheap):
    for cost in range(1, 13):
        found = counts(cost, cheap)
        assert all(full >= 1 and full + count * cheap <= cost + 1e-6 for full, count in found)
        assert all(full + count > cost and count <= 2 * full for full, count in found)
        assert all(more > fewer for (more, _), (fewer, _) in pairwise(found))
    assert bool(counts(6, cheap)) == (cheap < 0.9)
    assert counts(6, 0.45) == [(5, 2), (4, 4), (3, 6)]


def test_patterns_have_the_rows_they_should_and_begin_with_a_full_one():
    for full, cheap in ((1, 2), (3, 6), (5, 2), (4, 4)):
        found = patterns(full, cheap)
        assert len(set(found)) == len(found) >= 1
        for calls in found + [other for pattern in found for other in neighbours(pattern)]:
            assert calls[0] == "full"
            assert (calls.count("full"), calls.count("cheap")) == (full, cheap)
    assert patterns(3, 6)[1] == ("full", "cheap", "cheap") * 3


def settings(nfe: int) -> list[Setting]:
    """Several grids of three patterns of calls, one of them full."""
    found = []
    for calls in (("full",) * nfe, ("full", "cheap") * (nfe // 2), ("full", "full", *["cheap"] * (nfe - 2))):
        spec = SolverSpec("unipc", SCHEDULE, "sample", calls=calls)
        space = PlanSpace(spec.build, SCHEDULE, make_grid(SCHEDULE, nfe, "quadratic"))
        shift = np.random.uniform(-0.3, 0.3, (3, space.size)) * (space.kinds != "weight")
        found += [Setting(space, p) for p in shift]
    return found


GUIDED: Options = {"guidance": 2.0, "uncond": {"y": torch.full((COUNT,), -1)}, "conditions": {"y": torch.arange(8) % 3}}


@pytest.mark.parametrize(
    ("kind", "batch", "options", "together"),
    [
        ("plain", 24, {}, 3),
        ("plain", 5, GUIDED, 1),
        ("plain", 24, GUIDED | {"guidance_mode": "calls"}, 3),
        ("one time", 24, {}, 1),
        ("guides itself", 24, {}, 1),
    ],
)
def test_the_run_that_a_fit_judges_is_the_plans_own(kind, batch, options, together):
    """Many settings at once, each sample with what its own full calls left."""
    subject = guiding_itself() if kind == "guides itself" else in_parts(kind == "one time")
    target = FitTarget(subject, noise(COUNT), Budget(None, None), batch, **options)
    target.one_time = kind == "one time"
    told(target, SCHEDULE, "sample", 0.5)
    converged = fd.plan("unipc", SCHEDULE, 40, grid="quadratic", prediction="sample")
    places = torch.arange(COUNT)
    trajectory = Trajectory(points_of(converged), *target.trace(converged, places, torch.device("cpu")))
    source = ModelSource(target, places)
    assert source.cheap_together == together
    forward = Forward(source, trajectory, lambda plan: target.started(plan, places, None), np.arange(COUNT) % 4)
    tried = settings(6)
    for setting, found in zip(tried, forward.run(tried, crossed=False), strict=True):
        plan = setting.space.plan_of(found.p)
        assert [row.call for row in plan.rows] == [row.call for row in setting.space.plan.rows]
        own = target.draw(plan, places)
        assert float((own - found.x).abs().max()) < 1e-6 * max(1.0, float(own.abs().max()))


def test_processes_that_share_a_run_keep_what_their_own_samples_left(monkeypatch):
    plan = fd.plan("unipc", SCHEDULE, 3, prediction="sample").with_calls(["full", "full", "cheap"])
    x = noise(3 * COUNT).view(3, COUNT, 3)

    def outputs(rank: int, count: int) -> list[Tensor]:
        ranks = Ranks()
        ranks.rank, ranks.count = rank, count
        monkeypatch.setattr(ranks, "whole", lambda own, count: own)
        target = FitTarget(in_parts(), noise(COUNT), Budget(None, None), COUNT, ranks=ranks)
        run, found = PartialRun(target, torch.arange(COUNT)), []
        for i, row in enumerate(plan.rows):
            t, log_snr = (torch.full((COUNT,), v, dtype=torch.float64) for v in (row.t, row.log_snr))
            found.append(run.output(x[i], t, Here(i, row.call, log_snr)))
        return found

    for whole, *parts in zip(outputs(0, 1), outputs(0, 2), outputs(1, 2), strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


class Won(NamedTuple):
    """A fit whose cheap calls are as good as full ones, what it told, and its folder."""

    plan: fd.Plan
    told: list[Trial]
    folder: Path


@pytest.fixture(scope="module")
def won(short_fits: None, tmp_path_factory: pytest.TempPathFactory) -> Won:
    told, folder = list[Trial](), tmp_path_factory.mktemp("won")
    plan = fit(free_lunch(), 3, cheap=0.2, folder=folder, report=told.append)
    return Won(plan, told, folder)


def test_cheap_rows_that_are_as_good_as_full_ones_win_within_the_cost(won):
    assert won.plan.partial
    assert won.plan.cost(cheap=0.2) <= 3 + 1e-9
    assert won.plan.nfe > 3
    trials = {trial.stage: trial for trial in won.told if not trial.note}
    assert trials["cheap rows"].mean < 0.8 * min(trials["forward"].mean, trials["catalogue"].mean)
    cheap = [row.call for row in won.plan.rows].count("cheap")
    assert f"{cheap}/{won.plan.nfe} cheap" in trials["cheap rows"].name
    converged = fd.sample(model, fd.plan("unipc", SCHEDULE, 40, grid="logsnr", prediction="sample"), noise(COUNT))
    own = distances(fd.sample(free_lunch(), won.plan, noise(COUNT)), converged)
    assert float(own.mean()) < trials["forward"].mean


def test_cheap_rows_that_say_nothing_new_leave_the_fit_of_full_rows_as_it_was():
    assert fit(stale(Mixture()), cheap=0.6) == fit(Mixture())


def test_a_cheap_call_counts_as_the_share_that_it_costs(monkeypatch):
    """Told before, within the range, and at the end, but for a probe of cheap calls before it is measured."""
    monkeypatch.setattr("fastdiff.fitting.cheap_calls.share", lambda target, plan: 0.25)
    counted, trials = Counted(in_parts()), list[Trial]()
    fit(counted, report=trials.append)
    spent = counted.samples["full"] + 0.25 * counted.samples["cheap"]
    assert counted.samples["cheap"] > 0
    notes = [trial.note for trial in trials if trial.note]
    total = int(re.findall(r"[\d,]+(?= evaluations)", notes[-1])[0].replace(",", ""))
    assert 0 <= total - spent + 0.5 <= 1 + 0.75 * 8
    assert "a cheap call costs 0.25 of a full one" in notes
    (ahead,) = [note for note in notes if "cheap rows" in note]
    least, most = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= to| evaluations)", ahead))
    before = next(t.evaluations for t in trials if t.stage == "catalogue")
    assert least <= spent - before <= most


def test_a_finished_fit_is_read_from_its_folder_and_other_cheap_calls_need_another(won):
    counted = Counted(free_lunch())
    assert fit(counted, 3, cheap=0.2, folder=won.folder) == won.plan
    assert counted.samples["full"] + counted.samples["cheap"] < 20 * COUNT  # those that tell one model from another
    with pytest.raises(ValueError, match="another cheap,"):
        fit(free_lunch(), 3, cheap=0.3, folder=won.folder)
    with pytest.raises(ValueError, match="another cheap_calls"):
        fit(stale(Exact()), 3, cheap=0.2, folder=won.folder)


def test_what_a_cheap_call_costs_is_measured_once_for_a_folder(tmp_path, monkeypatch):
    target = FitTarget(in_parts(), noise(COUNT), Budget(None, None), COUNT)
    for measured in (0.2, 0.9):
        monkeypatch.setattr("fastdiff.fitting.cheap_calls.share", lambda target, plan, cost=measured: cost)
        journal = Journal(Folder(tmp_path, Ranks()), None)
        assert kept_share(target, SCHEDULE, "sample", journal) == 0.2


def test_the_cost_of_a_cheap_call_is_the_ratio_of_the_least_times(monkeypatch):
    """By a clock that each call moves on, a cheap one by a quarter of a full one's time, and others now and then."""
    now, calls = [0.0], [0]

    def spend(seconds: float) -> None:
        calls[0] += 1
        now[0] += seconds + (1.0 if calls[0] % 4 == 0 else 0.0)

    class Slow(Counted):
        def full(self, *args: object, **kwargs: object) -> tuple[Tensor, object]:
            spend(0.4)
            return super().full(*args, **kwargs)

        def cheap(self, *args: object, **kwargs: object) -> Tensor:
            spend(0.1)
            return super().cheap(*args, **kwargs)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    target = FitTarget(Slow(in_parts()), noise(COUNT), Budget(None, None), COUNT)
    assert share(target, fd.plan("unipc", SCHEDULE, 3, prediction="sample")) == pytest.approx(0.25)


def test_what_cannot_be_is_an_error_that_names_the_argument():
    with pytest.raises(TypeError, match=r"cheap: the model has no cheap calls; pass fastdiff\.cached"):
        fit(Mixture(), cheap=0.5)
    for cheap in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="cheap: expected"):
            fit(in_parts(), cheap=cheap)
    with pytest.raises(ValueError, match="method: 'full' fits plans of full rows alone"):
        fit(in_parts(), method="full")


def test_the_network_of_a_cached_model_is_frozen_while_it_is_fitted():
    network = Mixture().train()
    with frozen(fd.cached(network, split=fd.Split(("rest",)))):
        assert not any(module.training for module in network.modules())
    assert network.training
