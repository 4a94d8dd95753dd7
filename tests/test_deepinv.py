"""`fastdiff.hosts.deepinv` and `Observation(physics, y)`: its protocol, on stand-ins and on deepinv where it is."""

from __future__ import annotations

import importlib
import sys
import types

import deepinv_stand_ins
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.deepinv import PosteriorSampler

MEAN, STD, NOISE = 0.5, 0.2, 0.1
SHAPE = (1, 4, 4)
MASK = (torch.arange(16).view(SHAPE) % 2).float()


@pytest.fixture(params=["stand-ins", "deepinv"])
def physics(request):
    return deepinv_stand_ins if request.param == "stand-ins" else pytest.importorskip("deepinv").physics


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x0 + sigma eps = x] of pixels N(0.5, 0.2^2), independent."""
    gain = STD**2 / (STD**2 + sigma.view(-1, 1, 1, 1) ** 2)
    return MEAN + gain * (x - MEAN)


class Denoiser(torch.nn.Module):
    """The same as a network with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.weight * denoiser(x, sigma)


def inpainting(physics, noise_model=None, mask=MASK):
    return physics.Inpainting(SHAPE, mask=mask, noise_model=noise_model or physics.GaussianNoise(NOISE))


def test_samples_have_the_posteriors_mean_and_standard_deviation(physics):
    problem, count = inpainting(physics), 400
    y = 0.8 * MASK[None]
    x = PosteriorSampler(denoiser)(y, problem, seed=3, samples=count)
    assert x.shape == (count, 1, *SHAPE)
    gain = STD**2 / (STD**2 + NOISE**2)
    for seen, mean, std in ((1.0, MEAN + gain * (0.8 - MEAN), (gain * NOISE**2) ** 0.5), (0.0, MEAN, STD)):
        pixels = x[:, 0][:, seen == MASK]
        error = 7 / pixels.numel() ** 0.5  # seven standard errors, and what 20 steps leave
        assert float(pixels.mean()) == pytest.approx(mean, abs=std * (error + 0.03))
        assert float(pixels.std()) == pytest.approx(std, abs=std * (error / 2**0.5 + 0.03))


def test_every_seed_counts_and_a_sample_is_the_same_in_any_batch(physics):
    problem, sampler = inpainting(physics), PosteriorSampler(denoiser, steps=5)
    y = torch.rand(3, *SHAPE) * MASK
    first = sampler(y, problem, seed=0)
    assert torch.equal(first, sampler(y, problem, seed=0))
    assert not torch.equal(first, sampler(y, problem, seed=1))
    assert not torch.equal(first, sampler(y, problem))
    torch.testing.assert_close(sampler(y[:1], problem, seed=0), first[:1])
    torch.testing.assert_close(sampler(y, problem, seed=0, samples=2)[0], first)


def test_stochastic_plans_draw_from_the_seed_too(physics):
    plan = fd.plan("euler_ancestral", fd.Schedule.edm(0.01, 20), 5, prediction="sample")
    sampler, y = PosteriorSampler(denoiser, plan), torch.rand(2, *SHAPE) * MASK
    assert torch.equal(sampler(y, inpainting(physics), seed=0), sampler(y, inpainting(physics), seed=0))


def test_the_datas_range_is_the_physics_own(physics):
    """Images in [-1, 1] give the samples of those in [0, 1], with the range alone said."""
    y = torch.rand(2, *SHAPE)
    start = 40 * torch.randn(2, *SHAPE)
    whole = torch.ones(SHAPE)
    ours = PosteriorSampler(denoiser)(y, inpainting(physics, mask=whole), x_init=start)
    wide = inpainting(physics, physics.GaussianNoise(2 * NOISE), whole)
    theirs = PosteriorSampler(denoiser, data_range=(-1.0, 1.0))(2 * y - 1, wide, x_init=2 * start - 1)
    torch.testing.assert_close((theirs + 1) / 2, ours, atol=1e-4, rtol=0)


def test_a_start_is_where_the_run_begins(physics):
    sampler, y = PosteriorSampler(denoiser, steps=5), torch.rand(2, *SHAPE) * MASK
    start = torch.randn(2, *SHAPE)
    ours = sampler(y, inpainting(physics), x_init=start)
    observation = fd.Observation(inpainting(physics), y)
    theirs = fd.sample(denoiser, sampler.plan, start / sampler.plan.init_scale, observation=observation)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("plan", [None, fd.plan("ddim", fd.Schedule.edm(0.01, 20), 5, prediction="sample")])
def test_a_network_is_a_part_of_the_sampler(plan):
    options = {"plan": plan} if plan else {"steps": 5}
    problem, y = inpainting(deepinv_stand_ins), torch.rand(2, *SHAPE) * MASK
    network = PosteriorSampler(Denoiser(), **options)
    assert len(list(network.parameters())) == 1
    torch.testing.assert_close(network(y, problem, seed=0), PosteriorSampler(denoiser, **options)(y, problem, seed=0))


