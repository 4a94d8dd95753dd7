"""What is said of an ensemble's members: mean, spread and quantiles without keeping them, and scores by the truth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import posterior
from fastdiff.posterior.marginals import Counted, Kept, over
from fastdiff.posterior.misfit import warn_of_misfit
from fastdiff.posterior.running import Running
from fastdiff.posterior.scores import scores

LEVELS = torch.tensor([0.0, 0.03, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
SAME = {"rtol": 1e-12, "atol": 1e-12}


def draws(count: int = 2, n: int = 40, size: int = 30) -> Tensor:
    return torch.randn(count, n, size, dtype=torch.float64)


def running(x: Tensor, weights: Tensor | None = None) -> Running:
    total = Running((x.shape[0], *x.shape[2:]))
    total.add(x, weights)
    return total


def quantiles(marginals: Kept | Counted, levels: Tensor = LEVELS) -> Tensor:
    """[Q, G, D]."""
    return over(marginals, lambda points: points.quantile(levels)).movedim(2, 0)


def counted(x: Tensor, kept: int, weights: Tensor | None = None) -> Counted:
    given = torch.ones(x.shape[:2]) if weights is None else weights
    marginals = Counted(Kept(x[:, :kept], given[:, :kept]))
    marginals.add(x[:, kept:], given[:, kept:])
    return marginals


def test_mean_and_spread_are_those_of_all_members_far_from_0_too():
    x = 1e6 + draws()
    torch.testing.assert_close(running(x).mean, x.mean(1), rtol=1e-15, atol=1e-9)
    torch.testing.assert_close(running(x).spread, x.std(1), rtol=1e-8, atol=0.0)


def test_members_of_weight_0_say_nothing():
    x, weights = draws(), torch.ones(2, 40)
    weights[:, ::3] = 0
    seen = x[:, weights[0] > 0]
    for found, expected in ((running(x, weights), running(seen)), (running(x, 7 * weights), running(seen))):
        torch.testing.assert_close(found.mean, expected.mean, **SAME)
        torch.testing.assert_close(found.spread, expected.spread, **SAME)
        torch.testing.assert_close(found.size, expected.size, **SAME)


def test_the_mean_of_weighted_members_is_the_weighted_mean():
    x, weights = draws(), torch.rand(2, 40, dtype=torch.float64)
    expected = (weights[..., None] * x).sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(running(x, weights).mean, expected, **SAME)


def test_quantiles_of_kept_members_are_those_of_torch():
    x = draws()
    torch.testing.assert_close(quantiles(Kept(x)), torch.quantile(x, LEVELS, 1), **SAME)
    one = x[:, :1]
    torch.testing.assert_close(quantiles(Kept(one)), one[:, 0].expand(len(LEVELS), -1, -1), **SAME)


@pytest.mark.parametrize("kept", [1, 2, 17, 39])
def test_quantiles_of_counted_members_lie_between_the_kept_ones_that_enclose_the_exact_ones(kept):
    x = draws()
    exact, found = torch.quantile(x, LEVELS, 1), quantiles(counted(x, kept))
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    edges = torch.cat([low, x[:, :kept], high], 1)
    below = torch.where(edges <= exact[:, :, None], edges, low).amax(2)
    above = torch.where(edges >= exact[:, :, None], edges, high).amin(2)
    assert ((below - 1e-12 <= found) & (found <= above + 1e-12)).all()


def test_quantiles_of_many_members_need_few_kept_ones():
    """Levels are wrong by a tenth of what lies between two kept members, and less than the sampling error."""
    x, levels = draws(1, 1000, 200), torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    found = quantiles(counted(x, 64), levels)  # [Q, 1, D]
    level = (x[0] < found).double().mean(1)
    assert (level - levels[:, None]).abs().mean() < 0.003
    assert (level - levels[:, None]).abs().max() < 7 / 65


def test_counts_do_not_depend_on_the_order_and_batches_of_members():
    x = draws()
    other = Counted(Kept(x[:, :5]))
    for part in x[:, 5:].flip(1).split(8, 1):
        other.add(part)
    assert torch.equal(quantiles(counted(x, 5)), quantiles(other))


@pytest.mark.parametrize("kept", [40, 9])
def test_quantiles_of_weighted_members_are_those_of_the_weights(kept):
    """Of weights w at values 0, 1, ...: the levels are the middles of the weights, from 0 to 1."""
    weights = torch.rand(1, 40, dtype=torch.float64) + 0.1
    middle = weights.cumsum(1) - weights / 2
    levels = ((middle - middle[:, :1]) / (middle[:, -1:] - middle[:, :1]))[0]
    values, order = torch.arange(40.0).view(1, 40, 1), torch.randperm(40)
    shuffled, theirs = values[:, order], weights[:, order]
    if kept == 40:
        found = quantiles(Kept(shuffled, theirs), levels)
        torch.testing.assert_close(found.flatten(), values.flatten().double(), rtol=1e-9, atol=1e-9)
    else:
        found = quantiles(counted(shuffled, kept, theirs), levels[5:-5]).flatten()
        edges = torch.cat([torch.tensor([0.0, 39.0]), shuffled[0, :kept, 0]]).sort().values
        place = torch.searchsorted(edges, values.flatten()[5:-5])  # what encloses the member at each level
        assert (found > edges[place - 1] - 1.01).all()
        assert (found < edges[place] + 1.01).all()


def test_crps_of_a_gaussian_ensemble_is_the_closed_form():
    """s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), of members at the Gaussian's quantiles."""
    pytest.importorskip("scoringrules")
    normal, n = torch.distributions.Normal(0.0, 1.0), 2000
    mean, std = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64) + 0.5
    at = normal.icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)[torch.randperm(n)]
    x = mean[:, None] + std[:, None] * at[None, :, None]
    z = torch.randn(3, 5, dtype=torch.float64)
    exact = std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    found = scores(Kept(x), running(x), mean + std * z, ())
    torch.testing.assert_close(found.crps, exact, rtol=0, atol=2e-3)
    assert found.rank.double().div(n).sub(normal.cdf(z)).abs().max() < 1 / n


