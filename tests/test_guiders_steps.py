"""Which steps are guided, which run a step belongs to, and what a guider learns from the scheduler that it follows."""

from __future__ import annotations

import math
from fractions import Fraction

import diffusers
import pytest
import torch
from guider_cases import Recorder, guided_steps, outputs, step

from fastdiff import guiders
from fastdiff.guiders.guider import Moment, within

SCHEDULERS = {
    "ddim": lambda **options: diffusers.DDIMScheduler(**options),
    "euler": lambda **options: diffusers.EulerDiscreteScheduler(**options),
    "karras": lambda **options: diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, **options),
    "flow": lambda **options: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}
MOMENTUM = {"eta": 0.0, "adaptive_projected_guidance_momentum": -0.5}


def level(scheduler: object, i: int) -> tuple[float, float]:
    """alpha and sigma of the network's input at step i, from the definitions."""
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return 1 - float(scheduler.sigmas[i]), float(scheduler.sigmas[i])
    if isinstance(scheduler, diffusers.DDIMScheduler):
        squared = float(scheduler.alphas_cumprod[scheduler.timesteps[i]])
        return math.sqrt(squared), math.sqrt(1 - squared)
    sigma = float(scheduler.sigmas[i])
    return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)


@pytest.mark.parametrize("n", [1, 4, 7, 20, 100])
def test_windows_are_the_fractions_as_written(n):
    for start, stop in (("0.29", "0.58"), ("0.01", "0.2"), ("0.1", "0.7"), ("0", "0.33"), ("0.07", "1")):
        expected = [i for i in range(n) if Fraction(start) <= Fraction(i, n) < Fraction(stop)]
        guider = guiders.ClassifierFreeGuidance(start=float(start), stop=float(stop))
        assert guided_steps(guider, n) == expected


@pytest.mark.parametrize("n", [3, 7, 49, 100, 1000])
def test_windows_may_begin_and_end_at_fractions_that_are_computed(n):
    for k in range(n):
        inside = [within(Moment(i, n, math.nan), k / n, 1.0) for i in (k - 1, k)]
        assert inside == [False, True]
        assert not within(Moment(k, n, math.nan), 0.0, k / n)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_interval_is_in_sigma_over_alpha(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(9)
    ratios = [s / a if a else math.inf for a, s in (level(scheduler, i) for i in range(9))]
    low, high = ratios[6], ratios[2]
    guider = guiders.ClassifierFreeGuidance(guidance_interval=(low * (1 + 1e-6), high * (1 + 1e-6))).follow(scheduler)
    guided = []
    for i, t in enumerate(scheduler.timesteps):
        guider.set_state(i, 9, t)
        guided += [i] * (guider.num_conditions > 1)
    assert guided == [2, 3, 4, 5]
    copy = guider.new(guidance_scale=2.0)
    copy.set_state(0, 9, scheduler.timesteps[0])
    assert copy.num_conditions == 1


def test_an_interval_needs_a_scheduler():
    with pytest.raises(ValueError, match=r"follow\(scheduler\)"):
        guiders.ClassifierFreeGuidance(guidance_interval=(0.1, 2.0)).set_state(0, 5, torch.tensor(1.0))


def test_preconditioned_networks_are_refused():
    with pytest.raises(ValueError, match="EDMEulerScheduler"):
        guiders.ClassifierFreeGuidance().follow(diffusers.EDMEulerScheduler())


def test_a_timestep_that_the_scheduler_has_not_is_refused():
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="timestep"):
        guiders.ClassifierFreeGuidance().follow(scheduler).set_state(0, 5, torch.tensor(1234.0))


def followed(guider: object, scheduler: object, i: int, x: torch.Tensor, cond: torch.Tensor, uncond: torch.Tensor):
    """One step with a network that is given x."""
    network = Recorder()
    guider.set_state(i, len(scheduler.timesteps), scheduler.timesteps[i])
    batches = guider.prepare_inputs({"text": (cond, uncond)})
    for batch in batches:
        guider.prepare_models(network)
        batch.noise_pred = network(x, batch.text)
        guider.cleanup_models(network)
    assert not network._forward_pre_hooks
    return guider(batches)[0]


@pytest.mark.parametrize("extra_channels", [0, 3])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_projected_guidance_that_follows_a_scheduler_is_algorithm_1_on_x0(prediction, extra_channels):
    flow = prediction == "flow"
    scheduler = SCHEDULERS["flow" if flow else "euler"](**({} if flow else {"prediction_type": prediction}))
    scheduler.set_timesteps(6)
    g, r, eta, beta = 4.0, 3.0, 0.2, -0.5
    guider = guiders.AdaptiveProjectedGuidance(
        g, adaptive_projected_guidance_momentum=beta, adaptive_projected_guidance_rescale=r, eta=eta
    ).follow(scheduler)
    last = torch.zeros(2, 4, 6, 6, dtype=torch.float64)
    for i in range(1, 5):
        (cond, uncond), x = outputs(2, 4, 6, 6), torch.randn(2, 4 + extra_channels, 6, 6, dtype=torch.float64)
        alpha, sigma = level(scheduler, i)
        p_x, p_m = {
            "epsilon": (1 / alpha, -sigma / alpha), "v_prediction": (alpha, -sigma), "sample": (0.0, 1.0),
            "flow": (1.0, -sigma),
        }[prediction]  # fmt: skip
        data, data_u = (p_x * x[:, :4] + p_m * m for m in (cond, uncond))
        last = data - data_u + beta * last
        norm, length = ((t * t).sum((1, 2, 3), keepdim=True) for t in (last, data))
        update = last * (r / norm.sqrt()).clamp(max=1.0)
        parallel = (update * data).sum((1, 2, 3), keepdim=True) / length * data
        guided = data + (g - 1) * (update - parallel + eta * parallel)
        result = followed(guider, scheduler, i, x, cond, uncond)
        torch.testing.assert_close(result, (guided - p_x * x[:, :4]) / p_m, rtol=1e-9, atol=1e-9)


