"""Each line of the table of deviations in fastdiff.schedulers: what diffusers does, and what is done here."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from in_double import scheduler_modules
from scheduler_loops import QUICK, LMSFromAnyStep, loop, model, start, with_variance
from scheduler_protocols import DIRECT, OWN, PROTOCOLS, make

import fastdiff as fd
from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
OWN_TIMES = (
    "SchedulerMixin",
    *OWN,
    "FlowMapEulerDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler",
)  # whose set_timesteps is diffusers' own
VP = fd.Schedule.from_betas(torch.linspace(0.0001, 0.02, 1000, dtype=torch.float32).double().numpy())


def final(library: object, name: str, options: dict, n: int, **step: object) -> torch.Tensor:
    scheduler = getattr(library, name)(**options)
    scheduler.set_timesteps(n)
    return loop(scheduler, **step)[0]


def squared_log_snr(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.full_like(x, float(VP.log_snr(np.float64(float(t)))) ** 2)


def mean_error(library: object, name: str, **options: object) -> float:
    """Of the SDE's mean where x0 = lambda^2, whose solution is known: alpha (l^2 - l + 1/2) and what is left of x."""
    scheduler = getattr(library, name)(
        solver_order=3, algorithm_type="sde-dpmsolver++", solver_type="heun", prediction_type="sample",
        final_sigmas_type="sigma_min", **options,
    )  # fmt: skip
    scheduler.set_timesteps(60)
    x = first = start(scheduler)
    for t in scheduler.timesteps:
        x = scheduler.step(squared_log_snr(x, t), t, x, return_dict=False)[0]
    s_0, s_1 = (float(scheduler.sigmas[i]) for i in (0, -1))
    (a_0, v_0), (a_1, v_1) = ((1 / np.hypot(1, s), s / np.hypot(1, s)) for s in (s_0, s_1))
    settled = [a * (np.log(s) ** 2 + np.log(s) + 0.5) for a, s in ((a_0, s_0), (a_1, s_1))]
    exact = v_1 / v_0 * (s_1 / s_0) * (first - settled[0]) + settled[1]
    return float((x - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_the_third_order_sde_has_the_integrals_sign(name, monkeypatch):
    for module in scheduler_modules():
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **how: torch.zeros(shape), raising=False)
    assert mean_error(diffusers, name) > 0.2
    assert mean_error(schedulers, name) < 0.1


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"},
            UnboundLocalError,
        ),
        (
            "EDMDPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            UnboundLocalError,
        ),
        (
            "DPMSolverMultistepInverseScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            AssertionError,
        ),
        (
            "DPMSolverSinglestepScheduler",
            {"algorithm_type": "dpmsolver", "thresholding": True, "final_sigmas_type": "sigma_min"},
            RuntimeError,
        ),
        ("UniPCMultistepScheduler", {"solver_order": 3, "lower_order_final": False}, RuntimeError),
    ],
)
def test_what_crashes_in_diffusers_runs(name, options, error):
    with pytest.raises(error):
        final(diffusers, name, options, 10)
    assert final(schedulers, name, options, 10).isfinite().all()


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["Multistep", "MultistepInverse", "Singlestep"])
def test_of_an_output_with_a_variance_the_predictions_half_is_taken(name, prediction):
    options = {"prediction_type": prediction, "variance_type": "learned_range"}
    with pytest.raises(RuntimeError):
        final(diffusers, f"DPMSolver{name}Scheduler", options, 5, network=with_variance)
    alone = final(schedulers, f"DPMSolver{name}Scheduler", options, 5)
    assert torch.equal(final(schedulers, f"DPMSolver{name}Scheduler", options, 5, network=with_variance), alone)


@pytest.mark.parametrize(
    ("name", "options", "n"),
    [
        ("DPMSolverMultistepScheduler",
         {"solver_type": "heun", "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, 20),
        ("DPMSolverMultistepInverseScheduler", {"algorithm_type": "sde-dpmsolver++"}, 10),
        ("EDMDPMSolverMultistepScheduler", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}, 20),
        ("UniPCMultistepScheduler", {"solver_type": "bh1"}, 10),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, 5),
    ],
)  # fmt: skip
def test_what_is_nan_in_diffusers_is_a_number(name, options, n):
    assert not final(diffusers, name, options, n).isfinite().all()
    assert final(schedulers, name, options, n).isfinite().all()


