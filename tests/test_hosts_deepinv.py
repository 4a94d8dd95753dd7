"""`fastdiff.hosts.deepinv.SDESolver`: what deepinv asks of a solver, on a stand-in of its SDEs and in deepinv."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.deepinv import SDESolver

STD = 0.5


class SDE:
    """What a solver reads of deepinv's SDEs, for data N(0, STD^2). calls: how often the score was asked for."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, preserving: bool = False) -> None:
        self.preserving, self.calls = preserving, 0

    def sigma_t(self, t: float | Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.expm1(9 * t**2).sqrt() if self.preserving else 0.001 * 80_000**t

    def scale_t(self, t: float | Tensor) -> Tensor:
        sigma = self.sigma_t(t)
        return (1 + sigma**2) ** -0.5 if self.preserving else torch.ones_like(sigma)

    def score(self, x: Tensor, t: Tensor, y: Tensor | None = None, physics: object = None) -> Tensor:
        self.calls += 1
        scale, sigma = self.scale_t(t), self.sigma_t(t)
        return -x / (scale**2 * (STD**2 + sigma**2))

    def start(self, count: int = 6) -> Tensor:
        return torch.randn(count, 1, 2, 2, dtype=torch.float64) * self.sigma_t(1.0) * self.scale_t(1.0)


def ddim(sde: SDE, x: Tensor, times: Tensor) -> list[Tensor]:
    """All states of x' = s' (D + sigma' / sigma (x / s - D)), D = x / s + s sigma^2 score."""
    states = [x]
    for t, u in itertools.pairwise(times):
        scale, sigma = sde.scale_t(t), sde.sigma_t(t)
        mean = x / scale + scale * sigma**2 * sde.score(x, t)
        x = sde.scale_t(u) * (mean + sde.sigma_t(u) / sigma * (x / scale - mean))
        states.append(x)
    return states


@pytest.mark.parametrize("preserving", [False, True])
def test_ddim_is_its_formula_and_its_states_are_the_trajectory(preserving):
    sde, times = SDE(preserving), torch.linspace(1, 0.01, 8, dtype=torch.float64)
    x = sde.start()
    states = ddim(sde, x, times)
    out = SDESolver(times, solver="ddim").sample(sde, x, get_trajectory=True)
    torch.testing.assert_close(out.trajectory, torch.stack(states), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.sample, states[-1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.timesteps, times)
    step, calls = SDESolver(times).step(sde, times[0], times[1], x)
    torch.testing.assert_close(step, states[1], rtol=1e-9, atol=1e-9)
    assert (calls, out.nfe) == (1, 7)


@pytest.mark.parametrize("preserving", [False, True])
def test_the_default_solves_the_ode_in_as_many_evaluations_as_there_are_steps(preserving):
    sde = SDE(preserving)
    x = sde.start()
    out = SDESolver(t_start=1.0, t_end=0.001, num_steps=11).sample(sde, x)
    assert sde.calls == out.nfe == 10
    scale, sigma = sde.scale_t(1.0), sde.sigma_t(1.0)
    exact = x / scale * STD / (STD**2 + sigma**2).sqrt()
    assert (out.sample / exact - 1).abs().max() < 0.01  # the same number for all: the data are Gaussian


@pytest.mark.parametrize(("evaluations", "order"), [(4, 2), (9, 2), (10, 3)])
def test_few_evaluations_with_measurements_take_a_low_order(evaluations, order):
    """Rows of order k read k outputs, but for the tables' of 4 evaluations."""
    sde, times = SDE(), torch.linspace(1, 0.001, evaluations + 1)
    plans = []
    solver = SDESolver(times)
    original = solver.plan
    solver.plan = lambda *given: plans.append(original(*given)) or plans[-1]
    solver.sample(sde, sde.start(1), y=torch.zeros(1), physics=object())
    solver.sample(sde, sde.start(1))
    guided, free = plans
    assert guided.nfe == free.nfe == evaluations
    assert (guided != free) == (evaluations < 10)
    if evaluations > 7:
        assert guided.depth == order


def test_noise_comes_from_the_rng_and_its_seed():
    sde, times = SDE(), torch.linspace(1, 0.01, 6)
    solver = SDESolver(times, rng=torch.Generator(), solver="ddpm")
    x = sde.start()
    first, again, other = (solver.sample(sde, x, seed=seed).sample for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.warns(UserWarning, match="seed"):
        SDESolver(times).sample(sde, x, seed=3)


def test_times_of_a_call_replace_the_solvers_own():
    sde, times = SDE(), torch.linspace(1, 0.01, 4)
    x = sde.start()
    longer = torch.linspace(1, 0.01, 7)
    out = SDESolver(times, solver="ddim").sample(sde, x, timesteps=longer.numpy())
    torch.testing.assert_close(out.sample, SDESolver(longer, solver="ddim").sample(sde, x).sample)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"t_start, t_end, and num_steps must be specified"):
        SDESolver(t_start=1.0)
    with pytest.raises(ValueError, match=r"^order: "):
        SDESolver(torch.linspace(1, 0, 3), order=2)
    with pytest.raises(ValueError, match=r"^schedule: "):
        SDESolver(torch.linspace(0, 1, 3)).sample(SDE(), SDE().start())
    with pytest.raises(ValueError, match="ddim"):
        SDESolver(torch.linspace(1, 0, 3), solver="dimm").sample(SDE(), SDE().start())


@pytest.mark.hosts
def test_deepinvs_ddim_is_reproduced_by_its_own_sdes():
    deepinv = pytest.importorskip("deepinv")
    sampling = deepinv.sampling

    def denoiser(x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        return x * STD**2 / (STD**2 + sigma**2)

    times = torch.linspace(0.99, 0.01, 9, dtype=torch.float64)
    for kind in (sampling.VarianceExplodingDiffusion, sampling.VariancePreservingDiffusion, sampling.FlowMatching):
        sde = kind(denoiser=denoiser, minus_one_one=False)
        x = sde.sample_init((3, 1, 4, 4), t=times[0])
        theirs = sampling.DDIMSolver(times).sample(sde, x, get_trajectory=True).trajectory
        ours = SDESolver(times, solver="ddim").sample(sde, x, get_trajectory=True).trajectory
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # the denoiser is called in float32


@pytest.mark.hosts
def test_posterior_diffusion_takes_it_as_its_solver():
    """Seen pixels of Gaussian data are drawn about the measurement."""
    deepinv = pytest.importorskip("deepinv")
    sampling = deepinv.sampling

    def denoiser(x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        return x * STD**2 / (STD**2 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2)

    solver = SDESolver(t_start=1.0, t_end=0.001, num_steps=21, rng=torch.Generator())
    fidelity = sampling.PiGDMDataFidelity(denoiser)
    sde = sampling.VarianceExplodingDiffusion(minus_one_one=False)
    model = sampling.PosteriorDiffusion(fidelity, denoiser, sde, solver, minus_one_one=False)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.01))
    y = torch.rand(2, 1, 4, 4)
    x = model(y, physics, seed=0)
    assert torch.equal(x, model(y, physics, seed=0))
    assert (x - y).abs().max() < 0.1


def test_a_plan_of_any_schedule_runs_by_its_noise_levels():
    sde = SDE()
    x = sde.start()
    edm = fd.plan("ddim", fd.Schedule.edm(0.001, 80.0), sigmas=[80.0, 5.0, 1.0, 0.0], prediction="sample")
    flow = fd.plan("ddim", fd.Schedule.flow(t_min=1e-6), sigmas=[80 / 81, 5 / 6, 0.5, 0.0])
    times = torch.tensor([1.0, 0.001])
    runs = [SDESolver(times, solver=plan).sample(sde, x).sample for plan in (edm, flow)]
    torch.testing.assert_close(*runs)
