"""Boltz's sampler on plans: its own law is reproduced, in any frame and batch, and the default is nearer to data."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import torch
from structure_laws import algorithm_18, end_variance
from torch import nn

import fastdiff as fd
from fastdiff import structures
from fastdiff.hosts import boltz

SPREAD = 10.0
OFF = {"fk_steering": False, "physical_guidance_update": False, "contact_guidance_update": False}
NUMBERS = {
    "num_sampling_steps": 20, "sigma_min": 0.0004, "sigma_max": 160.0, "sigma_data": 16.0, "rho": 7, "gamma_0": 0.8,
    "gamma_min": 1.0, "noise_scale": 1.003, "step_scale": 1.5, "step_scale_random": None,
    "alignment_reverse_diff": False,
}  # fmt: skip
ODE = {"gamma_0": 0.0, "step_scale": 1.0}


class Protocol:
    """What `sample` reads of an AtomDiffusion, with the exact denoiser of atoms around their centre."""

    def __init__(self, **numbers: object) -> None:
        nn.Module.__init__(self)
        for name, value in {**NUMBERS, **numbers}.items():
            setattr(self, name, value)
        self.calls = []

    @property
    def device(self):
        return torch.device("cpu")

    def preconditioned_network_forward(self, noised_atom_coords, sigma, network_condition_kwargs):
        x = noised_atom_coords
        sigma = torch.full((len(x),), sigma) if isinstance(sigma, float) else sigma
        self.calls.append((x, sigma, network_condition_kwargs))
        return self.denoised(x, sigma, **network_condition_kwargs)

    def denoised(self, x, sigma, **conditions):
        middle = x.mean(1, keepdim=True)
        return middle + (x - middle) * (SPREAD**2 / (SPREAD**2 + sigma**2))[:, None, None]


class StandIn(Protocol, nn.Module):
    pass


def draw(module, atoms=6, samples=3, mask=None, **options):
    mask = torch.ones(1, atoms) if mask is None else mask
    options = {"multiplicity": samples, "seeds": list(range(samples)), **options}
    return boltz.sample(module, mask, **options)["sample_atom_coords"]


def spread(x):
    """The standard deviation of a coordinate, from atoms around their centre."""
    return float((structures.centre(x).square().sum() / (len(x) * (x.shape[1] - 1) * 3)).sqrt())


def euler(module, noise, steps):
    """The module's sampler without churn and in one frame, as its paper has it."""
    sigmas = np.linspace(160 ** (1 / 7), 0.0004 ** (1 / 7), steps) ** 7 * 16
    x = sigmas[0] * noise
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x = x + (after - sigma) * (x - module.denoised(x, torch.full((len(x),), sigma))) / sigma
    return x


def test_without_churn_it_is_eulers_method_on_the_modules_levels():
    noise = fd.noise.randn((3, 6, 3), [0, 1, 2])
    drawn = draw(StandIn(**ODE), num_sampling_steps=9, solver="boltz")
    torch.testing.assert_close(drawn, euler(StandIn(), noise, 9), rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("steps", [4, 10, 200])
def test_with_churn_the_law_is_the_modules(steps):
    """Its gammas are those of the level that a step goes to, 1 Angstrom the least."""
    module = StandIn()
    plan, unit = boltz.plan(module, steps, "boltz"), boltz.unit(module)
    sigmas = np.append(np.linspace(160 ** (1 / 7), 0.0004 ** (1 / 7), steps) ** 7 * 16, 0.0)
    gammas = np.where(sigmas[1:] > 1.0, 0.8, 0.0)
    expected = algorithm_18(sigmas, gammas, SPREAD, 1.003, 1.5)
    assert end_variance(plan, SPREAD / unit, plan.init_scale) * unit**2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [4, 6, 8, 10, 20])
def test_the_default_keeps_the_datas_spread_where_the_modules_own_loses_it(steps):
    module = StandIn()
    own, ours = (boltz.plan(module, steps, solver) for solver in ("boltz", None))
    ratios = [end_variance(p, SPREAD / boltz.unit(module), p.init_scale) ** 0.5 * 32 / SPREAD for p in (own, ours)]
    assert abs(ratios[1] - 1) < 0.02 < 0.3 < abs(ratios[0] - 1)


def test_the_network_sees_centred_atoms_in_frames_that_differ_and_the_result_stays():
    module = StandIn(**ODE)
    drawn = draw(module, num_sampling_steps=5, solver="boltz")
    centres = torch.stack([x.mean(1) for x, *_ in module.calls])
    assert 0.2 < centres.std() < 3  # a translation of one Angstrom, of 45 numbers from fixed seeds
    start = 2560 * fd.noise.randn((3, 6, 3), [0, 1, 2])
    torch.testing.assert_close(drawn.mean(1), start.mean(1), rtol=1e-4, atol=1e-2)


def test_padding_changes_nothing():
    class Padded(StandIn):
        def denoised(self, x, sigma, **conditions):
            middle = x[:, :4].mean(1, keepdim=True)
            data = middle + (x - middle) * (SPREAD**2 / (SPREAD**2 + sigma**2))[:, None, None]
            return torch.cat([data[:, :4], 50 * torch.ones_like(data[:, 4:])], 1)

    class Other(Padded):
        def denoised(self, x, sigma, **conditions):
            data = super().denoised(x, sigma)
            return torch.cat([data[:, :4], -data[:, 4:]], 1)

    mask = torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    one, other = (draw(kind(**ODE), mask=mask, num_sampling_steps=8) for kind in (Padded, Other))
    torch.testing.assert_close(one[:, :4], other[:, :4])