def test_the_third_order_midpoint_has_its_own_middle_stage():
    """On a grid uniform in lambda the stages are the algorithm's: fastdiff's own singlestep solver, of algorithm 5."""
    options = {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min", "lower_order_final": False}
    times, levels = uniform_in_lambda(9)
    plan = fd.plan("dpmpp_3s", VP, sigmas=levels[::3], correction="midpoint", prediction="epsilon")
    right = fd.sample(lambda x, t: model(x, t[:1]), plan, start(None, dtype=torch.float64))
    gaps = {}
    for library in (schedulers, diffusers):
        scheduler = library.DPMSolverSinglestepScheduler(solver_order=3, **options)
        scheduler.set_timesteps(9)
        scheduler.sigmas, scheduler.timesteps = torch.from_numpy(levels), torch.from_numpy(times)
        x = loop(scheduler, dtype=torch.float64)[0]
        gaps[library] = float((x - right).abs().max() / right.abs().max())
    assert gaps[schedulers] < 1e-6 < 1e-4 < gaps[diffusers]


def uniform_in_lambda(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(times, n + 1 noise levels)."""
    log_snr = np.linspace(float(VP.log_snr(999.0)), float(VP.log_snr(0.0)), n + 1)
    return VP.t_of_log_snr(log_snr[:-1]), np.exp(-log_snr)


def test_pndm_turns_each_v_into_its_noise():
    """A model that knows the noise leads to the same image whether it says it as epsilon or as v."""
    noise = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(2))
    images = {}
    for library in (schedulers, diffusers):
        for prediction in ("epsilon", "v_prediction"):
            scheduler = library.PNDMScheduler(skip_prk_steps=True, prediction_type=prediction)
            scheduler.set_timesteps(10)
            x = start(scheduler)
            for t in scheduler.timesteps:
                alpha = float(scheduler.alphas_cumprod[int(t)]) ** 0.5
                sigma = (1 - alpha**2) ** 0.5
                eps = noise * (1 + 0.3 * torch.sin(x) + float(t) / 1000)
                m = eps if prediction == "epsilon" else (eps - sigma * x) / alpha
                x = scheduler.step(m, t, x, return_dict=False)[0]
            images[library, prediction] = x
    gaps = {
        library: float((images[library, "epsilon"] - images[library, "v_prediction"]).abs().max())
        for library in (schedulers, diffusers)
    }
    assert gaps[schedulers] < 1e-3 < gaps[diffusers]


def gaussian_error(library: object, begin: int, n: int = 40) -> float:
    """Of PNDM with Runge-Kutta steps from number `begin` on, where the data are N(0, 1/4): the flow's map is known."""
    scheduler = library.PNDMScheduler(set_alpha_to_one=True)
    scheduler.set_timesteps(n)
    alphas = scheduler.alphas_cumprod.double()
    spread = (0.25 * alphas + 1 - alphas).sqrt()
    first = x = start(scheduler, dtype=torch.float64)
    times = scheduler.timesteps[begin:]
    for t in times:
        x = scheduler.step((1 - alphas[t]).sqrt() * x / spread[t] ** 2, t, x, return_dict=False)[0]
    exact = first * 0.5 / spread[times[0]]
    return float((x - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("begin", [0, 1, 4, 7, 10, 12, 20])
def test_pndm_begins_its_runge_kutta_steps_at_the_time_it_is_at(begin):
    assert gaussian_error(schedulers, begin) < 2e-3
    assert begin < 10 or gaussian_error(diffusers, begin) > 0.05


def test_lms_begins_in_the_middle_with_the_outputs_it_has():
    images = {}
    for kind in (schedulers.LMSDiscreteScheduler, LMSFromAnyStep, diffusers.LMSDiscreteScheduler):
        scheduler = kind()
        scheduler.set_timesteps(10)
        images[kind], largest = loop(scheduler, begin=3)
    ours, right, wrong = images.values()
    assert float((ours - right).abs().max()) < 1e-5 * largest < 1e-3 * largest < float((ours - wrong).abs().max())


def test_sigmas_of_edm_are_noise_levels():
    ours, theirs = schedulers.EDMEulerScheduler(), diffusers.EDMEulerScheduler()
    ours.set_timesteps(12)
    by_number, levels = loop(ours)[0], ours.sigmas.clone()
    ours.set_timesteps(sigmas=levels.tolist())
    assert torch.equal(ours.sigmas, levels)
    torch.testing.assert_close(loop(ours)[0], by_number)
    ours.set_timesteps(sigmas=[80.0, 9.0, 1.0, 0.1, 0.0])
    assert ours.sigmas.tolist() == pytest.approx([80.0, 9.0, 1.0, 0.1, 0.0])
    theirs.set_timesteps(sigmas=torch.tensor([80.0, 9.0, 1.0, 0.1]))
    assert float(theirs.sigmas[0]) < 0


def test_epsilon_says_nothing_at_zero_signal():
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    assert not final(diffusers, "DDIMScheduler", options, 5).isfinite().all()
    with pytest.raises(ValueError, match="zero signal-to-noise ratio"):
        final(schedulers, "DDIMScheduler", options, 5)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep"])
def test_mu_shifts_one_run_and_leaves_the_configuration(name):
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    ours = getattr(schedulers, f"{name}Scheduler")(**options)
    ours.set_timesteps(6, mu=0.8)
    with pytest.raises(AssertionError):
        getattr(diffusers, f"{name}Scheduler")(**options).set_timesteps(6, mu=0.8)
    theirs = getattr(diffusers, f"{name}Scheduler")(use_dynamic_shifting=True, **options)
    theirs.set_timesteps(6, mu=0.8)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)
    assert ours.config.flow_shift == 1.0


def test_bad_calls_name_the_argument():
    scheduler = schedulers.DPMSolverMultistepScheduler()
    x = start(scheduler)
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.step(x, 0, x)
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[0]
    with pytest.raises(ValueError, match="model_output: expected shape"):
        scheduler.step(x[:, :2], t, x)
    with pytest.raises(TypeError, match="sample: expected float32"):
        scheduler.step(x.long(), t, x.long())
    with pytest.raises(ValueError, match="expected one of them"):
        schedulers.UniPCMultistepScheduler().set_timesteps(timesteps=[5, 3], sigmas=[2.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="timesteps: expected times from 0 to 999"):
        schedulers.UniPCMultistepScheduler().set_timesteps(timesteps=[1000, 3])
    tcd = schedulers.TCDScheduler()
    tcd.set_timesteps(4)
    with pytest.raises(ValueError, match="eta: expected a number in"):
        tcd.step(x, tcd.timesteps[0], x, eta=1.5)
    stochastic = schedulers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    stochastic.set_timesteps(4)
    with pytest.raises(ValueError, match="variance_noise: expected shape"):
        stochastic.step(x, stochastic.timesteps[0], x, variance_noise=x[:1])
    euler = schedulers.EulerDiscreteScheduler()
    euler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep: expected an element"):
        euler.step(x, 3, x)
    with pytest.raises(IndexError, match="timestep: expected one of"):
        euler.step(x, torch.tensor(3.5), x)


@pytest.mark.parametrize("name", ["UniPCMultistep", "DEISMultistep", "EulerAncestralDiscrete"])
def test_given_timesteps_and_sigmas_are_the_same_run_as_by_their_number(name):
    """diffusers has no such argument in these classes."""
    scheduler = getattr(schedulers, f"{name}Scheduler")(timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    times, levels = scheduler.timesteps.tolist(), scheduler.sigmas.tolist()
    counted = loop(scheduler)[0]
    for given in ({"timesteps": times}, {"sigmas": levels}):
        scheduler.set_timesteps(**given)
        torch.testing.assert_close(loop(scheduler)[0], counted, rtol=1e-4, atol=1e-4)


def test_configurations_and_types_are_diffusers_own(tmp_path):
    for name in (n for n in schedulers.__all__ if hasattr(diffusers, n) and n != "SchedulerMixin"):
        theirs, cls = made(diffusers, name), getattr(schedulers, name)
        ours = cls.from_config(theirs.config)
        assert isinstance(ours, type(theirs))
        assert {**ours.config} == {**theirs.config}
        ours.save_pretrained(tmp_path / name)
        assert {**cls.from_pretrained(tmp_path / name).config} == {
            **getattr(diffusers, name).from_pretrained(tmp_path / name).config
        }
    assert model(start(theirs), 0.5).shape == (2, 3, 6, 5)


def made(library: object, name: str) -> object:
    return make(library, name) if name in PROTOCOLS else getattr(library, name)(**QUICK.get(name, {}))


@pytest.mark.parametrize(
    "name", [n for n in schedulers.__all__ if hasattr(diffusers, n) and n not in (*OWN_TIMES, *DIRECT)]
)
def test_every_class_takes_times_levels_and_mu(name):
    """The levels s fall to 0, or on flow schedules from 1 without their end; the inverses rise."""
    flow, inverse = name.startswith("Flow"), "Inverse" in name
    times = {"CMS": [30, 10, 2], "EDM": [1.0, 0.4, -0.3], "Cos": [0.9, 0.5, 0.2], "IPN": [0.9, 0.6, 0.3]}.get(
        name[:3], [900, 500, 100]
    )
    levels = [1.0, 0.7, 0.2] if flow else [0.2, 1.0, 4.0, 9.0] if inverse else [9.0, 4.0, 1.0, 0.0]
    options = {"noise_sampler_seed": 1} if name == "DPMSolverSDEScheduler" else {}
    options |= {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(schedulers, name)(**options)
    for given in ({"timesteps": times[::-1] if inverse else times}, {"sigmas": levels}):
        scheduler.set_timesteps(**given)
        evaluations = 2 * 3 - 1 if scheduler.order == 2 else 4 if name == "PNDMScheduler" else 3
        assert len(scheduler.timesteps) == evaluations
        assert loop(scheduler)[0].isfinite().all()
    scheduler.set_timesteps(3, mu=0.7)
    assert loop(scheduler)[0].isfinite().all()


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "DPMSolverMultistepInverse", "DEISMultistep", "UniPCMultistep"])
def test_two_equal_times_are_nan_in_diffusers(name):
    """timesteps 500 come twice among a thousand; the other half is in test_schedulers_times."""
    image = final(schedulers, f"{name}Scheduler", {}, 1000)
    assert image.isfinite().all()
    assert not final(diffusers, f"{name}Scheduler", {}, 1000).isfinite().all()


def test_diffusers_leaves_out_the_first_of_nine_equal_times():
    options = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
    with pytest.raises(IndexError):
        final(diffusers, "DPMSolverMultistepScheduler", options, 20)
    assert final(schedulers, "DPMSolverMultistepScheduler", options, 20).isfinite().all()


def test_one_step_of_a_stretched_flow_is_nan_in_diffusers():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)
    theirs.set_timesteps(1)
    assert theirs.sigmas[0].isnan()
    ours = schedulers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)
    ours.set_timesteps(1)
    assert ours.sigmas.tolist() == [1.0, 0.0]


def test_ancestral_middles_are_nan_in_diffusers_where_squares_cancel():
    theirs = diffusers.KDPM2AncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2")
    theirs.set_timesteps(4)
    assert theirs.timesteps.isnan().any()
    ours = schedulers.KDPM2AncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2")
    ours.set_timesteps(4)
    torch.testing.assert_close(ours.timesteps[1::2], ours.timesteps[2::2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_thresholds_without_signal_are_those_of_a_little_signal(name):
    options = {"timestep_spacing": "trailing", "thresholding": True, "sample_max_value": 1.5}
    assert not final(diffusers, name, {**options, "rescale_betas_zero_snr": True}, 5).isfinite().all()
    ours = getattr(schedulers, name)(**options, rescale_betas_zero_snr=True)
    images = []
    for least in (0.0, 1e-12):
        ours.alphas_cumprod = ours.alphas_cumprod.double().clamp(min=least)
        ours.set_timesteps(5)
        images.append(loop(ours)[0])
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)


def test_clean_data_have_infinite_noise_in_diffusers_for_a_model_of_data():
    images = []
    for library in (schedulers, diffusers):
        scheduler = library.DDIMInverseScheduler(prediction_type="sample")
        scheduler.set_timesteps(5)
        x = start(scheduler)
        images.append(scheduler.step(model(x, 0.0), scheduler.timesteps[0], x).prev_sample)
    assert images[0].isfinite().all()
    assert images[1].isinf().any()


def test_a_pass_of_ipndm_that_is_begun_anew_has_no_outputs_yet():
    equal = {}
    for library in (schedulers, diffusers):
        scheduler = library.IPNDMScheduler()
        scheduler.set_timesteps(10)
        first = loop(scheduler)[0]
        scheduler._step_index = None
        equal[library] = torch.equal(first, loop(scheduler)[0])
    assert equal[schedulers]
    assert not equal[diffusers]


def test_unipcs_corrector_has_the_order_that_is_set_when_it_corrects():
    """With solver_order=1 set before step 3 the last steps are UniPC's of order 1 throughout, from that history on."""
    images = {}
    for library in (schedulers, diffusers):
        scheduler = library.UniPCMultistepScheduler(final_sigmas_type="sigma_min")
        scheduler.set_timesteps(6)
        x = start(scheduler)
        for i, t in enumerate(scheduler.timesteps):
            scheduler.config.solver_order = 1 if i >= 3 else 2
            x = scheduler.step(model(x, t), t, x).prev_sample
        images[library] = x
    gap = (images[schedulers] - images[diffusers]).abs().max() / images[diffusers].abs().max()
    assert 1e-5 < float(gap) < 1e-2
