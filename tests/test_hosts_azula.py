"""`fastdiff.hosts.azula`: its sampler's protocol, on a stand-in of its denoisers, and beside azula where that is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.azula import Sampler
from fastdiff.hosts.placed import Levels, placed

STD = 0.4


def rectified(t: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - 0.999 * t, 0.001 + 0.999 * t


def exploding(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(t), 0.001 * (1e5**t)


def preserving(t: Tensor) -> tuple[Tensor, Tensor]:
    alpha = torch.exp(-6 * t**2)
    return alpha, (1 - alpha**2 + 1e-6).sqrt()


class Denoiser(torch.nn.Module):
    """E[X | x_t] of data N(0, STD^2), or of two points +-1 in each element. calls: the times it was asked about."""

    def __init__(self, schedule=rectified, points: bool = False) -> None:
        super().__init__()
        self.schedule, self.points, self.calls = schedule, points, []

    def forward(self, x_t: Tensor, t: Tensor, shift: float = 0.0) -> SimpleNamespace:
        assert t.shape == ()
        self.calls.append(float(t))
        alpha, sigma = self.schedule(t)
        if self.points:
            return SimpleNamespace(mean=torch.tanh(x_t * alpha / sigma**2) + shift)
        return SimpleNamespace(mean=alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x_t + shift)


class Guided(torch.nn.Module):
    """One that wraps another, as azula's do."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.y, self.schedule = denoiser, torch.zeros(1), denoiser.schedule

    def forward(self, x_t: Tensor, t: Tensor) -> SimpleNamespace:
        return self.denoiser(x_t, t)


class TMPDenoiser(Guided):
    pass


def exact(schedule, x: Tensor) -> Tensor:
    """Where the ODE carries x of Gaussian data to: each time's x is its standard deviation there times the same."""
    alpha, sigma = schedule(torch.ones((), dtype=x.dtype))
    return x * STD / (alpha**2 * STD**2 + sigma**2).sqrt()


@pytest.mark.parametrize("schedule", [rectified, exploding, preserving])
def test_the_default_solves_the_ode_on_every_schedule(schedule):
    sampler = Sampler(Denoiser(schedule), steps=10, silent=True)
    x = sampler.init((64, 3), var=STD**2, dtype=torch.float64)
    assert (sampler(x) / exact(schedule, x) - 1).abs().max() < 0.01  # the same number for all: the data are Gaussian
    assert len(sampler.denoiser.calls) == 10
    assert sampler.denoiser.calls[0] == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", [rectified, exploding, preserving])
def test_ddim_is_its_formula_at_azulas_own_times(schedule):
    denoiser, x = Denoiser(schedule), torch.randn(5, 3, dtype=torch.float64)
    sampler = Sampler(denoiser, "ddim", start=0.9, stop=0.2, steps=6, silent=True, dtype=torch.float64)
    state = x
    for t, s in sampler.timesteps.unfold(0, 2, 1):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        mean = denoiser(state, t).mean
        state = alpha_s * mean + sigma_s / sigma_t * (state - alpha_t * mean)
        torch.testing.assert_close(sampler.step(x, t, s), _ddim(denoiser, x, t, s), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sampler(x), state, rtol=1e-10, atol=1e-10)


