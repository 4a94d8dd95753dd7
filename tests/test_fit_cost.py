"""What a fit says of its costs, before and after, and what it does where trajectories are larger than memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mixtures import SCHEDULE, model, noise
from torch import Tensor

import fastdiff as fd
from fastdiff.fitting import Trial
from fastdiff.fitting.budget import Budget
from fastdiff.fitting.target import FitTarget
from fastdiff.fitting.trajectory import Rows

pytestmark = pytest.mark.usefixtures("short_fits")
STEPS, COUNT = 3, 8


def fit(subject: Callable = model, **options: object) -> fd.Plan:
    return fd.fit(subject, SCHEDULE, STEPS, noise(COUNT), prediction="sample", tolerance=0.02, **options)


class Counted:
    """The model, the samples that it has been called with, and what it had been when each note came."""

    def __init__(self) -> None:
        self.samples = 0
        self.notes: list[tuple[str, str, int]] = []

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        self.samples += len(x)
        return model(x, t, **conditions)

    def report(self, trial: Trial) -> None:
        if trial.note:
            self.notes.append((trial.stage, trial.note, self.samples))
        else:
            assert 0 < trial.evaluations <= self.samples


@pytest.fixture(scope="module")
def plain(short_fits: None) -> tuple[fd.Plan, Counted]:
    counted = Counted()
    return fit(counted, report=counted.report), counted


def numbers(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= to [\d,]+ eval| eval)", text)]


def check_costs(counted: Counted) -> None:
    """What was ahead when it was said, and what came."""
    (_, search, before), _, (_, ahead, between), (stage, total, end) = counted.notes
    assert numbers(search)[0] <= between - before < 2 * numbers(search)[0]
    least, most = numbers(ahead)
    assert least <= end - between <= most
    assert (stage, numbers(total)) == ("total", [end])
    assert end == counted.samples


def test_what_is_ahead_is_said_before_it_is_spent_and_what_was_spent_afterwards(plain):
    check_costs(plain[1])
    memory = (2 * 40 + 1) * COUNT * 3 * 8
    assert plain[1].notes[2][1].endswith(f"{memory / 1e3:.3g} kB of trajectories in memory")


def test_evaluations_of_both_outputs_of_guidance_count():
    counted = Counted()
    labels = {"y": torch.zeros(COUNT, dtype=torch.long), "uncond": {"y": torch.full((COUNT,), -1)}, "guidance": 2.0}
    fit(counted, report=counted.report, **labels)
    check_costs(counted)


def test_seconds_ahead_follow_the_pace_of_the_calls(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fastdiff.fitting.budget.monotonic", lambda: now[0])
    budget = Budget(None, None)
    assert budget.lap() == 0.0
    now[0], budget.evaluations = 6.0, 3
    assert budget.lap() == 2.0
    now[0] = 100.0
    assert budget.lap() == 2.0  # no evaluation since


@pytest.fixture(scope="module")
def by_threes() -> fd.Plan:
    """From three batches, in memory."""
    return fit(batch=3)


@pytest.mark.parametrize("where", ["folder", "temporary"])
def test_trajectories_larger_than_memory_are_left_in_files_and_give_the_same_plan(
    where, by_threes, tmp_path, monkeypatch
):
    """Several batches, each a file of its own."""
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    folder = tmp_path / "fits" if where == "folder" else None
    read: list[int] = []
    plain_row = Rows.__getitem__

    def reading(self: Rows, j: int) -> Tensor:
        assert not isinstance(self.parts[0], Tensor)
        read.append(j)
        return plain_row(self, j)

    monkeypatch.setattr(Rows, "__getitem__", reading)
    notes: list[Trial] = []
    plan = fit(batch=3, memory=1000, folder=folder, report=notes.append)
    assert read
    place = folder or spare
    assert any(f"kB of trajectories in files in {place}" in trial.note for trial in notes)
    assert not list(spare.iterdir())  # nothing is left of temporary ones
    if folder:
        assert sorted(path.name for path in folder.glob("traj*")) == [f"trajectory-{i}.safetensors" for i in (0, 3, 6)]
    assert plan == by_threes


def test_rows_of_batches_are_those_of_the_whole():
    whole = torch.randn(5, 7, 2)
    rows = Rows(list(whole.split(3, dim=1)), 6, torch.device("cpu"))
    assert len(rows) == 5
    assert all(torch.equal(rows[j], whole[j, :6]) for j in (0, 3, -1))


def test_batches_that_were_drawn_before_an_interruption_are_not_drawn_again(by_threes, tmp_path: Path, monkeypatch):
    drawn: list[list[int]] = []
    trace = FitTarget.trace

    def interrupting(self: FitTarget, plan: fd.Plan, places: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        drawn.append(places.tolist())
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return trace(self, plan, places, device)

    monkeypatch.setattr(FitTarget, "trace", interrupting)
    with pytest.raises(KeyboardInterrupt):
        fit(folder=tmp_path, batch=3)
    plan = fit(folder=tmp_path, batch=3)
    assert drawn == [[0, 1], [2, 3, 4], [2, 3, 4], [5, 6, 7]]  # the first two show which plan has converged
    assert plan == by_threes