def test_a_nonlinear_physics_is_differentiated_and_needs_the_images_shape(physics):
    problem = physics.Physics(A=lambda x, **_: x**2, noise_model=physics.GaussianNoise(0.01))
    y, sampler = torch.full((1, *SHAPE), 0.49), PosteriorSampler(denoiser)
    with pytest.raises(ValueError, match=r"^x_init: .*nonlinear"):
        sampler(y, problem, seed=0)
    x = sampler(y, problem, x_init=(1, *SHAPE), seed=0, samples=20)
    assert float((x.abs() - 0.7).abs().max()) < 0.1  # 7 standard deviations are 0.05


def test_noise_is_read_from_the_physics(physics):
    y = torch.rand(2, *SHAPE)
    levels = fd.Observation(inpainting(physics, physics.GaussianNoise(torch.tensor([0.1, 0.3]))), y).likelihood
    torch.testing.assert_close(levels.variance(y)[:, 0, 0, 0], torch.tensor([0.01, 0.09]))
    counts = fd.Observation(inpainting(physics, physics.PoissonNoise(0.05)), y).likelihood
    assert isinstance(counts, fd.posterior.Poisson)
    assert counts.gain == pytest.approx(20)
    outliers = fd.Observation(inpainting(physics, physics.LaplaceNoise(0.2)), y).likelihood
    assert outliers.scale == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda physics: physics.RicianNoise(0.1), r"^noise: RicianNoise"),
        (lambda physics: physics.PoissonNoise(0.1, normalize=False), r"^noise: PoissonNoise with normalize=False"),
        (lambda physics: physics.PoissonNoise(torch.tensor([0.1, 0.2])), r"^noise: expected one gain"),
        (lambda physics: physics.GaussianNoise(0.0), r"^noise: "),
    ],
)
def test_noise_that_it_cannot_read_is_refused_by_name(physics, made, message):
    with pytest.raises(ValueError, match=message):
        fd.Observation(inpainting(physics, made(physics)), torch.rand(2, *SHAPE))


def test_counts_are_restored_by_the_gradient(physics):
    """The mean of many samples is nearer to the truth than the counts are."""
    truth = (MEAN + STD * torch.randn(8, *SHAPE)).clamp(0.1)
    gain = 0.1
    y = gain * torch.poisson(truth / gain)
    problem = inpainting(physics, physics.PoissonNoise(gain), torch.ones(SHAPE))
    x = PosteriorSampler(denoiser, steps=60)(y, problem, seed=0, samples=8).mean(0)
    assert (x - truth).square().mean() < 0.8 * (y - truth).square().mean()


def test_its_own_minimiser_serves_the_proximal_correction():
    y, x0 = torch.rand(2, *SHAPE) * MASK, []
    plan, noise = fd.plan("ddim", fd.Schedule.edm(0.01, 20), 5, prediction="sample"), torch.randn(2, *SHAPE)
    problem = inpainting(deepinv_stand_ins)
    for A in (problem, lambda x: MASK * x):
        observation = fd.Observation(A, y, noise=NOISE)
        x0.append(fd.sample(denoiser, plan, noise, observation=observation, correction="proximal"))
    assert problem.prox_calls == plan.nfe
    torch.testing.assert_close(*x0, atol=1e-4, rtol=1e-4)


def test_it_is_a_reconstructor_of_deepinvs_where_that_is(monkeypatch):
    class Reconstructor(torch.nn.Module):
        pass

    models = types.SimpleNamespace(Reconstructor=Reconstructor)
    monkeypatch.setitem(sys.modules, "deepinv", types.SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "deepinv.models", models)
    monkeypatch.delitem(sys.modules, "fastdiff.hosts.deepinv.sampler")
    assert issubclass(importlib.import_module("fastdiff.hosts.deepinv.sampler").PosteriorSampler, Reconstructor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_range": (1.0, 0.0)}, "^data_range: "),
        ({"sigmas": (0.0, 1.0)}, "^sigmas: "),
        ({"plan": fd.plan("ddim", fd.Schedule.edm(), 5), "data_range": (-1.0, 1.0)}, "^plan: "),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PosteriorSampler(denoiser, **arguments)


def test_bad_arguments_of_a_call_are_named():
    problem, y = inpainting(deepinv_stand_ins), torch.zeros(1, *SHAPE)
    sampler = PosteriorSampler(denoiser, steps=2)
    for given in ({"seed": -1}, {"seed": 0.5}, {"samples": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(given))}: "):
            sampler(y, problem, **given)
    with pytest.raises(TypeError, match=r"^denoiser: "):
        PosteriorSampler(None)
