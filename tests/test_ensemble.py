"""Ensembles: members by their seeds in any split, and calibrated where the posterior is Gaussian."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.posterior import draws

EDM = fd.Schedule.edm()
PLAN = fd.plan("dpm_solver_2m", EDM, 20, grid="karras", prediction="sample")
STOCHASTIC = fd.plan("ddim", EDM, 6, eta=1.0, grid="karras", prediction="sample")
ONE = {"dtype": torch.float64}


def unit(x: Tensor, sigma: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """E[x0 | x0 + sigma eps = x] of independent data N(shift, 1)."""
    return shift + (x - shift) / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


def seed() -> int:
    return int(torch.randint(2**40, ()))


def measured(count: int, size: int, noise: float, A: Tensor) -> tuple[Tensor, Tensor]:
    """Unit Gaussian data [count, size] and their measurements."""
    truth = torch.randn(count, size, dtype=torch.float64)
    return truth, truth @ A.mT + noise * torch.randn(count, len(A), dtype=torch.float64)


@pytest.mark.parametrize("plan", [PLAN, STOCHASTIC], ids=["ode", "sde"])
def test_a_member_is_the_sample_of_its_seed_and_condition(plan):
    shift = torch.randn(3, 4, dtype=torch.float64)
    found = fd.ensemble(unit, plan, (3, 4), 5, seeds=seed(), batch=2, shift=shift, **ONE)
    assert len(found.seeds.unique()) == 15
    for g in range(3):
        noise = fd.noise.randn((5, 4), found.seeds[g], **ONE)
        alone = fd.sample(unit, plan, noise, seeds=found.seeds[g], shift=shift[g])
        torch.testing.assert_close(found.members[g], alone)


def test_more_members_leave_the_first_as_they_are():
    few, many = (fd.ensemble(unit, PLAN, (2, 3), n, seeds=9) for n in (3, 8))
    torch.testing.assert_close(many.members[:, :3], few.members)


@pytest.mark.parametrize("keep", [None, 4])
def test_statistics_do_not_depend_on_the_batches(keep):
    A = torch.randn(2, 4, dtype=torch.float64)
    _, y = measured(3, 4, 0.3, A)
    observation, first = fd.Observation(A, y, noise=0.3), seed()
    ways = [
        fd.ensemble(unit, STOCHASTIC, (3, 4), 11, seeds=first, batch=b, keep=keep, observation=observation, **ONE)
        for b in (None, 1, 4, 7, 11)
    ]
    for way in ways[1:]:
        for of in (lambda e: e.mean, lambda e: e.spread, lambda e: e.misfit, lambda e: e.quantile([0.1, 0.5, 0.8])):
            torch.testing.assert_close(of(way), of(ways[0]), rtol=1e-9, atol=1e-9)
        assert (way.members is None) == (keep is not None)


def test_mean_spread_and_quantiles_are_those_of_the_members():
    found = fd.ensemble(unit, PLAN, (2, 3, 5), 12, seeds=seed(), batch=5)
    torch.testing.assert_close(found.mean, found.members.mean(1))
    torch.testing.assert_close(found.spread, found.members.std(1))
    for q in (0.25, [0.1, 0.9], torch.tensor([0.5])):
        level = torch.as_tensor(q, dtype=torch.float32)
        torch.testing.assert_close(found.quantile(q), torch.quantile(found.members, level, 1))
    assert found.misfit is None
    assert found.weights is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_members_of_half_precision_have_statistics_in_float32(dtype):
    for keep in (None, 4):
        found = fd.ensemble(lambda x, t: unit(x, t.to(x.dtype)), PLAN, (2, 3), 9, keep=keep, dtype=dtype)
        assert (found.mean.dtype, found.spread.dtype, found.quantile(0.4).dtype) == (torch.float32,) * 3
        if keep is None:
            assert found.members.dtype == dtype
            torch.testing.assert_close(found.mean, found.members.float().mean(1))


@pytest.mark.gpu
@pytest.mark.parametrize("keep", [None, 4])
def test_a_device_says_what_the_cpu_says(keep):
    A, truth = torch.randn(2, 3), torch.randn(2, 3)
    observation, first = fd.Observation(A, truth @ A.mT, noise=0.3), seed()
    options = {"seeds": first, "batch": 4, "keep": keep, "observation": observation}
    found, expected = (fd.ensemble(unit, PLAN, (2, 3), 9, device=device, **options) for device in ("cuda", "cpu"))
    for of in (lambda e: e.mean, lambda e: e.spread, lambda e: e.misfit, lambda e: e.quantile([0.1, 0.5])):
        torch.testing.assert_close(of(found).cpu(), of(expected), rtol=1e-3, atol=1e-3)
    scores = found.scores(truth.cuda())
    torch.testing.assert_close(scores.crps.cpu(), expected.scores(truth).crps, rtol=1e-3, atol=1e-3)


def test_guidance_and_both_conditions_are_those_of_each_observation():
    shift, scale = torch.randn(2, 4), torch.tensor([1.5, 3.0])
    options = {"guidance": scale, "uncond": {"shift": -shift}, "guidance_mode": "batch", "shift": shift}
    found = fd.ensemble(unit, PLAN, (2, 4), 6, batch=3, **options)
    for g in range(2):
        one = {"guidance": float(scale[g]), "uncond": {"shift": -shift[g]}, "guidance_mode": "calls"}
        alone = fd.sample(unit, PLAN, fd.noise.randn((6, 4), found.seeds[g]), shift=shift[g], **one)
        torch.testing.assert_close(found.members[g], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_each_observation_may_have_its_own_matrix(batch):
    A, y = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    together = fd.ensemble(unit, PLAN, (2, 4), 3, batch=batch, observation=fd.Observation(A, y, noise=0.5), **ONE)
    for g in range(2):
        observation = fd.Observation(A[g], y[g : g + 1], noise=0.5)
        alone = fd.ensemble(unit, PLAN, (1, 4), 3, seeds=together.seeds[g : g + 1], observation=observation, **ONE)
        torch.testing.assert_close(together.members[g], alone.members[0])


def test_each_observation_may_have_its_own_mask_where_a_call_has_one_member():
    masks = (torch.rand(3, 6) < 0.5).float()
    truth = torch.randn(3, 6)
    observation = fd.Observation(lambda x: masks * x, masks * truth, noise=0.01)
    found = fd.ensemble(unit, PLAN, (3, 6), 4, observation=observation)
    assert ((found.members - truth[:, None]).abs() * masks[:, None]).max() < 0.1


def test_an_ensemble_is_calibrated_where_the_posterior_is_exact():
    """Unit Gaussian data, every second element seen: all elements are independent, so counts are binomial."""
    pytest.importorskip("scoringrules")
    count, size, n = 50, 64, 19
    A = torch.eye(size, dtype=torch.float64)[::2]
    truth, y = measured(count, size, 0.5, A)
    found = fd.ensemble(
        unit, PLAN, (count, size), n, seeds=seed(), batch=n, observation=fd.Observation(A, y, 0.5), **ONE
    )
    scores, trials = found.scores(truth, levels=(0.5, 0.9)), count * size

    def bound(p: float) -> float:
        return 7 * (p * (1 - p) / trials) ** 0.5

    assert (scores.rank_histogram / trials - 1 / (n + 1)).abs().max() < bound(1 / (n + 1))
    for level, share in scores.coverage.items():
        assert abs(share - level) < bound(level)
    # Of trials squares of Gaussians, the relative standard error of the mean is sqrt(2 / trials).
    assert abs(scores.spread_skill**2 - 1) < 7 * (2 / trials + 2 / (trials * (n - 1))) ** 0.5 + 0.01
    # The CRPS of a Gaussian of standard deviation s has the mean s / sqrt(pi) and a standard deviation below 1.
    s = torch.tensor([0.2, 1.0], dtype=torch.float64).sqrt()  # seen and unseen
    assert abs(scores.crps.mean() - s.mean() / torch.pi**0.5) < 7 / trials**0.5


def test_a_narrow_ensemble_is_seen_in_every_score():
    pytest.importorskip("scoringrules")
    found = fd.ensemble(unit, PLAN, (20, 64), 9, seeds=seed(), batch=9)
    scores = found.scores(3 * torch.randn(20, 64))
    assert scores.spread_skill < 0.5
    assert scores.coverage[0.5] < 0.3
    assert min(scores.rank_histogram[[0, -1]]) > 2 * max(scores.rank_histogram[1:-1])


@pytest.mark.parametrize(("stated", "word"), [(1.0, None), (1 / 3, "small"), (3.0, "large")])
def test_noise_misstated_by_3_times_is_told_and_noise_as_it_is_is_not(stated, word):
    """200 measurements of 4 numbers: residuals are nearly all noise."""
    A = torch.randn(200, 4, dtype=torch.float64)
    _, y = measured(3, 4, 0.2, A)
    observation = fd.Observation(A, y, noise=0.2 * stated)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = fd.ensemble(
            unit, PLAN, (3, 4), 8, seeds=seed(), observation=observation, correction=fd.posterior.Moment(4), **ONE
        )
    assert [f"noise is stated too {word}" in str(each.message) for each in told] == ([] if word is None else [True])
    # Chi-square of 196 degrees of freedom, and 4 more that the prior and the members' own scatter share.
    relative = found.misfit * stated**2
    assert (relative - 1).abs().max() < 7 * (2 / 200) ** 0.5 + 0.04 * max(1.0, stated**2)


def test_masked_measurements_are_not_taken_for_a_fit():
    mask = torch.zeros(1, 400)
    mask[:, ::4] = 1
    y = mask * (torch.randn(1, 400) + 0.5 * torch.randn(1, 400))
    found = fd.ensemble(unit, PLAN, (1, 400), 4, observation=fd.Observation(lambda x: mask * x, y, noise=0.5))
    # Chi-square of 100 degrees of freedom: x0 given y has the law of the truth.
    assert (found.misfit - 1).abs().max() < 7 * (2 / 100) ** 0.5


def test_particles_weigh_members(monkeypatch):
    def weighted(model, plan, noise, *, particles, **options):
        x = fd.sample(model, plan, noise, seeds=options["seeds"])
        return x, SimpleNamespace(weights=x[:, 0].exp().view(-1, particles).softmax(1))

    monkeypatch.setattr(draws, "sample", weighted)
    found = fd.ensemble(unit, PLAN, (2, 3), 12, batch=8, particles=4)
    assert found.weights.shape == (2, 12)
    torch.testing.assert_close(found.weights.view(2, 3, 4).mean(2), torch.ones(2, 3, dtype=torch.float64))
    expected = (found.weights[..., None] * found.members).sum(1) / 12
    torch.testing.assert_close(found.mean, expected.float())
    split = fd.ensemble(unit, PLAN, (2, 3), 12, batch=4, particles=4)
    torch.testing.assert_close(found.quantile(0.3), split.quantile(0.3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("members", {"members": 0}),
        ("members", {"members": 6, "particles": 4}),
        ("batch", {"batch": 0}),
        ("batch", {"members": 8, "batch": 6, "particles": 4}),
        ("keep", {"keep": 0}),
        ("keep", {"members": 8, "keep": 6, "particles": 4}),
        ("shape", {"shape": ()}),
        ("shape", {"shape": (2, 0)}),
        ("seeds", {"seeds": torch.zeros(2, dtype=torch.int64)}),
        ("seeds", {"seeds": 0.5}),
        ("dtype", {"dtype": torch.int64}),
        ("callback", {"callback": print}),
        ("return_trajectory", {"return_trajectory": True}),
        ("member", {"member": 3}),
        ("observation", {"observation": fd.Observation(torch.eye(3), torch.zeros(4, 3), 1.0)}),
    ],
)
def test_what_cannot_be_is_named(name, options):
    given = {"shape": (2, 3), "members": 4} | options
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        fd.ensemble(unit, PLAN, **given)


def test_what_scores_and_quantiles_cannot_be_asked_is_named():
    pytest.importorskip("scoringrules")
    found, truth = fd.ensemble(unit, PLAN, (2, 3), 4), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^q: expected numbers in \[0, 1\]"):
        found.quantile(1.5)
    for name, given, levels in (("truth", truth[:1], ()), ("truth", truth / 0, ()), ("levels", truth, (1.0,))):
        with pytest.raises(ValueError, match=f"^{name}: "):
            found.scores(given, levels)
    with pytest.raises(ValueError, match=r"^members: scores need two"):
        fd.ensemble(unit, PLAN, (2, 3), 4, keep=1).scores(truth)