@pytest.mark.parametrize("solver", [None, "boltz"])
def test_samples_belong_to_their_seeds_in_any_batch_and_split(solver):
    module = StandIn()
    together = draw(module, samples=5, num_sampling_steps=4, solver=solver)
    assert {kwargs["multiplicity"] for *_, kwargs in module.calls} == {5}
    module = StandIn()
    split = draw(module, samples=5, num_sampling_steps=4, solver=solver, max_parallel_samples=2)
    assert [len(x) for x, *_ in module.calls[:3]] == [2, 2, 1]
    assert [kwargs["multiplicity"] for *_, kwargs in module.calls[:3]] == [2, 2, 1]
    torch.testing.assert_close(split, together)
    alone = draw(StandIn(), samples=1, seeds=[3], num_sampling_steps=4, solver=solver)
    torch.testing.assert_close(alone, together[3:4])


def test_a_module_that_answers_in_any_frame_is_aligned():
    class Elsewhere(StandIn):
        def denoised(self, x, sigma, **conditions):
            turn = structures.random_rotations(len(x))
            return super().denoised(x, sigma) @ turn.mT + 5

    expected = draw(StandIn(**ODE), num_sampling_steps=8)
    drawn = draw(Elsewhere(**ODE, alignment_reverse_diff=True), num_sampling_steps=8)
    torch.testing.assert_close(structures.centre(drawn), structures.centre(expected), rtol=1e-3, atol=5e-3)


def test_conditions_reach_the_network_and_boltz_1_returns_features_too():
    class First(StandIn):
        def denoised(self, x, sigma, **conditions):
            return super().denoised(x, sigma), "token features"

    module = First(**ODE)
    drawn = boltz.sample(module, torch.ones(1, 6), 4, feats={"a": 1}, s_trunk=2)
    assert drawn["diff_token_repr"] is None
    assert all(kwargs == {"multiplicity": 1, "feats": {"a": 1}, "s_trunk": 2} for *_, kwargs in module.calls)
    assert len(module.calls) == 4


class Spring:
    """Half the squared distance of the atoms' centre spread from a target: pulls atoms towards their centre."""

    def __init__(self) -> None:
        self.times = []

    def compute_parameters(self, t):
        self.times.append(t)
        return {"guidance_weight": 0.1, "guidance_interval": 1}

    def compute_gradient(self, x, feats, parameters):
        return (x - x.mean(1, keepdim=True)) * feats["stiffness"]


@pytest.fixture
def spring(monkeypatch):
    found = Spring()
    for name in ("boltz", "boltz.model", "boltz.model.potentials"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("boltz.model.potentials.potentials")
    module.get_potentials = lambda steering_args, boltz2: [found]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


def test_potentials_pull_every_prediction_but_the_last(spring):
    steering = {**OFF, "contact_guidance_update": True, "num_gd_steps": 3}
    options = {"num_sampling_steps": 4, "feats": {"stiffness": 1.0}}
    pulled = draw(StandIn(), steering_args=steering, **options)
    assert spring.times == [1.0] * 3 + [0.75] * 3 + [0.5] * 3
    assert spread(pulled) < 0.8 * spread(draw(StandIn(), **options))
    none = draw(StandIn(), steering_args={**OFF, "num_gd_steps": 3}, **options)
    torch.testing.assert_close(none, draw(StandIn(), **options))


def test_a_plan_of_ones_own_and_other_solvers():
    module = StandIn(**ODE)
    named = draw(module, solver="dpmpp_2m", num_sampling_steps=7)
    assert len(module.calls) == 7
    torch.testing.assert_close(draw(module, solver=boltz.plan(module, 7, "dpmpp_2m")), named)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steering_args": {**OFF, "fk_steering": True}}, "steering_args: fk_steering resamples"),
        ({"train_accumulate_token_repr": True}, "train_accumulate_token_repr"),
        ({"num_sampling_steps": 1, "solver": "boltz"}, "num_sampling_steps: expected a whole number >= 2"),
        ({"solver": "bolts"}, "solver: "),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        draw(StandIn(), **options)


@pytest.fixture
def real():
    """The package's own loop around the same denoiser."""
    AtomDiffusion = pytest.importorskip("boltz.model.modules.diffusionv2").AtomDiffusion
    return type("Real", (Protocol, AtomDiffusion), {})


@pytest.mark.hosts
def test_the_packages_own_loop_draws_the_same_without_churn(real):
    """The same first numbers of torch's generator are the start; shapes are compared, whose frames differ."""
    module, mask = real(**ODE), torch.ones(1, 6)
    torch.manual_seed(1)
    own = module.sample(mask, 12, multiplicity=4, steering_args=OFF)["sample_atom_coords"]
    torch.manual_seed(1)
    ours = boltz.sample(module, mask, 12, multiplicity=4, solver="boltz")["sample_atom_coords"]
    torch.testing.assert_close(structures.align(ours, own), own, rtol=1e-4, atol=5e-3)


@pytest.mark.hosts
def test_the_packages_own_loop_has_the_same_law_with_churn(real):
    """Within 7 standard errors of a Gaussian's; the start, of 0.3 % less noise there, is forgotten."""
    module, atoms, samples = real(), 40, 60
    own = module.sample(torch.ones(1, atoms), 20, multiplicity=samples, steering_args=OFF)["sample_atom_coords"]
    plan = boltz.plan(module, 20, "boltz")
    expected = 32 * end_variance(plan, SPREAD / 32, plan.init_scale) ** 0.5
    assert spread(own) == pytest.approx(expected, rel=7 / math.sqrt(2 * samples * (atoms - 1) * 3))
