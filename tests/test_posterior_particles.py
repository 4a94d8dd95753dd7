"""Particles: weighted groups have the posterior of a mixture, whose single chains misweigh the modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd

SCHEDULE = fd.Schedule.edm(0.01, 20.0)
MODES = torch.tensor([[1.0, 1.0, 0.2], [-1.0, 1.1, -0.3], [0.1, -0.9, 1.0]], dtype=torch.float64)
SPREAD, NOISE = 0.2, 0.2
A = torch.tensor([[0.2, 0.6, 0.2]], dtype=torch.float64)  # nearly the same of the first two modes
Y = torch.tensor([[0.7]], dtype=torch.float64)
OBSERVED = fd.Observation(A, Y, noise=NOISE)


def model(x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x0 + t eps = x] of three equal Gaussian modes."""
    variance = (SPREAD**2 + t**2)[:, None]
    offset = x[:, None] - MODES
    weight = torch.softmax(-0.5 * offset.square().sum(-1) / variance, 1)
    return (weight[..., None] * (MODES + SPREAD**2 / variance[..., None] * offset)).sum(1)


def known() -> tuple[Tensor, float]:
    """The posterior weights of the modes [3], and log p(y)."""
    variance = SPREAD**2 * A.square().sum() + NOISE**2
    log = -0.5 * ((Y - MODES @ A.T)[:, 0].square() / variance + math.log(2 * math.pi * variance))
    return torch.softmax(log, 0), float(torch.logsumexp(log, 0)) - math.log(3)


def drawn(count: int, groups: int, correction: object = "moment", steps: int = 60) -> tuple[Tensor, object]:
    plan = fd.plan("ddim", SCHEDULE, steps, grid="karras", prediction="sample", eta=1.0)
    noise = fd.noise.randn((groups * count, 3), range(groups * count), dtype=torch.float64)
    return fd.sample(
        model, plan, noise, observation=OBSERVED, correction=correction, seeds=range(groups * count), particles=count
    )


def shares(x: Tensor, weights: Tensor) -> Tensor:
    """[3] the weight that lies nearest to each mode."""
    nearest = torch.cdist(x, MODES).argmin(1)
    return torch.stack([weights.flatten()[nearest == k].sum() for k in range(3)])


@pytest.mark.filterwarnings("ignore:correction")
@pytest.mark.parametrize("correction", ["moment", fd.posterior.Gradient(0.5)], ids=["moment", "gradient"])
def test_the_weights_of_the_modes_are_the_posteriors(correction):
    x, particles = drawn(1500, 1, correction)
    true, evidence = known()
    # A share of n effective particles errs by sqrt(p (1 - p) / n); resampling and ties take some more: 7 of them.
    room = 7 * 0.5 / float(particles.effective.min()) ** 0.5
    assert torch.allclose(shares(x, particles.weights), true, atol=room)
    assert float(particles.log_evidence) == pytest.approx(evidence, abs=0.1)
    mean = particles.mean(x)
    assert mean.shape == (1, 3)


def test_the_evidence_is_right_on_average():
    _, particles = drawn(40, 60)
    ratios = (particles.log_evidence - known()[1]).exp()
    assert float(ratios.mean()) == pytest.approx(1.0, abs=7 * float(ratios.std()) / 60**0.5 + 0.02)


def test_a_group_is_its_own_whatever_is_beside_it():
    x, particles = drawn(8, 3)
    alone, its = drawn(8, 1)
    assert torch.allclose(x[:8], alone, atol=1e-12)
    assert torch.allclose(particles.weights[0], its.weights[0])
    assert particles.weights.shape == (3, 8)
    assert particles.effective.shape == (60, 3)
    assert torch.allclose(particles.weights.sum(1), torch.ones(3, dtype=torch.float64))


def test_weights_of_a_gaussian_are_even():
    """The twist of moment matching is the likelihood itself there, and its proposal the posterior."""
    plan = fd.plan("ddim", SCHEDULE, 200, grid="karras", prediction="sample", eta=1.0)
    noise = fd.noise.randn((64, 3), range(64), dtype=torch.float64)

    def gaussian(x: Tensor, t: Tensor) -> Tensor:
        return x * (0.3 / (0.3 + t**2))[:, None]

    _, particles = fd.sample(
        gaussian, plan, noise, observation=OBSERVED, correction="moment", seeds=range(64), particles=64
    )
    assert float(particles.effective.min()) > 60


def test_an_ensemble_of_particles_weighs_the_modes():
    plan = fd.plan("ddim", SCHEDULE, 60, grid="karras", prediction="sample", eta=1.0)
    drawn = fd.ensemble(
        model, plan, (1, 3), members=1024, batch=512, particles=512, observation=OBSERVED, dtype=torch.float64
    )
    weights = drawn.weights / drawn.weights.sum()
    assert torch.allclose(drawn.mean[0], weights[0] @ drawn.members[0])
    room = 7 * 0.5 * float(weights.square().sum()) ** 0.5
    assert torch.allclose(shares(drawn.members[0], weights), known()[0], atol=room)


def test_resampled_particles_have_equal_weights():
    x = torch.arange(8.0)[:, None]
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    particles = fd.Particles(weights, torch.zeros(1, 2), torch.zeros(2))
    drawn = particles.resampled(x, torch.tensor([3, 4]))[:, 0].tolist()
    assert drawn == [0.0, 0.0, 1.0, 1.0, 7.0, 7.0, 7.0, 7.0]


def test_steps_tell_the_weights_on_the_way():
    plan = fd.plan("ddim", SCHEDULE, 6, grid="karras", prediction="sample", eta=1.0)
    noise = fd.noise.randn((8, 3), range(8), dtype=torch.float64)
    options = {"observation": OBSERVED, "seeds": range(8), "particles": 4}
    steps = [step.particles for step in fd.iter_sample(model, plan, noise, **options)]
    _, particles = fd.sample(model, plan, noise, **options)
    assert torch.equal(steps[-1].weights, particles.weights)
    assert len(steps[2].effective) == 3


@pytest.mark.parametrize(
    ("options", "plan", "named"),
    [
        ({"particles": 3}, {"eta": 1.0}, "particles"),
        ({"particles": 0}, {"eta": 1.0}, "particles"),
        ({"particles": 4}, {}, "particles"),
        ({"particles": 4, "clamp": 1.0}, {"eta": 1.0}, "clamp"),
        ({"particles": 4, "correction": lambda step: step.denoised}, {"eta": 1.0}, "particles"),
        ({"particles": 4, "correction": "proximal"}, {"eta": 1.0}, "particles"),
        ({"particles": 4, "observation": None}, {"eta": 1.0}, "observation"),
    ],
)
def test_what_particles_cannot_do_is_refused_by_name(options, plan, named):
    plan = fd.plan("ddim", SCHEDULE, 6, grid="karras", prediction="sample", **plan)
    with pytest.raises(ValueError, match=named):
        fd.sample(model, plan, torch.zeros(8, 3, dtype=torch.float64), **{"observation": OBSERVED, **options})


def test_a_plan_of_several_stages_is_refused():
    plan = fd.plan("dpmpp_sde", SCHEDULE, 6, grid="karras", prediction="sample")
    with pytest.raises(ValueError, match="stage"):
        fd.sample(model, plan, torch.zeros(8, 3, dtype=torch.float64), observation=OBSERVED, particles=4)
