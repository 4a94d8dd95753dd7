"""A fit whose model calls are shared by the processes of torch.distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mixtures import SCHEDULE, mean_distance, model, noise, shorten_catalogue, shorten_search
from torch import Tensor
from two_ranks import needs_gloo, run_two

import fastdiff as fd
from fastdiff.fitting import Trial
from fastdiff.sampling.ranks import Ranks

COUNT = 9  # not a multiple of the processes
pytestmark = needs_gloo


def fit(subject: Callable = model, **options: object) -> fd.Plan:
    with pytest.MonkeyPatch.context() as patch:
        shorten_search(patch)
        shorten_catalogue(patch)
        given = {"prediction": "sample", "tolerance": 0.02, "batch": 4, "iterations": 2, "method": "full"} | options
        return fd.fit(subject, SCHEDULE, 2, given.pop("start", noise(COUNT)), **given)


class Counted:
    """The model, and how many samples it was called with."""

    samples = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert len(x) <= 4  # a batch
        self.samples += len(x)
        return model(x, t)


def process(rank: int, place: Path) -> None:
    """One of two: its plan and what it saw go to files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'meeting'}", rank=rank, world_size=2)
    # The clocks of the two differ. Rows are read from the folder's files, or from temporary ones.
    options = {"folder": place / f"folder-{rank}", "memory": 1, "seconds": 1e4}
    counted, again, told = Counted(), Counted(), list[Trial]()
    fit(counted, report=told.append, **options).save(place / f"plan-{rank}.json")
    resumed = fit(again, **options)
    errors = []
    for different in ({"start": noise(COUNT, first=rank)}, {"subject": lambda x, t: (1 + rank / 9) * model(x, t)}):
        with pytest.raises(ValueError, match="expected the same in all processes") as caught:
            fit(**different)
        errors.append(str(caught.value).split(":")[0])
    alone = Ranks(dist.new_group([rank], use_local_synchronization=True))
    seen = {
        "samples": counted.samples, "again": again.samples, "told": [trial.note for trial in told], "errors": errors,
        "resumed": resumed == fd.Plan.load(place / f"plan-{rank}.json"),
        "alone": [alone.count, alone.rank, alone.largest(rank), alone.from_first(lambda: rank)] == [1, 0, rank, rank],
    }  # fmt: skip
    torch.save(seen, place / f"seen-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they found."""
    place = tmp_path_factory.mktemp("ranks")
    run_two("test_fit_ranks", place)
    return place


@pytest.fixture(scope="module")
def seen(place) -> list[dict]:
    """By each process."""
    return [torch.load(place / f"seen-{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def single() -> tuple[fd.Plan, int]:
    """The plan that one process comes to, and how many samples it calls the model with."""
    before, counted = torch.get_num_threads(), Counted()
    torch.set_num_threads(1)
    try:
        return fit(counted), counted.samples
    finally:
        torch.set_num_threads(before)


def test_processes_come_to_the_same_plan_bit_for_bit_and_to_that_of_one_to_rounding(place, single):
    first, second = (fd.Plan.load(place / f"plan-{rank}.json") for rank in range(2))
    assert first == second
    drawn, expected = (fd.sample(model, plan, noise(20)) for plan in (first, single[0]))
    assert mean_distance(drawn, expected) < 1e-6


def test_processes_share_the_calls_and_the_first_one_reports(seen, single):
    first, second = (each["samples"] for each in seen)
    assert abs(first - second) < 0.2 * first  # nine samples, five and four
    assert first + second < 1.2 * single[1]  # what is small is done by both
    assert seen[0]["told"][0] == "2 processes share the model's calls; the first one reports"
    assert len(seen[0]["told"]) > 3
    assert not seen[1]["told"]


def test_the_first_process_has_the_folder_and_both_resume_from_it(place, seen):
    assert list((place / "folder-0").glob("trajectory-*"))
    assert not (place / "folder-1").exists()
    for each in seen:
        assert each["resumed"]
        assert each["again"] < 0.2 * each["samples"]  # its last iterations have no record


def test_what_differs_between_the_processes_is_named(seen):
    assert [each["errors"] for each in seen] == [["noise", "model"]] * 2


def test_a_process_in_a_group_of_its_own_is_alone(seen):
    assert all(each["alone"] for each in seen)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_shares_cover_every_row_once_and_are_never_empty(count, monkeypatch):
    rows, parts = torch.arange(count), []
    for rank in range(3):
        ranks = Ranks()
        ranks.count, ranks.rank = 3, rank
        parts.append((ranks, ranks.share(rows)))
        assert len(parts[-1][1])
    whole = torch.zeros(count, dtype=torch.long)
    monkeypatch.setattr(dist, "all_reduce", lambda rows, group: whole.add_(rows))
    for ranks, own in parts:
        ranks.whole(own + 1, count)
    assert torch.equal(whole, rows + 1)
