"""Brownian noise: a Brownian path's law, one path a seed, whatever the batch, the order and the number of the steps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fastdiff import kdiffusion
from fastdiff.kdiffusion import BrownianPath, BrownianTreeNoiseSampler

X = torch.empty(3, 40000)
SEEDS = [5, 2**50 + 1, -7]


def walk(path, start, end):
    """W(end) - W(start)."""
    return path.increment(start, end) * math.sqrt(abs(end - start))


@pytest.mark.parametrize("span", [(14.6, 9.7), (1.0, 0.96875), (0.25, 0.0302734375), (80.0, 0.0), (3e-9, 0.0), (-2, 3)])
def test_increments_are_standard_normal_whatever_the_span(span):
    draw = BrownianPath(X, SEEDS).increment(*span).flatten().double()
    assert float(draw.mean()) == pytest.approx(0, abs=0.015)
    assert float(draw.std()) == pytest.approx(1, abs=0.012)
    assert float((draw**4).mean()) == pytest.approx(3, abs=0.2)


def test_increments_over_separate_intervals_are_independent_and_add_up():
    path = BrownianPath(X, SEEDS)
    times = [14.625, 9.5, 4.0, 3.75, 0.40625, 0.125, 0.0]
    steps = [walk(path, s, t) for s, t in itertools.pairwise(times)]
    units = torch.stack([d.flatten() / d.std() for d in steps])
    covariance = units @ units.T / units.shape[1]
    torch.testing.assert_close(covariance, torch.eye(len(steps)), atol=0.02, rtol=0)
    torch.testing.assert_close(sum(steps), walk(path, times[0], times[-1]), atol=1e-4, rtol=1e-5)


def test_samples_and_elements_have_paths_of_their_own():
    draw = BrownianPath(X, SEEDS).increment(3.0, 1.0)
    correlation = torch.corrcoef(draw)
    torch.testing.assert_close(correlation, torch.eye(3), atol=0.03, rtol=0)
    shifted = torch.corrcoef(torch.stack([draw[0, :-1], draw[0, 1:]]))
    assert abs(float(shifted[0, 1])) < 0.03


def test_the_path_depends_on_the_seed_alone():
    whole = BrownianPath(X, SEEDS)
    first = whole.increment(7.0, 2.0)
    whole.increment(5.0, 1.0)
    assert torch.equal(whole.increment(7.0, 2.0), first)
    alone = BrownianPath(X[1:2], SEEDS[1:2])
    assert torch.equal(alone.increment(7.0, 2.0), first[1:2])
    assert torch.equal(whole.increment(2.0, 7.0), -first)


def test_levels_that_differ_by_rounding_see_the_same_path():
    path = BrownianPath(X, SEEDS)
    wide, narrow = path.increment(7.1, 0.3), path.increment(float(torch.tensor(7.1)), float(torch.tensor(0.3)))
    assert float((wide - narrow).std()) < 0.01


@pytest.mark.parametrize("name", ["sample_euler_ancestral", "sample_dpmpp_2m_sde", "sample_dpmpp_sde"])
def test_more_steps_keep_the_composition_and_another_batch_keeps_the_samples(name):
    def draw(steps, seeds):
        sigmas = kdiffusion.get_sigmas_karras(steps, 0.03, 14.6)
        noise = torch.stack([torch.randn(500, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return getattr(kdiffusion, name)(model, 14.6 * noise, sigmas, {"seed": seeds}, disable=True)

    def model(x, sigma, seed):
        gain = (1 / (1 + sigma**2)).view(-1, 1)
        return torch.tanh(2 * gain * x)

    some, more = draw(80, [1, 2]), draw(160, [1, 2])
    assert float(torch.corrcoef(torch.stack([some[0], more[0]]))[0, 1]) > 0.9
    assert torch.equal(draw(80, [2]), some[1:])


def test_a_single_seed_counts_up_over_the_batch_and_none_asks_torch():
    x = torch.empty(2, 50)
    one = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=8)
    two = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=[8, 9])
    torch.testing.assert_close(one(torch.tensor(4.0), torch.tensor(2.0)), two(4.0, 2.0), rtol=0, atol=0)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(BrownianTreeNoiseSampler(x, 0.1, 10.0)(4.0, 2.0))
    assert torch.equal(*drawn)
    assert not torch.equal(BrownianTreeNoiseSampler(x, 0.1, 10.0)(4.0, 2.0), drawn[0])


def test_transform_gives_the_paths_time():
    x = torch.empty(2, 50, dtype=torch.float64)
    plain = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=8)
    logarithmic = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=8, transform=lambda sigma: sigma.log())
    found = logarithmic(torch.tensor(math.e, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, plain(1.0, math.log(0.5)), rtol=1e-2, atol=1e-2)


def test_times_that_cannot_be_told_apart_are_refused():
    path = BrownianPath(X, SEEDS)
    with pytest.raises(ValueError, match="expected times further apart than 2\\^-16"):
        path.increment(1.0, 1.0 + 1e-6)
    with pytest.raises(ValueError, match="expected a finite time, got inf"):
        path.increment(math.inf, 1.0)
