"""Losses of training: their minimisers are posterior means, and one loss is another's with other weights."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff import demo, training
from fastdiff.demo.catalogue import KINDS
from fastdiff.demo.losses import denoising_loss
from fastdiff.plans.prediction import PREDICTIONS, mixture
from fastdiff.training.losses import loss
from fastdiff.training.weightings import edm, likelihood, min_snr, snr

SCHEDULES = {
    "cosine": fd.Schedule.cosine(),
    "vp": fd.Schedule.vp(),
    "edm": fd.Schedule.edm(),
    "flow": fd.Schedule.flow(shift=3.0),
    "zero snr": fd.Schedule.scaled_linear().zero_terminal_snr(),
    "backwards": fd.Schedule.from_functions(lambda t: t, lambda t: 1 - t, 1.0, 0.0),
}
WEIGHTINGS = {"none": None, "snr": snr, "min-snr": min_snr(), "edm": edm(), "likelihood": likelihood}
MEAN, SPREAD = 0.7, 0.4  # of Gaussian data


def times_inside(schedule, count):
    """Random times at which no weight is extreme."""
    return torch.from_numpy(schedule.t_of_log_snr(np.random.default_rng().uniform(-2, 2, count)))


def as_prediction(prediction, schedule, denoise):
    """A model of this prediction whose data are denoise(x, alpha, sigma)."""

    def model(x, t):
        found = []
        for row, time in zip(x, t.tolist(), strict=True):
            point = schedule.at(time)
            alpha, sigma = float(point.alpha), float(point.sigma)
            data = denoise(row, alpha, sigma)
            a, b = mixture(prediction, alpha, sigma)
            found.append(a * (row - alpha * data) / sigma + b * data)
        return torch.stack(found)

    return model


def gaussian(row, alpha, sigma):
    """E[x0 | x] of data N(MEAN, SPREAD^2)."""
    return MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (row - alpha * MEAN)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_posterior_mean_has_gradient_zero(name, prediction, weighting):
    """Exact: the loss is of second degree in x0 and noise, whose means three nodes of Gauss and Hermite give."""
    schedule = SCHEDULES[name]
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x0, noise = (torch.from_numpy(part).reshape(-1, 1) for part in np.meshgrid(MEAN + SPREAD * nodes, nodes))
    share = torch.from_numpy(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    t = times_inside(schedule, 1).expand(9)
    exact = as_prediction(prediction, schedule, gaussian)
    bend = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)

    each = loss(
        lambda x, t: bend[0] * exact(x, t) + bend[1],
        schedule,
        x0,
        prediction=prediction,
        t=t,
        noise=noise,
        weighting=WEIGHTINGS[weighting],
        reduction="none",
    )
    total = (share * each).sum()
    (slope,) = torch.autograd.grad(total, bend)
    assert slope.abs().max() < 1e-6 * total.detach()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_weighting_means_the_same_for_every_prediction(name):
    schedule = SCHEDULES[name]
    x0, noise, t = torch.randn(5, 3).double(), torch.randn(5, 3).double(), times_inside(schedule, 5)
    options = {"t": t, "noise": noise, "weighting": min_snr(2.0), "reduction": "none"}

    def denoise(row, alpha, sigma):
        return torch.tanh(row) + alpha - sigma

    found = [loss(as_prediction(p, schedule, denoise), schedule, x0, prediction=p, **options) for p in PREDICTIONS]
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-5, atol=0)


def weight_of(prediction, schedule, t, weighting):
    """Of the prediction's squared error: a model that is wrong by 1."""
    x0 = torch.zeros(len(t), 1, dtype=torch.float64)
    noise = torch.zeros_like(x0)
    return loss(
        lambda x, t: torch.ones_like(x),
        schedule,
        x0,
        prediction=prediction,
        t=t,
        noise=noise,
        weighting=weighting,
        reduction="none",
    )


