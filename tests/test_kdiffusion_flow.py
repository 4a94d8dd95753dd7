"""The k-diffusion face on a host's rectified-flow models, x = (1 - sigma) x0 + sigma eps."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from hosts import EPS, MEAN, STD, HostModel, ModelSamplingFlow, Predictor, exact, flow_levels, in_turn, new_host
from linear_law import law

from fastdiff import kdiffusion
from fastdiff.kdiffusion.flow import flow_sampling

ON_SIGMAS = [name for name in kdiffusion.__all__ if name.startswith("sample_") and not name.endswith("_gpu")]
ON_SIGMAS = [name for name in ON_SIGMAS if name not in ("sample_dpm_fast", "sample_dpm_adaptive")]
NOISY = [n for n in ON_SIGMAS if "noise_sampler" in inspect.signature(getattr(kdiffusion, n)).parameters]
ANCESTRAL = [n for n in NOISY if n.endswith("_ancestral")]
FROM_ONE = ["sample_ddpm", "sample_lcm"]
IN_LOG_SNR = [n for n in NOISY if n not in [*ANCESTRAL, *FROM_ONE] and "res_multistep" not in n and "cfg_pp" not in n]
IN_LOG_SNR.append("sample_exp_heun_2_x0")
IN_LEVEL = ["sample_euler_cfg_pp", "sample_euler_ancestral_cfg_pp", "sample_ddpm"]  # in sigma / alpha, from alpha = 0


def begin(sigma=1.0, dtype=torch.float64):
    noise, data = torch.randn(2, 128, 128, dtype=dtype)
    return sigma * noise + (1 - sigma) * (MEAN + STD * data)


# ComfyUI's dpmpp_2s_ancestral_cfg_pp does not draw the data's law: see docs/deviations.md. LCM wants another model.
@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("name", [n for n in ON_SIGMAS if n not in ("sample_dpmpp_2s_ancestral_cfg_pp", "sample_lcm")])
def test_every_sampler_draws_the_datas_law_from_a_rectified_flow(name, steps):
    def draw(x, noise):
        options = {"noise_sampler": noise} if name in NOISY else {}
        return getattr(kdiffusion, name)(
            HostModel(ModelSamplingFlow()), x, flow_levels(steps).double(), disable=True, **options
        )

    mean, std = law(draw, 0.0, 1.0)
    assert mean == pytest.approx(MEAN, abs=1e-3)  # solvers in log SNR begin where alpha is 1e-4
    first_order = any(part in name for part in ("euler", "gradient", "ddpm", "heunpp"))
    assert std == pytest.approx(STD, abs=8 / steps if first_order else 120 / steps**2)


@pytest.mark.parametrize("options", [{}, {"eta": 0.6, "s_noise": 1.1}, {"eta": 0.0}], ids=str)
@pytest.mark.parametrize("name", [*IN_LOG_SNR, *IN_LEVEL])
def test_solvers_in_log_snr_see_a_flow_as_its_noise_level_sigma_over_alpha(name, options):
    """z = x / (1 - sigma) at the level sigma / (1 - sigma) is k-diffusion's own problem, and the same run."""
    sample = getattr(kdiffusion, name)
    known = inspect.signature(sample).parameters
    options = {"tau_func": lambda sigma: 0.8, **options}  # by default it depends on the host's sigmas
    options = {option: value for option, value in options.items() if option in known}
    x, sigmas = begin(0.98), flow_levels(12).double()
    sigmas[0], sigmas = 0.98, sigmas[:-2]
    levels, alpha = sigmas / (1 - sigmas), 1 - sigmas
    results = []
    for start, grid, model in (
        (x, sigmas, HostModel(ModelSamplingFlow())),
        (x / alpha[0], levels, HostModel(EPS())),
    ):
        noise = {"noise_sampler": in_turn(x)} if "noise_sampler" in known else {}
        results.append(sample(model, start, grid, disable=True, **noise, **options))
    torch.testing.assert_close(results[0] / alpha[-1], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [1.0, 0.4, 0.0, 1.7])
def test_ancestral_steps_on_a_flow_go_down_and_come_up_by_the_forward_process(eta):
    x, sigmas = begin(1.0), flow_levels(9).double()
    expected, noise = x, in_turn(x)
    for s, t in itertools.pairwise(sigmas):
        down = t * (1 + eta * (t / s - 1)).clamp(min=0)
        denoised = exact(expected, s.expand(len(x)), 1 - s.expand(len(x)))
        expected = down / s * expected + (1 - down / s) * denoised
        if t > 0 and eta:
            kept = (1 - t) / (1 - down)
            expected = kept * expected + 1.1 * (t**2 - (kept * down) ** 2).sqrt() * noise(s, t)
    drawn = kdiffusion.sample_euler_ancestral(
        HostModel(ModelSamplingFlow()), x, sigmas, disable=True, eta=eta, s_noise=1.1, noise_sampler=in_turn(x)
    )
    torch.testing.assert_close(drawn, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ANCESTRAL)
def test_without_noise_ancestral_steps_are_the_odes(name):
    """dx/dsigma = (x - D) / sigma has x at sigma exactly for Gaussian data; second-order methods are close to it."""
    sigmas, units = flow_levels(100).double(), torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    sigmas = sigmas[sigmas < 0.9]
    spread = ((1 - sigmas[0]) ** 2 * STD**2 + sigmas[0] ** 2).sqrt()
    x = (1 - sigmas[0]) * MEAN + spread * units
    drawn = getattr(kdiffusion, name)(HostModel(ModelSamplingFlow()), x, sigmas, disable=True, eta=0.0)
    assert float((drawn - (MEAN + STD * units)).abs().max()) < (0.25 if "euler" in name else 0.02)


