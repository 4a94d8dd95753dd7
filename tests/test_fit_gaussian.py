"""The Gaussian head start is the exact flow of Gaussian data, and fd.fit chooses where it ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import SCHEDULE, exact, mean_distance, model, noise
from safetensors.torch import save_file

import fastdiff as fd
from fastdiff import GaussianStart

SCHEDULES = {"edm": fd.Schedule.edm(), "vp": fd.Schedule.vp(), "flow": fd.Schedule.flow(t_min=1e-4)}
SIZE = 5


@pytest.fixture
def law() -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, covariance) of data on a plane, and a little beside it."""
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64)).Q
    variances = torch.tensor([2.0, 0.5, *[0.05] * 3], dtype=torch.float64)
    return torch.randn(SIZE, dtype=torch.float64), basis @ torch.diag(variances) @ basis.T


def start_of(law: tuple[torch.Tensor, torch.Tensor], schedule: fd.Schedule) -> GaussianStart:
    """The head start of that law itself."""
    variances, vectors = torch.linalg.eigh(law[1])
    point = schedule.at(schedule.t_max)
    return GaussianStart(law[0], vectors.T[-2:], variances[-2:], 0.05, (float(point.alpha), float(point.sigma)))


def posterior_mean(law: tuple[torch.Tensor, torch.Tensor], schedule: fd.Schedule):
    mean, covariance = law

    def x0(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (float(f(t[0].numpy())) for f in (schedule.alpha, schedule.sigma))
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(SIZE).double())
        return mean + (x - alpha * mean) @ gain.T

    return x0


@pytest.mark.parametrize("name", SCHEDULES)
def test_head_start_ends_where_the_models_own_flow_does(name, law):
    schedule = SCHEDULES[name]
    head, x0 = start_of(law, schedule), posterior_mean(law, schedule)
    start = fd.noise.randn((6, SIZE), range(6), dtype=torch.float64)
    levels = schedule.coordinate(schedule.at_log_snr(torch.linspace(-0.5, 4, 200).double().numpy()))
    late = fd.plan("dpm_solver_3m_exact", schedule, sigmas=levels, prediction="sample")
    early = schedule.coordinate(schedule.at_log_snr(torch.linspace(-9, -0.5, 300).double().numpy()))
    first = float(schedule.coordinate(schedule.at(schedule.t_max)))
    early = [first, *early[early < first], *levels[1:]]
    whole = fd.plan("dpm_solver_3m_exact", schedule, sigmas=early, prediction="sample")
    torch.testing.assert_close(
        fd.sample(x0, late, head(start, late)), fd.sample(x0, whole, start), rtol=1e-3, atol=1e-3
    )


def test_head_start_that_ends_where_it_begins_changes_nothing(law):
    plan = fd.plan("ddim", fd.Schedule.vp(), 4)
    start = torch.randn(3, SIZE, dtype=torch.float64)
    torch.testing.assert_close(start_of(law, fd.Schedule.vp())(start, plan), start)


def test_estimate_from_many_samples_is_their_law(law):
    n = 200_000
    data = law[0] + torch.randn(n, SIZE, dtype=torch.float64) @ torch.linalg.cholesky(law[1]).T
    head = GaussianStart.estimate(data, fd.Schedule.vp(), rank=2)
    covariance = head.basis.T @ torch.diag(head.variances - head.rest) @ head.basis + head.rest * torch.eye(SIZE)
    # Seven standard errors of a component whose variance is the largest one, 2.
    torch.testing.assert_close(head.mean, law[0], rtol=0, atol=7 * (2 / n) ** 0.5)
    torch.testing.assert_close(covariance, law[1], rtol=0, atol=7 * 2 * (2 / n) ** 0.5)


def test_saved_head_start_is_the_same(law, tmp_path):
    head = start_of(law, fd.Schedule.edm())
    head.save(tmp_path / "head.safetensors")
    plan = fd.plan("ddim", fd.Schedule.edm(), 4, grid="karras", log_snr_min=-1.0)
    start = torch.randn(3, SIZE)
    assert torch.equal(GaussianStart.load(tmp_path / "head.safetensors")(start, plan), head(start, plan))
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_fit_begins_lower_with_a_head_start_and_errs_less(tmp_path):
    """Nearly Gaussian data: one evaluation less is better than none spent on what is known."""
    options = {"prediction": "sample", "batch": 32, "iterations": 10}
    count = 32
    plain = fd.fit(model, SCHEDULE, 1, noise(count), **options)
    plan = fd.fit(model, SCHEDULE, 1, noise(count), head=3, folder=tmp_path, **options)
    head = GaussianStart.load(tmp_path / "1" / "head.safetensors")
    assert plan.start[1] < SCHEDULE.sigma(SCHEDULE.t_max)
    unseen = noise(200, first=10**6)
    converged = exact(unseen)
    with_head = mean_distance(fd.sample(model, plan, head(unseen, plan)), converged)
    assert with_head < mean_distance(fd.sample(model, plain, unseen), converged)


@pytest.mark.parametrize(
    ("data", "rank", "message"),
    [
        (torch.zeros(1, 3), None, r"data: expected \[N, \.\.\.\] with N >= 2, got shape \(1, 3\)"),
        (torch.zeros(5), None, r"data: expected \[N, \.\.\.\] with N >= 2, got shape \(5,\)"),
        (torch.zeros(9, 3), 4, "rank: expected a whole number from 1 to 3, got 4"),
        (torch.zeros(9, 3), 0, "rank: expected a whole number from 1 to 3, got 0"),
    ],
)
def test_bad_data_are_named(data, rank, message):
    with pytest.raises(ValueError, match=message):
        GaussianStart.estimate(data, fd.Schedule.vp(), rank)


def test_noise_of_another_shape_is_named(law):
    plan = fd.plan("ddim", fd.Schedule.vp(), 4)
    with pytest.raises(ValueError, match=r"noise: expected \[B, 5\], got \(2, 6\)"):
        start_of(law, fd.Schedule.vp())(torch.zeros(2, 6), plan)


@settings(max_examples=60)
@given(data=st.data())
def test_broken_file_is_named_or_read_to_finite_numbers(data, tmp_path):
    """It holds no checksum: a number changed to another one is not found out."""
    path = tmp_path / "head.safetensors"
    law = GaussianStart(torch.zeros(3), torch.eye(3)[:2], torch.ones(2), 0.5, (1.0, 20.0))
    law.save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        head = GaussianStart.load(path)
    except ValueError as error:
        assert f"{path}: not a valid head start" in str(error)  # noqa: PT017
    else:
        assert head(torch.zeros(2, 3), fd.plan("ddim", SCHEDULE, 2)).isfinite().all()


@pytest.mark.parametrize("kind", ["missing", "folder", "other"])
def test_what_is_no_head_start_is_named(kind, tmp_path):
    path = tmp_path / "head.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "other":
        ones = {name: torch.ones(3) for name in ("mean", "variances", "numbers")}
        save_file({**ones, "basis": torch.eye(2)}, path)
    with pytest.raises(ValueError, match=r"head\.safetensors: not a valid head start"):
        GaussianStart.load(path)
