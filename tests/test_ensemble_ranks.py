"""An ensemble whose members are shared by the processes of torch.distributed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from two_ranks import needs_gloo, run_two

import fastdiff as fd

pytestmark = needs_gloo
PLAN = fd.plan("ddim", fd.Schedule.edm(), 4, eta=1.0, grid="karras", prediction="sample")
MEMBERS = {"all": (7, 2, None), "counted": (11, 2, 4), "one": (1, 1, None), "one beyond": (5, 2, 4)}  # n, batch, keep
OBSERVATION = fd.Observation(torch.eye(3)[:2], torch.tensor([[0.3, -1.0], [0.0, 2.0]]), noise=0.5)


class Counted:
    """E[x0 | x0 + sigma eps = x] of unit Gaussian data, and how many samples it was called with."""

    samples = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.samples += len(x)
        return x / (1 + sigma.view(-1, 1) ** 2)


def results(name: str) -> dict[str, Tensor]:
    """What an ensemble says, and how many samples its model was called with here."""
    (members, batch, keep), model = MEMBERS[name], Counted()
    options = {"batch": batch, "keep": keep, "observation": OBSERVATION, "dtype": torch.float64}
    found = fd.ensemble(model, PLAN, (2, 3), members, **options)
    kept = {} if found.members is None else {"members": found.members}
    said = {"mean": found.mean, "spread": found.spread, "misfit": found.misfit, "quantile": found.quantile([0.1, 0.7])}
    return kept | said | {"samples": torch.tensor(model.samples)}


def process(rank: int, place: Path) -> None:
    """One of two: what it finds goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'meeting'}", rank=rank, world_size=2)
    torch.save({name: results(name) for name in MEMBERS}, place / f"found-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """By each process."""
    place = tmp_path_factory.mktemp("ranks")
    run_two("test_ensemble_ranks", place)
    return [torch.load(place / f"found-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", MEMBERS)
def test_both_processes_have_the_ensemble_of_one(found, name):
    alone = results(name)
    for each in found:
        assert each[name].keys() == alone.keys()
        for said in alone.keys() - {"samples"}:
            torch.testing.assert_close(each[name][said], alone[said], rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_processes_share_the_calls_and_make_as_many(found, name):
    first, second = (int(each[name]["samples"]) for each in found)
    member = 2 * PLAN.nfe  # of two observations
    assert abs(first - second) <= 2 * member
    assert first + second <= int(results(name)["samples"]) + 2 * member  # who has no member draws one that is not used