def test_min_snr_is_the_papers_for_each_prediction():
    schedule = SCHEDULES["cosine"]
    t = times_inside(schedule, 20)
    ratio = torch.from_numpy(np.exp(2 * schedule.log_snr(t.numpy())))
    least = ratio.clamp(max=5.0)
    for prediction, expected in (
        ("epsilon", least / ratio),
        ("sample", least),
        ("v_prediction", least / (ratio + 1)),
    ):
        torch.testing.assert_close(weight_of(prediction, schedule, t, min_snr()), expected, rtol=1e-5, atol=0)


def test_the_likelihoods_weight_of_the_score_is_half_the_diffusion_coefficient():
    """g^2 = beta(t) where the variance is preserved (Song et al. 2021, eq. 32), d sigma^2 / dt where it explodes."""
    vp, edm_schedule = fd.Schedule.vp(0.1, 20.0), SCHEDULES["edm"]
    t = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    torch.testing.assert_close(weight_of("score", vp, t, likelihood), (0.1 + 19.9 * t) / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(weight_of("score", edm_schedule, 20 * t, likelihood), 20 * t, rtol=1e-2, atol=0)


def test_score_matching_is_the_noises_loss():
    schedule, x0, noise = SCHEDULES["vp"], torch.randn(6, 2), torch.randn(6, 2)
    options = {"t": times_inside(schedule, 6), "noise": noise}
    sigma = torch.from_numpy(schedule.sigma(options["t"].numpy())).float()[:, None]
    said = torch.randn(6, 2)
    score = training.score_loss(lambda x, t: -said / sigma, schedule, x0, **options)
    epsilon = training.epsilon_loss(lambda x, t: said, schedule, x0, **options)
    torch.testing.assert_close(score, epsilon, rtol=1e-5, atol=0)


def test_edms_loss_is_that_of_its_network():
    """|D - x0|^2 / c_out^2 = |F - (x0 - c_skip x) / c_out|^2 (Karras et al. 2022, eq. 8)."""
    schedule, x0, noise, data = SCHEDULES["edm"], torch.randn(7, 3), torch.randn(7, 3), 0.5
    sigma = training.log_normal(schedule, torch.rand(7))[:, None]
    x, total = x0 + sigma * noise, (sigma**2 + data**2).sqrt()
    skip, out, said = data**2 / total**2, sigma * data / total, torch.randn(7, 3)
    expected = (said - (x0 - skip * x) / out).square().mean()
    options = {"t": sigma[:, 0], "noise": noise, "sigma_data": data}
    found = training.edm_loss(lambda x, t: skip * x + out * said, schedule, x0, **options)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_by_name_are_that_prediction(prediction):
    name = prediction.removesuffix("_prediction").replace("sample", "data")
    schedule, x0 = SCHEDULES["flow"], torch.randn(4, 2)
    options = {"t": times_inside(schedule, 4), "noise": torch.randn(4, 2)}
    own = getattr(training, f"{name}_loss")(lambda x, t: x, schedule, x0, **options)
    weighting = snr if prediction == "score" else None
    assert own == loss(lambda x, t: x, schedule, x0, prediction=prediction, weighting=weighting, **options)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noised_data_and_their_target_are_the_forward_process(name):
    schedule = SCHEDULES[name]
    x0, noise, t = torch.randn(3, 2, 4).double(), torch.randn(3, 2, 4).double(), times_inside(schedule, 3)
    x = training.noised(schedule, x0, t, noise)
    for i, time in enumerate(t.tolist()):
        alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
        torch.testing.assert_close(x[i], alpha * x0[i] + sigma * noise[i])
        for prediction in PREDICTIONS:
            a, b = mixture(prediction, alpha, sigma)
            wanted = training.target(schedule, prediction, x0, t, noise)[i]
            torch.testing.assert_close(wanted, a * noise[i] + b * x0[i])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_at_both_ends(name, weighting):
    schedule = SCHEDULES[name]
    t = torch.tensor([schedule.least_time("flow_prediction"), schedule.t_max])
    each = weight_of("flow_prediction", schedule, t, WEIGHTINGS[weighting])
    assert each.isfinite().all()
    assert (each >= 0).all()


# The contract.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_model_gets_the_datas_dtype_and_the_loss_is_of_float32_at_least(dtype):
    seen = []

    def model(x, t):
        seen.append((x.dtype, t.dtype))
        return x

    found = training.v_loss(model, SCHEDULES["cosine"], torch.randn(4, 2, 3).to(dtype))
    assert seen == [(dtype, torch.float32)]
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_generator_makes_times_and_noise_the_same_again():
    def draw():
        generator = torch.Generator().manual_seed(3)
        return training.flow_loss(lambda x, t: t[:, None] * x, SCHEDULES["flow"], x0, generator=generator)

    x0 = torch.randn(8, 3)
    assert draw() == draw()


def test_conditions_reach_the_model_and_outputs_may_be_objects():
    def model(x, t, y, scale):
        assert y.tolist() == [1, 2]
        return types.SimpleNamespace(sample=scale * x)

    schedule, x0 = SCHEDULES["cosine"], torch.zeros(2, 1)
    found = training.v_loss(model, schedule, x0, y=torch.tensor([1, 2]), scale=0.0, reduction="none", noise=x0)
    assert found.tolist() == [0, 0]


def test_samples_may_be_numbers():
    assert training.flow_loss(lambda x, t: x, SCHEDULES["flow"], torch.randn(5)).ndim == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"prediction": "noise"}, ValueError, "prediction: expected one of epsilon"),
        ({"reduction": "sum"}, ValueError, "reduction: expected 'mean' or 'none', got 'sum'"),
        ({"t": torch.zeros(3)}, ValueError, r"t: expected shape \(2,\)"),
        ({"t": 0.3}, TypeError, "t: expected times"),
        ({"noise": torch.zeros(2)}, ValueError, "noise: expected shape"),
        ({"x0": torch.zeros(2, 1, dtype=torch.int64)}, TypeError, "x0: expected float32"),
        ({"schedule": "cosine"}, TypeError, "schedule: expected a fastdiff.Schedule"),
        ({"model": lambda x, t: x[:1]}, ValueError, "model: expected an output of shape"),
    ],
)
def test_what_is_wrong_is_named(options, error, words):
    right = {"model": lambda x, t: x, "schedule": SCHEDULES["cosine"], "x0": torch.zeros(2, 1)}
    with pytest.raises(error, match=words):
        loss(**{**right, **options})


