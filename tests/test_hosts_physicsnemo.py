"""`fastdiff.hosts.physicsnemo` on stand-ins with PhysicsNeMo's protocol."""

from __future__ import annotations

import math
import sys
from functools import partial

import numpy as np
import physicsnemo_stand_ins as theirs
import pytest
import torch
from physicsnemo_stand_ins import SPREAD
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.physicsnemo import PlanSolver, deterministic_sampler, stochastic_sampler

SIZE = (2, 1, 4, 6)


@pytest.fixture
def physicsnemo(monkeypatch):
    for name, module in theirs.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def drawn(count: int = 1) -> list[Tensor]:
    """Noise and conditions."""
    return [torch.randn(*SIZE, dtype=torch.float64) for _ in range(1 + count)]


def solution(noise: Tensor, mean: Tensor, sigma: float = 80.0) -> Tensor:
    """The ODE's end: (x - mean) / sqrt(SPREAD^2 + sigma^2) is constant."""
    return mean + SPREAD * (sigma * noise - mean) / math.hypot(SPREAD, sigma)


def off(x: Tensor, noise: Tensor, mean: Tensor, sigma: float = 80.0) -> float:
    """The greatest distance from the ODE's end, over the greatest number given: the same for any numbers, nearly."""
    return float((x - solution(noise, mean, sigma)).abs().max() / torch.stack([noise, mean]).abs().max())


MOST = math.sqrt(2) - 1


def told(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def algorithm_2(net, noise, lr, levels, churn=0.0, low=0.0, high=math.inf, s_noise=1.0, most=MOST):
    """Karras et al. 2022, algorithm 2, as the paper has it."""
    ends, x = [*levels[1:], 0.0], levels[0] * noise
    for t, end in zip(levels, ends, strict=True):
        hat = t * (1 + (min(churn / len(levels), most) if low <= t <= high else 0.0))
        x = x + math.sqrt(hat**2 - t**2) * s_noise * torch.randn_like(x)
        slope = (x - net(x, lr, told(hat))) / hat
        after = x + (end - hat) * slope
        if end:
            after = x + (end - hat) * (slope + (after - net(after, lr, told(end))) / end) / 2
        x = after
    return x


def karras(count: int, low: float = 0.002, high: float = 80.0) -> list[float]:
    u = np.linspace(high ** (1 / 7), low ** (1 / 7), count)
    return (u**7).tolist()


@pytest.mark.parametrize("churn", [{}, {"S_churn": 8, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.02}])
def test_heun_is_physicsnemos_with_its_noise(churn):
    net, (noise, lr) = theirs.Net(), drawn()
    torch.manual_seed(1)
    ours = deterministic_sampler(net, noise, lr, num_steps=9, solver="heun", **churn)
    assert len(net.sigmas) == 17
    torch.manual_seed(1)
    expected = algorithm_2(net, noise, lr, karras(9), *churn.values())
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_the_churn_of_the_stochastic_sampler_has_no_bound():
    net, (noise, lr) = theirs.Net(), drawn()
    torch.manual_seed(1)
    ours = stochastic_sampler(net, noise, lr, num_steps=6, S_churn=9, sigma_max=100)
    torch.manual_seed(1)
    expected = algorithm_2(net, noise, lr, karras(6, 0.002, 100.0), 9.0, most=math.inf)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [deterministic_sampler, partial(stochastic_sampler, sigma_max=80)])
def test_the_default_is_nearer_than_heun_with_as_many_evaluations(sampler):
    net, (noise, lr) = theirs.Net(), drawn()
    exact, heun = solution(noise, lr), sampler(net, noise, lr, num_steps=4, solver="heun")
    net.sigmas.clear()
    ours = sampler(net, noise, lr, num_steps=7)
    assert len(net.sigmas) == 7
    assert float((ours - exact).abs().max()) < 0.1 * float((heun - exact).abs().max())


def test_any_solver_and_any_plan_run():
    net, (noise, lr) = theirs.Net(), drawn()
    plan = fd.plan("dpm_solver_2m", fd.Schedule.edm(0.01, 20), 12, grid="karras", prediction="sample")
    ours = deterministic_sampler(net, noise, lr, solver=plan)
    assert net.sigmas == pytest.approx([row.t for row in plan.rows])
    assert off(ours, noise, lr, 20.0) < 0.05
    named = deterministic_sampler(net, noise, lr, solver="dpm_solver_2m", sigma_min=0.01, sigma_max=20.0, num_steps=12)
    assert off(named, noise, lr, 20.0) < 0.05


@pytest.mark.parametrize("discretization", ["edm", "ve", "vp", "iddpm"])
def test_every_discretization_converges(discretization):
    net, (noise, lr) = theirs.Net(), drawn()
    ours = deterministic_sampler(net, noise, lr, num_steps=60, solver="heun", discretization=discretization)
    assert off(ours, noise, lr, net.sigmas[0]) < 0.02


@pytest.mark.parametrize(("solver", "most"), [(None, 0.1), ("unipc", 0.1), ("heun", 0.5)])
def test_levels_are_those_that_the_network_knows(solver, most):
    class Known(theirs.Net):
        sigma_min, sigma_max = 0.01, 40.0
        levels = torch.tensor(karras(100, 0.01, 40.0))

        def round_sigma(self, sigma):
            return self.levels[(torch.as_tensor(sigma)[..., None] - self.levels).abs().argmin(-1)]

    net, (noise, lr) = Known(), drawn()
    x = deterministic_sampler(net, noise, lr, num_steps=8, solver=solver)
    assert off(x, noise, lr, 40.0) < most
    nearest = net.round_sigma(torch.tensor(net.sigmas, dtype=torch.float64)).tolist()
    assert net.sigmas == pytest.approx(nearest, rel=1e-6)


