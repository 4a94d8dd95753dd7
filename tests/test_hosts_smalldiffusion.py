"""`fastdiff.hosts.smalldiffusion`: its generator's protocol, on a stand-in of its models, and beside its own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.smalldiffusion import samples

STD = 0.5
LEVELS = torch.logspace(1, -2, 9, dtype=torch.float64)


class Model(torch.nn.Module):
    """The exact noise of data N(0, STD^2), in smalldiffusion's words."""

    def rand_input(self, batchsize: int) -> Tensor:
        return torch.randn(batchsize, 2)

    def predict_eps_cfg(self, x: Tensor, sigma: Tensor, cond: Tensor | None, cfg_scale: float) -> Tensor:
        assert sigma.shape == ()
        return x * sigma / (STD**2 + sigma**2)


class ModelPredFlow(Model):
    """The exact velocity, of a flow."""

    def predict_eps_cfg(self, x: Tensor, sigma: Tensor, cond: Tensor | None, cfg_scale: float) -> Tensor:
        spread = (1 - sigma) ** 2 * STD**2 + sigma**2
        return x * (sigma - (1 - sigma) * STD**2) / spread


def last(states) -> Tensor:
    *_, x = states
    return x


def test_the_default_solves_the_ode_and_yields_every_step():
    x = LEVELS[0] * torch.randn(5, 2, dtype=torch.float64)
    states = list(samples(Model(), LEVELS, xt=x))
    assert len(states) == 8
    assert states[0].data_ptr() != states[1].data_ptr()
    exact = x * STD / (STD**2 + LEVELS[0] ** 2).sqrt()
    assert (states[-1] / exact - 1).abs().max() < 0.01


def test_a_flows_model_is_run_as_a_flow():
    times = torch.cat([torch.linspace(1, 0.001, 10, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    x = torch.randn(5, 2, dtype=torch.float64)
    assert (last(samples(ModelPredFlow(), times, xt=x)) / (STD * x) - 1).abs().max() < 0.01
    own = last(samples(ModelPredFlow(), times, 1.0, xt=x))
    euler = x
    for s, after in pairwise(times):
        euler = euler + (after - s) * ModelPredFlow().predict_eps_cfg(euler, s, None, 0.0)
    torch.testing.assert_close(own, euler, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gam", [1.0, 2.0])
def test_gam_is_the_share_of_the_newest_noise(gam):
    x = state = LEVELS[0] * torch.randn(5, 2, dtype=torch.float64)
    before = None
    for s, after in pairwise(LEVELS):
        eps = Model().predict_eps_cfg(state, s, None, 0.0)
        state = state + (after - s) * (eps if before is None else gam * eps + (1 - gam) * before)
        before = eps
    torch.testing.assert_close(last(samples(Model(), LEVELS, gam, xt=x)), state, rtol=1e-12, atol=1e-12)


def test_half_a_mu_is_the_ancestral_sampler():
    x = LEVELS[0] * torch.randn(5, 2, dtype=torch.float64)
    own = samples(Model(), LEVELS, mu=0.5, xt=x, seeds=range(5))
    ancestral = samples(Model(), LEVELS, xt=x, seeds=range(5), solver="euler_ancestral")
    torch.testing.assert_close(last(own), last(ancestral), rtol=1e-9, atol=1e-9)


def test_noise_is_the_models_own_where_none_is_given():
    assert last(samples(Model(), LEVELS, batchsize=3)).shape == (3, 2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sigmas": [1.0]}, ValueError, "^sigmas: "),
        ({"sigmas": [0.1, 1.0]}, ValueError, "^sigmas: "),
        ({"model": torch.nn.Linear(1, 1)}, TypeError, "^model: "),
        ({"mu": 1.0}, ValueError, "^mu: "),
        ({"gam": 2.0, "solver": "ddim"}, ValueError, "^solver: "),
        ({"order": 2}, ValueError, "^order: "),
        ({"cond": torch.zeros(2), "xt": torch.zeros(3, 2)}, ValueError, "^cond: "),
    ],
)
def test_bad_arguments_are_named_before_the_first_step(given, error, message):
    with pytest.raises(error, match=message):
        samples(**{"model": Model(), "sigmas": LEVELS, **given})


def test_a_plan_is_run_as_it_is():
    plan = fd.plan("heun", fd.Schedule.edm(0.01, 10.0), 4, grid="karras")
    x = 10 * torch.randn(5, 2, dtype=torch.float64)
    ours = list(samples(Model(), [10.0, 0.01], xt=x, solver=plan))
    theirs = fd.sample(lambda x, t: Model().predict_eps_cfg(x, t[0], None, 0.0), plan, x / 10)
    torch.testing.assert_close(ours[-1], theirs)
    assert len(ours) == 4  # steps, not evaluations


@pytest.mark.hosts
@pytest.mark.parametrize("gam", [1.0, 2.0])
def test_smalldiffusions_own_generator_is_reproduced(gam):
    own = pytest.importorskip("smalldiffusion")
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    levels = own.ScheduleDDPM().sample_sigmas(12).double()
    x = levels[0] * torch.randn(4, 2, dtype=torch.float64)
    theirs = list(own.samples(Model(), levels, gam, xt=x, accelerator=accelerator))
    torch.testing.assert_close(list(samples(Model(), levels, gam, xt=x)), theirs, rtol=1e-9, atol=1e-9)