def _ddim(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule(t), denoiser.schedule(s)
    mean = denoiser(x, t).mean
    return alpha_s * mean + sigma_s / sigma_t * (x - alpha_t * mean)


def test_the_start_has_the_mean_and_the_variance_of_the_noisy_data():
    sampler = Sampler(Denoiser(preserving), start=0.3)
    x = sampler.init((200_000,), mean=2.0, var=0.25, dtype=torch.float64)
    alpha, sigma = (float(v) for v in preserving(torch.tensor(0.3, dtype=torch.float64)))
    std = (alpha**2 * 0.25 + sigma**2) ** 0.5
    assert float(x.mean()) == pytest.approx(2 * alpha, abs=7 * std / 200_000**0.5)
    assert float(x.std()) == pytest.approx(std, rel=7 / (2 * 200_000) ** 0.5)


def test_a_plan_of_any_schedule_runs_by_its_noise_levels():
    """A flow's plan and the same levels' plan in EDM's scale give the same samples."""
    levels = np.array([0.99, 0.8, 0.5, 0.2, 0.05, 0.0])
    flow = fd.plan("dpmpp_2m", fd.Schedule.flow(), sigmas=levels, prediction="flow_prediction")
    edm = fd.plan("dpmpp_2m", fd.Schedule.edm(1e-4, 1e3), sigmas=levels / (1 - levels), prediction="epsilon")
    denoiser = Denoiser(preserving, points=True)
    x = torch.randn(7, 2, dtype=torch.float64)
    samplers = [Sampler(denoiser, plan, start=0.9, silent=True) for plan in (flow, edm)]
    torch.testing.assert_close(samplers[0](x), samplers[1](x), rtol=1e-10, atol=1e-10)


def test_noise_belongs_to_torchs_generator():
    sampler, x = Sampler(Denoiser(), "ddim", eta=1.0, steps=5, silent=True), torch.randn(3, 2)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(sampler(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_keywords_are_the_denoisers():
    sampler, x = Sampler(Denoiser(), "ddim", steps=1, silent=True), torch.zeros(2, 2, dtype=torch.float64)
    torch.testing.assert_close(sampler(x, shift=1.0), torch.full_like(x, 1 - 1e-6), rtol=0, atol=1e-9)


def test_guided_denoisers_get_a_lower_order_and_rough_ones_the_lowest():
    plain, guided = Sampler(Denoiser(), steps=8).plan, Sampler(Guided(Denoiser()), steps=8).plan
    assert guided == fd.plan(None, Sampler(Denoiser())._levels(1, 0).as_flow(), 8, guided=True)
    assert plain != guided
    assert Sampler(Guided(Denoiser()), steps=8, guided=False).plan == plain
    assert Sampler(Guided(Denoiser()), steps=4).plan == Sampler(Denoiser(), steps=4).plan
    assert Sampler(TMPDenoiser(Denoiser()), steps=8).plan.solver == "ddim"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"denoiser": 3}, TypeError, "^denoiser: "),
        ({"denoiser": Sampler(Denoiser())}, TypeError, "^denoiser: .*step of its own"),
        ({"solver": "dimm"}, ValueError, "dimm.*ddim"),
        ({"order": 2}, ValueError, "^order: "),
        ({"start": 0.2, "stop": 0.4}, ValueError, "^start, stop: "),
        ({"steps": 0}, ValueError, "^steps: "),
        ({"denoiser": Denoiser(lambda t: (t, 1 - t))}, ValueError, "^schedule: "),
    ],
)
def test_bad_arguments_are_named(given, error, message):
    with pytest.raises(error, match=message):
        Sampler(**{"denoiser": Denoiser(), **given})


def test_rows_of_nameless_mixtures_are_refused():
    levels = Levels(lambda t: (1 - t, t + 1e-3), 0.9, 0.0)
    plan = fd.plan("ddim", fd.Schedule.flow(), 1)
    object.__setattr__(plan.rows[0], "form", "mixed")
    with pytest.raises(ValueError, match=r"^plan: .*mixed"):
        placed(plan, levels)


@pytest.mark.hosts
@pytest.mark.parametrize("name", ["VP", "VE", "Cosine", "Rectified", "Decay"])
def test_azulas_own_samplers_are_reproduced_on_its_own_schedules(name):
    """To float64's rounding: DDIM, and its Adams-Bashforth methods for the noise and for the velocity."""
    pytest.importorskip("azula")
    from azula import noise
    from azula import sample as azulas

    denoiser = Denoiser(getattr(noise, f"{name}Schedule")(), points=True)
    given = {"steps": 10, "silent": True, "dtype": torch.float64}
    own = (azulas.DDIMSampler(denoiser, **given), azulas.zABSampler(denoiser, 3, **given))
    own = (*own, azulas.vABSampler(denoiser, 3, **given))
    x = own[0].init((6, 2), dtype=torch.float64)
    lms = {"order": 3}
    ours = (("ddim", {}), ("lms", {**lms, "coordinate": "sigma"}), ("lms", {**lms, "coordinate": "flow"}))
    for theirs, (solver, options) in zip(own, ours, strict=True):
        torch.testing.assert_close(Sampler(denoiser, solver, **given, **options)(x), theirs(x), rtol=0, atol=1e-9)


@pytest.mark.hosts
def test_a_guided_denoiser_of_azula_reaches_the_posterior():
    """MMPS on Gaussian data is exact, and so is its mean: y / 2 for noise of the data's own variance."""
    pytest.importorskip("azula")
    from azula.denoise import GaussianDenoiser
    from azula.guidance import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VPSchedule

    one = torch.tensor(1.0, dtype=torch.float64)
    prior = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), IsotropicCovariance(one), VPSchedule())
    y = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    denoiser = MMPSDenoiser(prior, y, lambda x: x, IsotropicCovariance(one))
    sampler = Sampler(denoiser, steps=10, silent=True)
    x = sampler.init((4, 3), dtype=torch.float64)
    there, back = sampler(x), sampler(-x)
    torch.testing.assert_close((there + back) / 2, (y / 2).expand(4, 3), rtol=0, atol=0.01)
    assert isinstance(sampler.plan, fd.Plan)
