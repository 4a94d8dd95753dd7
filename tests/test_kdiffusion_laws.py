"""What ComfyUI's further samplers draw, by hand or by linear maps: LCM, SA-Solver, DDPM on flows, Heun++."""

from __future__ import annotations

import pytest
import torch
from hosts import EPS, MEAN, STD, HostModel, ModelSamplingFlow, flow_levels
from linear_law import law

from fastdiff import kdiffusion

EITHER = pytest.mark.parametrize("flow", [False, True], ids=["edm", "flow"])


def levels(flow, steps):
    return flow_levels(steps).double() if flow else kdiffusion.get_sigmas_karras(steps, 0.03, 80.0).double()


def drawn(name, model, sigmas, flow, **options):
    """Mean and standard deviation of the result, from the data's law at the first level."""
    alpha = 1 - float(sigmas[0]) if flow else 1.0
    sample = getattr(kdiffusion, name)
    start = (alpha * MEAN, ((alpha * STD) ** 2 + float(sigmas[0]) ** 2) ** 0.5)
    return law(lambda x, noise: sample(model, x, sigmas, {}, disable=True, noise_sampler=noise, **options), *start)


class Consistency(HostModel):
    """The exact end of the flow from x."""

    def __call__(self, x, sigma, **kwargs):
        s = sigma.view(-1, *[1] * (x.ndim - 1))
        alpha = self.sampling.alpha(s)
        return MEAN + STD * (x - alpha * MEAN) / ((alpha * STD) ** 2 + s**2).sqrt()


@EITHER
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_lcm_draws_a_consistency_models_data_in_any_number_of_steps(flow, steps):
    model = Consistency(ModelSamplingFlow() if flow else EPS())
    mean, std = drawn("sample_lcm", model, levels(flow, steps), flow)
    assert mean == pytest.approx(MEAN, rel=1e-12)
    assert std == pytest.approx(STD, rel=1e-12)


@pytest.mark.parametrize("name", ["sample_ddpm", "sample_res_multistep_ancestral"])
def test_noise_added_to_a_flow_as_if_alpha_were_one_would_lose_the_law(name):
    """What ComfyUI does: the sampler of x0 + sigma eps on a flow's model."""
    told, untold = (HostModel(ModelSamplingFlow()) for _ in "ab")
    del untold.inner_model  # so that nothing says it is a flow
    _, lost = drawn(name, untold, levels(True, 40), True)
    _, kept = drawn(name, told, levels(True, 40), True)
    assert abs(kept / STD - 1) < 0.1
    assert abs(lost / STD - 1) > 0.3


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["sample_sa_solver", "sample_sa_solver_pece"])
def test_sa_solver_keeps_the_law_at_any_noise_level(name, tau):
    results = [drawn(name, HostModel(EPS()), levels(False, n), False, tau_func=lambda sigma: tau) for n in (15, 60)]
    coarse, fine = (abs(std / STD - 1) for _, std in results)
    assert fine < max(coarse / 2, 1e-3)
    assert fine < 0.02


def test_sa_solver_draws_noise_in_the_middle_of_a_hosts_run():
    """One noise for each step that ends between a fifth and four fifths of the run; the corrector draws none."""

    class Host(ModelSamplingFlow):
        def percent_to_sigma(self, percent):
            return 1 - percent

    ends = []
    sigmas = torch.linspace(0.99, 0.0, 34, dtype=torch.float64)
    for name in ("sample_sa_solver", "sample_sa_solver_pece"):
        ends.append([])

        def sampler(start, end):
            ends[-1].append(float(end))
            return torch.zeros(2, 2).double()

        x = torch.randn(2, 2, dtype=torch.float64)
        getattr(kdiffusion, name)(HostModel(Host()), x, sigmas, disable=True, noise_sampler=sampler)
    assert ends[0] == ends[1] == [float(s) for s in sigmas[1:] if 0.2 <= s <= 0.8]


def test_sa_solver_calls_back_once_a_step_and_asks_twice_in_pece_mode():
    sigmas = levels(False, 8)
    for name, calls in (("sample_sa_solver", 8), ("sample_sa_solver_pece", 15)):
        model, seen = HostModel(EPS()), []
        x = float(sigmas[0]) * torch.randn(2, 2, dtype=torch.float64)
        getattr(kdiffusion, name)(model, x, sigmas, {}, seen.append, True)
        assert [call["i"] for call in seen] == list(range(8))
        assert len(model.told) == calls
    for option in ({"predictor_order": 5}, {"corrector_order": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}: expected a whole number from"):
            kdiffusion.sample_sa_solver(HostModel(EPS()), x, sigmas, {}, disable=True, **option)


def test_heunpp2s_weights_are_the_levels():
    sigmas = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    told, seen = [], []
    outputs = {4.0: 0.0, 3.0: 1.0, 2.0: 10.0}

    def model(x, sigma):
        told.append(float(sigma))
        return torch.full_like(x, outputs[float(sigma)])

    kdiffusion.sample_heunpp2(model, torch.ones(1, 1).double(), sigmas, None, seen.append, disable=True)
    assert told == [4.0, 3.0, 2.0, 3.0, 2.0, 2.0]  # three slopes, two, one
    w_2, w_3 = 3 / 12, 2 / 12
    d_1 = 1 / 4
    x_2 = 1 - d_1
    d_2 = (x_2 - 1) / 3
    x_3 = x_2 - d_2
    d_3 = (x_3 - 10) / 2
    assert float(seen[1]["x"]) == pytest.approx(1 - ((1 - w_2 - w_3) * d_1 + w_2 * d_2 + w_3 * d_3), rel=1e-13)