# The demo.


@pytest.mark.parametrize("name", ["digits", "mnist", "latent", "colour"])
def test_the_demos_loss_is_its_formula_to_the_bit(name):
    """Its shipped weights came from this arithmetic in float32."""
    net, kind = demo.network(name), KINDS[name]
    x0, schedule = net.examples[:5], kind.schedule
    seed = int(torch.randint(2**31, ()))
    torch.manual_seed(seed)
    found = denoising_loss(net.model, kind, x0)

    torch.manual_seed(seed)
    u = (torch.arange(5) + torch.rand(5)) / 5
    if schedule.kind == "ve":
        t = torch.exp(-1.2 + 1.2 * torch.special.ndtri(u)).clamp(schedule.t_min, schedule.t_max)
    elif schedule.kind == "flow":
        t = torch.from_numpy(schedule.shift_time(u.double().numpy())).float()
    else:
        t = schedule.t_max * u
    point, eps = schedule.at(t.double().numpy()), torch.randn_like(x0)
    alpha, sigma = (torch.from_numpy(value).float().reshape(-1, 1, 1, 1) for value in (point.alpha, point.sigma))
    wanted = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0, "flow_prediction": eps - x0}
    square = (net.model(alpha * x0 + sigma * eps, t) - wanted[net.prediction]).square()
    if schedule.kind == "ve":
        data = float(net.model.sigma_data)
        weight = (t.square() + data**2) / (t * data).square()
        assert found == (weight * square.flatten(1).mean(1)).mean()
    else:
        assert found == square.mean()