def test_crps_of_weighted_members_leaves_those_of_weight_0_out():
    pytest.importorskip("scoringrules")
    x, truth, weights = draws(), draws(2, 1)[:, 0], torch.ones(2, 40)
    weights[:, ::2] = 0
    found, expected = (
        scores(Kept(of, w), running(of, w), truth, (0.5,)) for of, w in ((x, weights), (x[:, 1::2], None))
    )
    torch.testing.assert_close(found.crps, expected.crps)
    assert found.spread_skill == pytest.approx(expected.spread_skill)


def test_a_truth_among_equal_members_has_the_middle_rank():
    pytest.importorskip("scoringrules")
    x, truth = torch.zeros(1, 8, 3), torch.tensor([[-1.0, 0.0, 1.0]])
    found = scores(Kept(x), running(x + torch.randn(8, 1)), truth, ())
    assert found.rank.tolist() == [[0, 4, 8]]
    assert found.rank_histogram.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]


GAUSSIAN = posterior.Gaussian(0.3)
NOISES = {
    "gaussian": (GAUSSIAN, lambda x: x + 0.3 * torch.randn_like(x)),
    "function": (GAUSSIAN.log_prob, lambda x: x + 0.3 * torch.randn_like(x)),
    "poisson": (posterior.Poisson(100.0), lambda x: torch.poisson(100 * x) / 100),
    "laplace": (posterior.Laplace(0.3), lambda x: x + torch.distributions.Laplace(0.0, 0.3).sample(x.shape)),
}


@pytest.mark.parametrize("name", NOISES)
def test_the_misfit_of_the_truth_is_1_in_the_mean_whatever_the_noise(name):
    noise, measure = NOISES[name]
    truth = torch.rand(4, 10000, dtype=torch.float64) + 0.5
    misfit = fd.Observation(lambda x: x, measure(truth), noise=noise).misfit(truth)
    # (n - r)^2 / r of n ~ Poisson(r) has variance 2 + 1 / r, here with r of 50 and more; chi-square has 2.
    assert (misfit - 1).abs().max() < 7 * (2.02 / 10000) ** 0.5


@pytest.mark.parametrize(("misfit", "count", "word"), [(1.4, 10**6, None), (9.0, 20, "small"), (1 / 9, 100, "large"),
                                                       (9.0, 1, None), (0.0, 2, None)])  # fmt: skip
def test_a_misfit_is_told_where_it_is_large_and_significant(misfit, count, word, recwarn):
    warn_of_misfit(torch.tensor([1.0, misfit]), torch.tensor([count, count]))
    told = [str(each.message) for each in recwarn]
    assert len(told) == (word is not None)
    if word:
        assert f"in 1 of 2 observations: its noise is stated too {word}" in told[0]