def test_norms_over_channels_act_on_x0_too():
    scheduler = SCHEDULERS["euler"]()
    scheduler.set_timesteps(6)
    (cond, uncond), x = outputs(2, 4, 6, 6), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    guider = guiders.AdaptiveProjectedGuidance(
        4.0, adaptive_projected_guidance_rescale=0.5, eta=0.0, adaptive_projected_guidance_norm_dim=1
    ).follow(scheduler)
    alpha, sigma = level(scheduler, 2)
    data, data_u = ((x - sigma * m) / alpha for m in (cond, uncond))
    update = (data - data_u) * (0.5 / (data - data_u).norm(dim=1, keepdim=True)).clamp(max=1.0)
    update = update - (update * data).sum(1, keepdim=True) / (data * data).sum(1, keepdim=True) * data
    expected = (x - alpha * (data + 3.0 * update)) / sigma
    torch.testing.assert_close(followed(guider, scheduler, 2, x, cond, uncond), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("zero_steps", [0, 3])
def test_zero_star_that_follows_a_scheduler_acts_on_the_velocity(zero_steps):
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(6)
    (cond, uncond), x = outputs(2, 4, 6, 6), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    guider = guiders.ClassifierFreeZeroStarGuidance(4.0, zero_init_steps=zero_steps).follow(scheduler)
    alpha, sigma = level(scheduler, 2)
    v, v_u = (m - (x - sigma * m) / alpha for m in (cond, uncond))
    share = ((v * v_u).sum((1, 2, 3)) / (v_u * v_u).sum((1, 2, 3))).view(2, 1, 1, 1)
    velocity = 0 * v if zero_steps else share * v_u + 4.0 * (v - share * v_u)
    expected = (x + alpha * velocity) / (alpha + sigma)  # eps from x = alpha x0 + sigma eps, v = eps - x0
    torch.testing.assert_close(followed(guider, scheduler, 2, x, cond, uncond), expected, rtol=1e-9, atol=1e-9)


def test_what_acts_on_x0_says_when_it_has_not_seen_the_network():
    scheduler = SCHEDULERS["euler"]()
    scheduler.set_timesteps(5)
    guider = guiders.AdaptiveProjectedGuidance().follow(scheduler)
    with pytest.raises(ValueError, match="has seen no call"):
        step(guider, 0, 5, outputs(1, 4, 4, 4), float(scheduler.timesteps[0]))
    with pytest.raises(ValueError, match="begin with x"):
        followed(guider, scheduler, 0, torch.ones(1, 2, 4, 4), *outputs(1, 4, 4, 4))


@pytest.mark.parametrize("second", [range(3, 8), range(5), [0]])
@pytest.mark.parametrize("options", [MOMENTUM, {**MOMENTUM, "adaptive_projected_guidance_norm_dim": 1}])
def test_a_run_does_not_inherit_momentum(options, second):
    predictions = [outputs(2, 4, 4, 4) for _ in range(8)]
    guider, fresh = (guiders.AdaptiveProjectedGuidance(**options) for _ in range(2))
    n = 1 if second == [0] else 8
    for i in range(n if n == 1 else 2):
        step(guider, i, n, predictions[i])
    for i in second:
        assert torch.equal(step(guider, i, n, predictions[i]), step(fresh, i, n, predictions[i]))


def test_momentum_is_kept_from_step_to_step():
    predictions = [outputs(1, 4, 4, 4) for _ in range(2)]
    with_momentum, without = guiders.AdaptiveProjectedGuidance(**MOMENTUM), guiders.AdaptiveProjectedGuidance(eta=0.0)
    first = [step(guider, 0, 8, predictions[0]) for guider in (with_momentum, without)]
    second = [step(guider, 1, 8, predictions[1]) for guider in (with_momentum, without)]
    torch.testing.assert_close(*first)
    assert (second[0] - second[1]).abs().max() > 0.1


def test_settings_may_change_within_a_run():
    predictions = outputs(1, 4, 4, 4)
    guider = guiders.ClassifierFreeGuidance(3.0)
    step(guider, 0, 4, predictions)
    guider.guidance_scale = 5.0
    assert torch.equal(step(guider, 1, 4, predictions), step(guiders.ClassifierFreeGuidance(5.0), 1, 4, predictions))


def test_between_runs_a_guider_asks_for_all_that_a_run_may_need():
    guider = guiders.ClassifierFreeGuidance(start=0.5, stop=0.75)
    assert guider.num_conditions == 2
    for i, during in enumerate((1, 1, 2, 1)):
        guider.set_state(i, 4, torch.tensor(1.0))
        assert guider.num_conditions == during
        batches = guider.prepare_inputs({"text": (torch.zeros(1), torch.ones(1))})
        for batch in batches:
            batch.noise_pred = torch.ones(1, 2)
        guider(batches)
        assert guider.num_conditions == 2


def test_a_window_is_kept_where_forward_is_called_by_hand():
    cond, uncond = outputs(1, 4)
    guider = guiders.ClassifierFreeGuidance(3.0, stop=0.5)
    for i, guided in enumerate((True, True, False, False)):
        guider.set_state(i, 4, torch.tensor(1.0))
        expected = uncond + 3.0 * (cond - uncond) if guided else cond
        torch.testing.assert_close(guider.forward(cond, uncond).pred, expected)
