"""Guidance by position and by frequency, the run's past, gradients, and what is done to the noise or the condition."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_cases import PREDICTIONS, from_x0, guided, inner, length, point, random_outputs, random_point, to_x0

import fastdiff as fd
import fastdiff.guidance as fg
from fastdiff.guidance.pyramid import collapse, laplacian_pyramid

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
PLACES = [(2, 3, 17), (2, 4, 8, 8), (2, 4, 9, 6), (1, 2, 5, 7, 1)]
places = pytest.mark.parametrize("shape", PLACES, ids=lambda shape: "x".join(map(str, shape)))


@places
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_bands_of_a_pyramid_add_up_to_the_image(shape, levels):
    x, dims = torch.randn(shape, dtype=torch.float64), range(2, len(shape))
    bands = laplacian_pyramid(x, levels, dims)
    torch.testing.assert_close(collapse(bands, dims), x, **CLOSE)
    assert [band.shape[2] for band in bands] == [math.ceil(shape[2] / 2**k) for k in range(levels)]


@places
def test_a_constant_is_all_in_the_coarsest_band(shape):
    *fine, coarsest = laplacian_pyramid(torch.full(shape, 3.0, dtype=torch.float64), 3, range(2, len(shape)))
    for band in fine:
        torch.testing.assert_close(band, torch.zeros_like(band), **CLOSE)
    torch.testing.assert_close(coarsest, torch.full_like(coarsest, 3.0), **CLOSE)


@places
def test_equal_scales_in_all_bands_are_cfg(shape):
    x, c, u = random_outputs(shape)
    y = guided(fg.FrequencyDecoupled((5, 5, 5)), point(), x, c, u)
    torch.testing.assert_close(y, u + 5 * (c - u), **CLOSE)


@places
@pytest.mark.parametrize("form", ["paper", "diffusers"])
def test_each_band_has_its_own_scale(shape, form):
    x, c, u = random_outputs(shape)
    dims, scales, parallel = range(2, len(shape)), (10.0, 1.0, 4.0), (0.2, 1.0, 0.0)
    expected = []
    bands = (laplacian_pyramid(m, 3, dims) for m in (c, u))
    for g, eta, c_k, u_k in zip(scales, parallel, *bands, strict=True):
        shift = c_k - u_k
        along = inner(shift, c_k) / inner(c_k, c_k) * c_k
        shift = shift - along + eta * along
        expected.append(c_k + (g - 1) * shift if form == "paper" else u_k + g * shift)
    guidance = fg.FrequencyDecoupled(scales, parallel, form)
    torch.testing.assert_close(guided(guidance, point(), x, c, u), collapse(expected, dims), **CLOSE)


def test_a_plain_pyramid_is_the_same_in_every_space():
    x, c, u = random_outputs((2, 4, 8, 8))
    at = random_point("v_prediction")
    expected = guided(fg.FrequencyDecoupled(), at, x, c, u)
    torch.testing.assert_close(guided(fg.FrequencyDecoupled(space="x0"), at, x, c, u), expected, **CLOSE)


@pytest.mark.parametrize("shape", [(2, 3, 64), (2, 4, 24, 31), (2, 4, 6, 44, 10)])
def test_fresca_scales_waves_by_their_frequency(shape):
    guidance = fg.FreSca(3.0, low=0.5, high=2.0, cutoff=4)
    x, _, u = random_outputs(shape)
    place = torch.arange(shape[-2 if len(shape) > 3 else -1], dtype=torch.float64)
    place = place.view(-1, 1) if len(shape) > 3 else place
    for k, factor in ((0, 0.5), (3, 0.5), (5, 2.0), (len(place) // 2 - 1, 2.0)):
        wave = (2 * math.pi * k * place / len(place)).cos().expand(shape)
        y = guided(guidance, point(), x, u + wave, u)
        torch.testing.assert_close(y, u + 3 * factor * wave, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [7, 24, 40])
def test_a_small_latent_has_low_frequencies_only(size):
    x, c, u = random_outputs((2, 4, size, size))
    torch.testing.assert_close(guided(fg.FreSca(3.0), point(), x, c, u), u + 3 * (c - u), **CLOSE)


@pytest.mark.parametrize("limit", [True, False])
@pytest.mark.parametrize(("shape", "dim"), [((2, 4, 8, 8), 1), ((2, 12, 8), -1)])
def test_cfg_norm_keeps_the_norm_of_every_position(shape, dim, limit):
    x, c, u = random_outputs(shape)
    y = u + 4 * (c - u)
    ratio = c.norm(dim=dim, keepdim=True) / y.norm(dim=dim, keepdim=True)
    expected = 0.9 * y * (ratio.clamp(max=1) if limit else ratio)
    guidance = fg.CFGNorm(4.0, 0.9, limit, dim)
    torch.testing.assert_close(guided(guidance, random_point("sample"), x, c, u), expected, **CLOSE)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_cfg_norm_in_x0(prediction):
    x, c, u = random_outputs((2, 4, 8, 8))
    at = random_point(prediction)
    d_c, d_u = to_x0(at, x, c), to_x0(at, x, u)
    d = d_u + 4 * (d_c - d_u)
    d = d * (d_c.norm(dim=1, keepdim=True) / d.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(guided(fg.CFGNorm(4.0, space="x0"), at, x, c, u), from_x0(at, x, d), **CLOSE)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("eta", [1.0, 0.2])
def test_history_leads_away_from_the_mean_of_earlier_predictions(prediction, scale, eta):
    combiner, mean = fg.Combiner(fg.History(0.8, scale, decay=0.3, eta=eta)), None
    for i in range(4):
        x, c, u = random_outputs((3, 4, 8))
        at = random_point(prediction)._replace(i=i)
        d = to_x0(at, x, u + scale * (c - u))
        mean = d if mean is None else mean
        away = d - mean
        away = away - (1 - eta) * inner(away, d) / inner(d, d) * d
        torch.testing.assert_close(combiner(at, x, (c, u)), from_x0(at, x, d + 0.8 * away), **CLOSE)
        mean = 0.7 * mean + 0.3 * d


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_noise_scaling_divides_the_noise(prediction, scale):
    x, c, u = random_outputs((3, 4, 8))
    at = random_point(prediction)

    def noise(m):
        return (x - at.alpha * to_x0(at, x, m)) / at.sigma

    y = guided(fg.NoiseScaling(1.02, scale), at, x, c, u)
    torch.testing.assert_close(noise(y), noise(u + scale * (c - u)) / 1.02, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_classifier_guidance_turns_a_prior_into_its_posterior(prediction):
    """x0 ~ N(0, 1) and y = x0 + N(0, 1) are Gaussian, so E[x0 | x] and E[x0 | x, y] are known."""
    at, y = random_point(prediction), 1.7
    a, s = at.alpha, at.sigma
    x = torch.randn(5, 3, dtype=torch.float64)
    variance = s**2 / (a**2 + s**2)  # of x0 given x
    mean = a * x / (a**2 + s**2)

    def log_prob(x, t):
        return (-((y - a * x / (a**2 + s**2)) ** 2) / (2 * (1 + variance))).sum(1)

    c = from_x0(at, x, mean)
    guidance = fg.ClassifierGuidance(1.0, fg.Gradient(log_prob))
    assert not guidance.needs_uncond
    gradient = guidance.extra[0](x, torch.zeros(5))
    found = to_x0(at, x, guided(guidance, at, x, c, None, gradient))
    posterior = (mean / variance + y) / (1 / variance + 1)
    torch.testing.assert_close(found, posterior, rtol=1e-9, atol=1e-9)


def test_a_gradient_wants_one_number_a_sample():
    with pytest.raises(ValueError, match="log_prob: expected one number for each of the 5 samples"):
        fg.Gradient(lambda x, t: x)(torch.randn(5, 3), torch.zeros(5))


def test_the_condition_is_noise_first_and_clean_last():
    y, noise = torch.randn(2, 3, 7, 5) + 0.5
    assert fg.anneal_condition(y, 0.6, noise) is y
    for t, gamma in ((0.95, 0.0), (0.8, 1 / 3)):
        plain = gamma**0.5 * y + 0.1 * (1 - gamma) ** 0.5 * noise
        torch.testing.assert_close(fg.anneal_condition(y, t, noise, mix=0), plain)
        rescaled = fg.anneal_condition(y, t, noise)
        for statistic in (torch.mean, torch.std):
            torch.testing.assert_close(statistic(rescaled, (1, 2)), statistic(y, (1, 2)))
        torch.testing.assert_close(fg.anneal_condition(y, t, noise, mix=0.5), (plain + rescaled) / 2)


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("of", ["difference", "output"])
def test_reused_outputs_are_exact_on_polynomials_in_the_angle(every, order, of):
    plan = fd.plan("ddim", fd.Schedule.flow(), steps=10, prediction="flow_prediction")
    guidance, made = fg.ReuseUncond(3.0, every, order, of), []
    coefficients = torch.randn(order + 1, dtype=torch.float64).tolist()
    for i, row in enumerate(plan.rows):
        rule = guidance.rule(fg.Point.of(plan, i))
        angle = math.atan2(row.sigma, row.alpha)
        u = sum(c * angle**k for k, c in enumerate(coefficients))
        c = 0.5 + i
        u += c if of == "difference" else 0.0
        if i % every == 0:
            assert rule.calls == (0, 1)
            made.insert(0, u - c if of == "difference" else u)
            continue
        assert rule.calls == (0,)
        assert rule.past == min(order + 1, len(made))
        past = [*made[: rule.past], 0.0, 0.0, 0.0]
        w = rule.weights[0]
        y = w[0] * (c - past[0]) + w[1] * past[0] + sum(w[1 + k] * (past[k] - past[0]) for k in (1, 2))
        if len(made) > order:
            assert y == pytest.approx(u + 3 * (c - u), rel=1e-9, abs=1e-9)


def test_a_fit_finds_how_the_unconditional_outputs_follow_from_others():
    n, shape = 7, (4, 6)
    conds = torch.randn(n, *shape, dtype=torch.float64)
    unconds = [torch.randn(shape, dtype=torch.float64) for _ in range(n)]
    for i in (3, 5):
        unconds[i] = 0.3 * conds[i] + 0.5 * unconds[i - 1] + 0.2 * unconds[i - 3]
    unconds[1] = 0.4 * conds[1] + 0.6 * unconds[0]
    guidance = fg.ReuseUncond.fit(3.0, conds, unconds, of="output")
    assert guidance.coefficients[::2] == ((),) * 4
    torch.testing.assert_close(guidance.coefficients[1], (0.4, 0.6), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guidance.coefficients[3], (0.3, 0.5, 0.2), rtol=1e-9, atol=1e-9)
    plan = fd.plan("ddim", fd.Schedule.flow(), steps=n, prediction="flow_prediction")
    w = guidance.rule(fg.Point.of(plan, 3)).weights[0]
    c, u1, u2 = conds[3], unconds[2], unconds[0]
    y = w[0] * (c - u1) + w[1] * u1 + w[2] * (u2 - u1)
    torch.testing.assert_close(y, c - 2 * (unconds[3] - c), rtol=1e-9, atol=1e-9)


def test_reuse_counts_the_guided_evaluations_only():
    plan = fd.plan("ddim", fd.Schedule.edm(), steps=12, prediction="sample")
    inside = [i for i, row in enumerate(plan.rows) if 0.28 < row.sigma <= 20]
    guidance = fg.ReuseUncond(3.0, interval=(0.28, 20))
    made = [i for i in range(12) if 1 in guidance.rule(fg.Point.of(plan, i)).calls]
    assert made == inside[::2]


def test_adaptive_guidance_stops_once_both_outputs_agree_in_every_sample():
    x, c, u = random_outputs((3, 40))
    for threshold in (0.5, 0.9, 0.99):
        rule = fg.Adaptive(4.0, threshold).rule(point())
        v = torch.stack([c, u, torch.ones_like(c)], dim=1)
        cosine = inner(c, u) / (length(c) * length(u))
        assert rule.stop((v @ v.mT).numpy()) == bool((cosine > threshold).all())
    torch.testing.assert_close(guided(fg.Adaptive(4.0), point(), x, c, u), u + 4 * (c - u), **CLOSE)
