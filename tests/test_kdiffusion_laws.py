"""The law of what stochastic samplers draw, exactly: with Gaussian data a run is a linear map of its noises.

Sample k of a batch has a one in its k-th noise and zeros elsewhere, so the spread of the result over the batch is the
standard deviation, without a random number.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from hosts import EPS, MEAN, STD, HostModel, ModelSamplingFlow, flow_levels

from fastdiff import kdiffusion

NOISY = [
    name
    for name in kdiffusion.__all__
    if name.startswith("sample_") and not name.endswith("_gpu")
    and "noise_sampler" in inspect.signature(getattr(kdiffusion, name)).parameters
]  # fmt: skip
APART = [
    f"sample_{name}"
    for name in (
        "dpmpp_sde",  # two noises a step, of one path
        "dpm_fast", "dpm_adaptive",  # between two levels
        "res_multistep", "res_multistep_cfg_pp",  # draw none
        "dpmpp_2s_ancestral_cfg_pp",  # narrower than the data, as in ComfyUI
        "lcm",  # wants a consistency model, below
    )
]  # fmt: skip
NAMES = [name for name in NOISY if name not in APART]
EITHER = pytest.mark.parametrize("flow", [False, True], ids=["edm", "flow"])


def law(name, flow, sigmas, model=None):
    """Mean and standard deviation of the result, from the data's law at the first level."""
    count = 3 * len(sigmas)
    ones = iter(torch.eye(count + 2, 1 + count, dtype=torch.float64)[:, 1:].T)
    start = torch.zeros(count + 2, dtype=torch.float64)
    start[0] = 1.0
    alpha = 1 - sigmas[0] if flow else 1.0
    x = (alpha * MEAN + start * ((alpha * STD) ** 2 + sigmas[0] ** 2) ** 0.5).view(-1, 1)
    model = model or HostModel(ModelSamplingFlow() if flow else EPS())
    sample = getattr(kdiffusion, name)
    drawn = sample(model, x, sigmas, {}, disable=True, noise_sampler=lambda *_: next(ones).view(-1, 1))
    mean = drawn[-1]  # the sample without any noise
    return float(mean), float((drawn - mean).square().sum().sqrt())


def levels(flow, steps):
    return flow_levels(steps).double() if flow else kdiffusion.get_sigmas_karras(steps, 0.03, 80.0).double()


@EITHER
@pytest.mark.parametrize("name", NAMES)
def test_more_steps_come_closer_to_the_datas_law(name, flow):
    laws = [law(name, flow, levels(flow, steps)) for steps in (15, 60)]
    coarse, fine = (abs(std / STD - 1) + abs(mean / MEAN - 1) for mean, std in laws)
    assert fine < (coarse / 2 if coarse > 0.01 else 0.01)
    assert fine < (0.1 if "euler" in name or name == "sample_ddpm" else 0.02)  # of first order


@EITHER
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_lcm_draws_a_consistency_models_data_in_any_number_of_steps(flow, steps):
    sampling = ModelSamplingFlow() if flow else EPS()

    class Consistency(HostModel):
        """The exact end of the flow from x."""

        def __call__(self, x, sigma, **kwargs):
            s = sigma.view(-1, 1)
            alpha = self.sampling.alpha(s)
            return MEAN + STD * (x - alpha * MEAN) / ((alpha * STD) ** 2 + s**2).sqrt()

    mean, std = law("sample_lcm", flow, levels(flow, steps), Consistency(sampling))
    assert mean == pytest.approx(MEAN, rel=1e-12)
    assert std == pytest.approx(STD, rel=1e-12)


@pytest.mark.parametrize("name", ["sample_ddpm", "sample_res_multistep_ancestral"])
def test_noise_added_to_a_flow_as_if_alpha_were_one_would_lose_the_law(name):
    """What ComfyUI does: the sampler of x0 + sigma eps on a flow's model."""

    class Blind(HostModel):
        """A flow's denoiser that does not say so."""

    model = Blind(ModelSamplingFlow())
    del model.inner_model
    _, lost = law(name, True, levels(True, 40), model)
    _, kept = law(name, True, levels(True, 40))
    assert abs(kept / STD - 1) < 0.1
    assert abs(lost / STD - 1) > 0.3


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["sample_sa_solver", "sample_sa_solver_pece"])
def test_sa_solver_keeps_the_law_at_any_noise_level(name, tau, monkeypatch):
    monkeypatch.setattr(kdiffusion, "sample_tau", _with(name, tau), raising=False)
    coarse, fine = (abs(law("sample_tau", False, levels(False, steps))[1] / STD - 1) for steps in (20, 80))
    assert fine < max(coarse / 2, 1e-3)
    assert fine < 0.02


def _with(name, tau):
    def sample(model, x, sigmas, extra_args, disable, noise_sampler):
        options = {"tau_func": lambda sigma: tau, "noise_sampler": noise_sampler}
        return getattr(kdiffusion, name)(model, x, sigmas, extra_args, disable=disable, **options)

    return sample


def test_heunpp2_is_of_first_order_and_its_weights_are_the_levels():
    """One step of three slopes: with D = 0 the slope is x / sigma, so everything is known."""
    sigmas = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    seen = []
    drawn = kdiffusion.sample_heunpp2(
        lambda x, sigma: 0 * x, torch.ones(1, 1).double(), sigmas, None, seen.append, disable=True
    )
    # Every Euler step on D = 0 is x t / s, which is exact: all slopes are 1 / 4, whatever their weights.
    assert float(drawn) == pytest.approx(0.25, rel=1e-14)
    told = []
    outputs = {4.0: 0.0, 3.0: 1.0, 2.0: 10.0}
    kdiffusion.sample_heunpp2(
        lambda x, sigma: told.append(float(sigma)) or torch.full_like(x, outputs.get(float(sigma), 0.0)),
        torch.ones(1, 1).double(), sigmas, None, seen.append, disable=True,
    )  # fmt: skip
    assert told == [4.0, 3.0, 2.0, 3.0, 2.0, 2.0]
    w_2, w_3 = 3 / 12, 2 / 12
    d_1 = 1 / 4
    x_2 = 1 - d_1
    d_2 = (x_2 - 1) / 3
    x_3 = x_2 - d_2
    d_3 = (x_3 - 10) / 2
    assert float(seen[-2]["x"]) == pytest.approx(1 - ((1 - w_2 - w_3) * d_1 + w_2 * d_2 + w_3 * d_3), rel=1e-13)