@pytest.mark.parametrize("kind", ["Net", "EDMPrecond"])
def test_conditions_and_labels_reach_the_network(physicsnemo, kind):
    net, (noise, lr, mean) = getattr(theirs, kind)(), drawn(2)
    labels, lead = torch.tensor([1, 2]), torch.tensor([3, 4])
    given = {"class_labels": labels, "lead_time_label": lead}
    x = deterministic_sampler(net, noise, lr, mean_hr=mean[:1], num_steps=5, **given)
    torch.testing.assert_close(x, deterministic_sampler(net, noise, (lr + mean[:1]) / 2, num_steps=5))
    deterministic_sampler(net, noise, lr, num_steps=5, **given)
    assert net.given == given


def test_patches_of_a_network_of_single_pixels_give_the_whole(physicsnemo):
    net, (noise, lr) = theirs.Net(), drawn()
    for sampler in (deterministic_sampler, stochastic_sampler):
        whole = sampler(net, noise, lr, num_steps=5)
        torch.testing.assert_close(sampler(net, noise, lr, num_steps=5, patching=theirs.GridPatching2D()), whole)
    assert net.given["embedding_selector"](torch.zeros(3, 4, 6)).shape == (4, 3, 4, 3)


def test_a_host_that_keeps_a_partial_sampler_calls_it():
    """As PhysicsNeMo's diffusion_step and earth2studio's CorrDiff do: the rest by name."""
    net, (noise, lr) = theirs.Net(), drawn()
    sampler = partial(stochastic_sampler, num_steps=6, sigma_max=80)
    x = sampler(net=net, latents=noise, img_lr=lr, randn_like=torch.randn_like, mean_hr=None)
    torch.testing.assert_close(x, deterministic_sampler(net, noise, lr, num_steps=6))


def test_the_dtype_is_the_arguments():
    net, (noise, lr) = theirs.Net(), drawn()
    assert deterministic_sampler(net, noise.float(), lr.float(), num_steps=4).dtype == torch.float64
    assert (
        deterministic_sampler(net, noise.float(), lr.float(), num_steps=4, dtype=torch.float32).dtype == torch.float32
    )
    assert stochastic_sampler(net, noise.float(), lr.float(), num_steps=4).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discretization": "x"}, "^Unknown discretization x"),
        ({"schedule": "x"}, "^Unknown schedule x"),
        ({"scaling": "vp"}, "^solver: schedule, scaling and alpha belong"),
        ({"S_churn": 5, "solver": "unipc"}, "^S_churn: belongs"),
        ({"solver": "dpm_solver_2x"}, r"dpm_solver_2m"),
        ({"solver": fd.plan("ddim", fd.Schedule.edm(), 4)}, "^solver: expected a plan of prediction 'sample'"),
        ({"patching": object()}, "^patching must be an instance"),
        ({"img_lr": torch.zeros(3, 1, 4, 6)}, "^img_lr and latents must have the same batch size"),
        ({"mean_hr": torch.zeros(1, 1, 4, 5)}, "^mean_hr and img_lr must have the same height"),
    ],
)
def test_bad_arguments_have_physicsnemos_errors(physicsnemo, arguments, message):
    noise, lr = drawn()
    with pytest.raises(ValueError, match=message):
        deterministic_sampler(theirs.Net(), noise, **{"img_lr": lr, **arguments})


@pytest.mark.parametrize("kind", [theirs.EDMNoiseScheduler, theirs.VPNoiseScheduler])
@pytest.mark.parametrize(("solver", "most"), [(None, 0.03), ("dpm_solver_2m", 0.1), ("heun", 0.35)])
def test_a_solver_of_sample_follows_the_ode(kind, solver, most):
    scheduler, noise = kind(), torch.randn(3, 2, 4)
    first = scheduler.timesteps(9, dtype=torch.float64)[:1]
    start = math.hypot(float(scheduler.alpha(first)) * SPREAD, float(scheduler.sigma(first)))
    made = PlanSolver(scheduler.rate, scheduler, 9, solver)
    for _ in range(2):  # a run after another
        x = theirs.sample(scheduler.rate, start * noise, scheduler, 9, made)
        torch.testing.assert_close(x, SPREAD * noise, rtol=most, atol=0)
    assert len(made.time_steps) == 10


def test_a_solver_refuses_other_runs():
    scheduler, noise = theirs.EDMNoiseScheduler(), torch.randn(1, 2, 4)
    with pytest.raises(ValueError, match=r"^num_steps: "):
        theirs.sample(scheduler.rate, 80 * noise, scheduler, 7, PlanSolver(scheduler.rate, scheduler, 9))
    with pytest.raises(ValueError, match=r"^time_steps: "):
        PlanSolver(scheduler.rate, scheduler, 9).step(noise, torch.tensor([3.0]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match=r"^solver: expected an ODE solver"):
        PlanSolver(scheduler.rate, scheduler, 9, "euler_ancestral")
    scheduler.alpha = lambda t: 2 * torch.ones_like(t)
    with pytest.raises(ValueError, match=r"^noise_scheduler: "):
        PlanSolver(scheduler.rate, scheduler, 9)