@pytest.mark.parametrize("name", IN_LOG_SNR)
def test_log_snr_begins_at_the_hosts_first_finite_level(name):
    model = HostModel(ModelSamplingFlow())
    seen = []
    sigmas = flow_levels(4)
    drawn = getattr(kdiffusion, name)(model, begin(), sigmas, callback=seen.append, disable=True)
    assert model.told[0] == pytest.approx(model.sampling.percent_to_sigma(1e-4), abs=1e-7)
    assert float(seen[0]["sigma"]) == pytest.approx(model.told[0], rel=1e-6)
    assert torch.isfinite(drawn).all()
    assert float(sigmas[0]) == 1.0  # the caller's tensor is not written to


def test_a_model_known_by_its_patcher_or_a_forge_predictor_is_a_flow_too():
    x, sigmas = begin(), flow_levels(8)
    patched = HostModel(ModelSamplingFlow())
    del patched.inner_model.inner_model
    assert flow_sampling(patched) is patched.sampling
    assert flow_sampling(HostModel(EPS())) is None
    assert flow_sampling(lambda x, sigma: x) is None
    drawn = [
        kdiffusion.sample_euler_ancestral(HostModel(kind()), x, sigmas, disable=True, noise_sampler=in_turn(x))
        for kind in (ModelSamplingFlow, Predictor)
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["sample_euler", "sample_heun", "sample_dpm_2"])
def test_churn_on_a_flow_keeps_the_law(name, monkeypatch):
    sample, levels = getattr(kdiffusion, name), flow_levels(200).double()

    def draw(x, noise):
        monkeypatch.setattr(torch, "randn_like", lambda x: noise.fresh())
        return sample(HostModel(ModelSamplingFlow()), x, levels, disable=True, s_churn=20.0)

    mean, std = law(draw, 0.0, 1.0)
    assert mean == pytest.approx(MEAN, abs=1e-12)
    assert std == pytest.approx(STD, abs=0.1 if name == "sample_euler" else 0.01)


def test_churn_within_a_window_of_a_flows_own_levels():
    noisy = {}
    for s_tmax in (0.95, 0.5):
        seen = []
        kdiffusion.sample_euler(
            HostModel(ModelSamplingFlow()), begin(), flow_levels(20), callback=seen.append, disable=True,
            s_churn=4.0, s_tmin=0.3, s_tmax=s_tmax,
        )  # fmt: skip
        noisy[s_tmax] = [float(c["sigma"]) for c in seen if c["sigma_hat"] > c["sigma"] * 1.0001]
    for s_tmax, levels in noisy.items():
        assert levels == [float(s) for s in flow_levels(20) if 0.3 <= s <= s_tmax]


@pytest.mark.parametrize("name", ["sample_dpm_fast", "sample_dpm_adaptive"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_dpm_solver_with_noise_keeps_the_law_of_a_flow(name, eta):
    options = {"n": 99} if name == "sample_dpm_fast" else {"rtol": 0.001, "atol": 0.0001}
    ends = {"sigma_min": 1e-3, "sigma_max": 1.0}

    def draw(x, noise):
        return getattr(kdiffusion, name)(
            HostModel(ModelSamplingFlow()), x, **ends, disable=True, eta=eta, noise_sampler=noise, **options
        )

    mean, std = law(draw, 0.0, 1.0)
    assert mean == pytest.approx(0.999 * MEAN, abs=1e-12)
    assert std == pytest.approx(0.999 * STD, abs=0.05)


@pytest.mark.parametrize("name", [n for n in ON_SIGMAS if n not in [*IN_LOG_SNR, *IN_LEVEL]])
def test_levels_beyond_one_run_as_in_the_host(name):
    """Hosts have nodes that multiply the levels; 1 - sigma is below 0 then, and nothing divides by it."""
    host, _ = new_host()
    x = begin()
    for more in (1.01, 1.1):  # the second level is beyond 1 too: the host's euler_ancestral gives NaN
        sigmas = more * flow_levels(20).double()
        options = {"noise_sampler": in_turn(x)} if name in NOISY else {}
        drawn = getattr(kdiffusion, name)(HostModel(ModelSamplingFlow()), x, sigmas, disable=True, **options)
        assert torch.isfinite(drawn).all()
        if name == "sample_euler_ancestral" and more == 1.01:
            theirs = host.sample_euler_ancestral(HostModel(ModelSamplingFlow()), x, sigmas, noise_sampler=in_turn(x))
            torch.testing.assert_close(drawn, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", IN_LOG_SNR)
def test_levels_beyond_one_have_no_log_snr_and_are_refused(name):
    sample = getattr(kdiffusion, name)
    with pytest.raises(ValueError, match="sigmas: expected levels below 1 after the first"):
        sample(HostModel(ModelSamplingFlow()), begin(), 1.1 * flow_levels(20), disable=True)


@pytest.mark.parametrize("name", IN_LEVEL)
def test_levels_beyond_one_are_no_levels_of_a_flow(name):
    with pytest.raises(ValueError, match="sigmas: expected levels up to 1 for a rectified flow"):
        getattr(kdiffusion, name)(HostModel(ModelSamplingFlow()), begin(), 1.1 * flow_levels(20), disable=True)
