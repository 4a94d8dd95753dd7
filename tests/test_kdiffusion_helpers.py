"""k-diffusion's helper functions, and what its samplers do with churn and long steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdiff as fd
from fastdiff import kdiffusion
from fastdiff.plans.grid import make_grid

MEAN, STD = 0.3, 0.5


def gaussian(x, sigma, **kwargs):
    """The exact denoiser of N(MEAN, STD^2) data."""
    s = sigma.view(-1, *[1] * (x.ndim - 1))
    return MEAN + STD**2 / (STD**2 + s**2) * (x - MEAN)


def test_default_noise_is_fresh_unit_noise_of_torchs_generator_or_of_a_seed():
    x = torch.empty(3, 20000, dtype=torch.float64)
    sampler = kdiffusion.default_noise_sampler(x)
    a, b = sampler(9.0, 5.0), sampler(9.0, 5.0)
    assert a.dtype == torch.float64
    n = a.numel()  # seven standard errors each
    assert abs(float((a * b).mean())) < 7 * n**-0.5
    torch.testing.assert_close(
        torch.stack([a.std(), b.std()]), torch.ones(2).double(), rtol=7 * (2 * n) ** -0.5, atol=0
    )
    torch.manual_seed(4)
    first = kdiffusion.default_noise_sampler(x)(9.0, 5.0)
    torch.manual_seed(4)
    assert torch.equal(kdiffusion.default_noise_sampler(x)(1.0, 0.5), first)
    seeded = [kdiffusion.default_noise_sampler(x, seed=6) for _ in "ab"]
    for _ in range(3):
        assert torch.equal(seeded[0](2.0, 1.0), seeded[1](2.0, 1.0))
    assert not torch.equal(seeded[0](2.0, 1.0), kdiffusion.default_noise_sampler(x, seed=7)(2.0, 1.0))


@settings(max_examples=60)
@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 2))
def test_an_ancestral_steps_parts_make_up_its_level(sigma_from, sigma_to, eta):
    down, up = kdiffusion.get_ancestral_step(sigma_from, sigma_to, eta)
    assert math.hypot(down, up) == pytest.approx(sigma_to)
    ratio = min(sigma_from, sigma_to) / max(sigma_from, sigma_to)
    assert up == pytest.approx(min(sigma_to, eta * sigma_to * math.sqrt(1 - ratio**2)), rel=1e-6, abs=1e-9)
    if eta == 1 and sigma_from > sigma_to:
        assert down == pytest.approx(sigma_to**2 / sigma_from)


def test_an_ancestral_step_takes_tensors_and_ends_at_zero():
    down, up = kdiffusion.get_ancestral_step(torch.tensor(3.0), torch.tensor(2.0), 0.5)
    assert isinstance(down, torch.Tensor)
    assert float(up) == pytest.approx(0.5 * 2 * math.sqrt(5 / 9), rel=1e-6)
    assert kdiffusion.get_ancestral_step(3.0, 0.0) == (0.0, 0.0)
    assert kdiffusion.get_ancestral_step(3.0, 2.0, 0.0) == (2.0, 0.0)
    up_all = kdiffusion.get_ancestral_step(2.0, 3.0, 1.0)  # up by the forward process
    assert up_all == pytest.approx((2.0, math.sqrt(5.0)))


def test_to_d_is_the_flows_direction():
    x, denoised = torch.randn(2, 3, 4, 5)
    for sigma in (torch.tensor(2.0), torch.tensor([2.0, 2.0, 2.0])):
        torch.testing.assert_close(kdiffusion.to_d(x, sigma, denoised), (x - denoised) / 2)
    per_sample = kdiffusion.to_d(x, torch.tensor([1.0, 2.0, 4.0]), denoised)
    torch.testing.assert_close(per_sample[2], (x[2] - denoised[2]) / 4)


def test_laplace_levels_are_quantiles_of_log_sigma():
    sigmas = kdiffusion.get_sigmas_laplace(101, 1e-9, 1e9, mu=0.4, beta=0.7)
    law = torch.distributions.Laplace(0.4, 0.7)
    share = 1 - torch.linspace(0, 1, 101)
    torch.testing.assert_close(law.cdf(sigmas.log()), share, atol=1e-5, rtol=1e-3)
    assert sigmas.dtype == torch.float32
    held = kdiffusion.get_sigmas_laplace(20, 0.03, 14.6)
    assert len(held) == 20
    assert float(held[0]) == pytest.approx(14.6)
    assert float(held[-1]) == pytest.approx(0.03)
    assert (held.diff() <= 0).all()


def test_log_likelihood_is_the_datas_density():
    x = MEAN + STD * torch.randn(6, 2, 3, dtype=torch.float64)
    found, info = kdiffusion.log_likelihood(gaussian, x, 1e-3, 1e4, atol=1e-7, rtol=1e-7)
    expected = torch.distributions.Normal(MEAN, math.hypot(STD, 1e-3)).log_prob(x).sum((1, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    loose, fewer = kdiffusion.log_likelihood(gaussian, x, 1e-3, 1e4)
    assert fewer["fevals"] < info["fevals"]
    torch.testing.assert_close(loose, expected, rtol=0, atol=1.0)


def test_log_likelihood_estimates_the_divergence_of_models_that_mix_elements():
    """With data N(0, C), C not diagonal: v in two dimensions has two outcomes, and their mean is the density."""
    mixing = torch.tensor([[1.0, 0.6], [0.0, 0.8]], dtype=torch.float64)
    covariance = mixing @ mixing.T

    def model(x, sigma, **kwargs):
        return x @ torch.linalg.solve(covariance + sigma[0] ** 2 * torch.eye(2).double(), covariance)

    x = (torch.randn(1, 2, dtype=torch.float64) @ mixing.T).expand(64, 2).contiguous()
    found, _ = kdiffusion.log_likelihood(model, x, 1e-3, 1e3, atol=1e-7, rtol=1e-7)
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    low, high = float(found.min()), float(found.max())
    assert high - low > 0.01
    torch.testing.assert_close(torch.minimum(found - low, high - found), torch.zeros(64).double(), rtol=0, atol=1e-6)
    assert (low + high) / 2 == pytest.approx(float(law.log_prob(x[:1])), abs=1e-3)


def test_log_likelihood_passes_arguments_on_and_refuses_levels_that_do_not_rise():
    x = torch.randn(2, 3)
    extra = {"shift": 1.0}
    kdiffusion.log_likelihood(lambda x, sigma, shift: gaussian(x, sigma) + shift, x, 0.1, 5.0, extra_args=extra)
    with pytest.raises(ValueError, match="sigma_min, sigma_max: expected 0 < sigma_min < sigma_max"):
        kdiffusion.log_likelihood(gaussian, x, 5.0, 0.1)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_a_plans_churn_goes_as_far_as_it_is_told(name):
    """gamma = 0.8 before every step, as structure models take it: the model is asked at 1.8 sigma."""
    steps, edm = 8, fd.Schedule.edm(0.02, 80.0)
    churn = {"s_churn": 0.8 * steps, "s_noise": 1.0, "max_churn": 1.0}
    plan = fd.plan(name, edm, steps, grid="karras", prediction="sample", **churn)
    grid = make_grid(edm, steps, "karras").sigma[:-1]
    begins = [row for i, row in enumerate(plan.rows) if i == 0 or plan.rows[i - 1].accepts]
    assert [row.sigma for row in begins] == pytest.approx(1.8 * grid)
    papers = fd.plan(name, edm, steps, grid="karras", prediction="sample", s_churn=0.8 * steps)
    assert papers.rows[0].sigma == pytest.approx(math.sqrt(2) * grid[0])
    for row, low, high in zip([r for r in plan.rows if r.accepts], grid[1:], 1.8 * grid[1:], strict=False):
        assert row.x.noise[0][1] == pytest.approx(math.sqrt(high**2 - low**2))


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_the_k_diffusion_face_holds_churn_to_its_papers_bound(name):
    seen = []
    sample = getattr(kdiffusion, f"sample_{name}")
    sample(gaussian, 14.6 * torch.randn(2, 3), kdiffusion.get_sigmas_karras(6, 0.1, 14.6), None, seen.append, True, 1e6)
    for call in seen:
        assert float(call["sigma_hat"] / call["sigma"]) == pytest.approx(math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize(("name", "bounded"), [("sample_uni_pc", False), ("sample_uni_pc_bh2", True)])
@pytest.mark.parametrize("h", [0.1, 1.0, 3.0])
def test_unipcs_corrector_weighs_differences_by_b_of_h(name, bounded, h):
    """B(h) / 2 in the paper: h / 2 for bh1, which long steps make larger than 1, and (1 - e^-h) / 2 for bh2."""
    outputs = iter([0.0, 1.0])
    levels = torch.tensor([2 * h, h, 0.0], dtype=torch.float64).exp()
    x = getattr(kdiffusion, name)(
        lambda x, sigma: torch.full_like(x, next(outputs)), torch.zeros(1, 1).double(), levels, disable=True
    )
    corrected = (-math.expm1(-h) if bounded else h) / 2
    assert float(x) == pytest.approx(math.exp(-h) * corrected - math.expm1(-h), rel=1e-9)
