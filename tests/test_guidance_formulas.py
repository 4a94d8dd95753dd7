"""Each method's weights, from the Gram matrix, give the formula of its paper, written out sample by sample."""

from __future__ import annotations

import pytest
import torch
from guidance_cases import (
    PREDICTIONS,
    SHAPES,
    from_x0,
    guided,
    inner,
    length,
    random_outputs,
    random_point,
    to_x0,
)

import fastdiff.guidance as fg

shapes = pytest.mark.parametrize("shape", SHAPES, ids=["vectors", "tokens", "images", "video"])
predictions = pytest.mark.parametrize("prediction", PREDICTIONS)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def std(a: torch.Tensor) -> torch.Tensor:
    return a.flatten(1).std(1).view(-1, *[1] * (a.ndim - 1))


@shapes
def test_cfg_extrapolates_from_the_unconditional_output(shape):
    x, c, u = random_outputs(shape)
    scale = 8 * torch.rand(len(x), dtype=torch.float64)
    at = random_point("epsilon")
    torch.testing.assert_close(guided(fg.CFG(7.5), at, x, c, u), u + 7.5 * (c - u), **CLOSE)
    expected = u + scale.view(-1, *[1] * (x.ndim - 1)) * (c - u)
    torch.testing.assert_close(guided(fg.CFG(scale), at, x, c, u), expected, **CLOSE)


@shapes
@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescale_brings_the_standard_deviation_back(shape, phi):
    x, c, u = random_outputs(shape)
    y = u + 5 * (c - u)
    expected = phi * y * std(c) / std(y) + (1 - phi) * y
    torch.testing.assert_close(guided(fg.CFG(5, phi), random_point("v_prediction"), x, c, u), expected, **CLOSE)


@predictions
def test_rescale_acts_in_the_space_that_is_named(prediction):
    x, c, u = random_outputs((2, 4, 8, 8))
    at = random_point(prediction)
    d_c, d_u = to_x0(at, x, c), to_x0(at, x, u)
    d = d_u + 5 * (d_c - d_u)
    expected = from_x0(at, x, 0.7 * d * std(d_c) / std(d) + 0.3 * d)
    torch.testing.assert_close(guided(fg.CFG(5, 0.7, space="x0"), at, x, c, u), expected, **CLOSE)


def apg(d, c, scale, norm, eta):
    """U of Sadat et al., Algorithm 1, with the momentum in d already."""
    d = d * (norm / length(d)).clamp(max=1)
    unit = c / length(c)
    parallel = inner(d, unit) * unit
    return d - parallel + eta * parallel


@shapes
@predictions
@pytest.mark.parametrize("momentum", [None, -0.5])
def test_apg_projects_in_x0(shape, prediction, momentum):
    guidance = fg.APG(6.0, norm=2.5, eta=0.3, momentum=momentum)
    combiner, state = fg.Combiner(guidance), 0
    for _ in range(3):
        x, c, u = random_outputs(shape)
        at = random_point(prediction)
        d_c, d_u = to_x0(at, x, c), to_x0(at, x, u)
        state = d_c - d_u + (momentum or 0) * state
        expected = from_x0(at, x, d_c + 5 * apg(state, d_c, 6, 2.5, 0.3))
        torch.testing.assert_close(combiner(at, x, (c, u)), expected, **CLOSE)


@shapes
def test_apg_in_the_form_of_diffusers_starts_from_the_unconditional_output(shape):
    x, c, u = random_outputs(shape)
    guidance = fg.APG(6.0, norm=2.5, eta=0.3, form="diffusers", space="output")
    expected = u + 6 * apg(c - u, c, 6, 2.5, 0.3)
    torch.testing.assert_close(guided(guidance, random_point("epsilon"), x, c, u), expected, **CLOSE)


@shapes
@predictions
def test_zero_star_projects_the_unconditional_velocity(shape, prediction):
    x, c, u = random_outputs(shape)
    at = random_point(prediction)

    def velocity(m):
        d = to_x0(at, x, m)
        return (x - at.alpha * d) / at.sigma - d

    v_c, v_u = velocity(c), velocity(u)
    projected = inner(v_c, v_u) / inner(v_u, v_u) * v_u
    v = projected + 4 * (v_c - projected)
    expected = from_x0(at, x, (x - at.sigma * v) / (at.alpha + at.sigma))
    torch.testing.assert_close(guided(fg.ZeroStar(4.0), at, x, c, u), expected, **CLOSE)


@shapes
@predictions
def test_zero_star_begins_with_velocity_zero_and_no_call(shape, prediction):
    x, _, _ = random_outputs(shape)
    at = random_point(prediction)._replace(i=0)
    assert fg.ZeroStar(4.0).rule(at).calls == ()
    y = guided(fg.ZeroStar(4.0), at, x, None, None)
    d = to_x0(at, x, y)
    torch.testing.assert_close((x - at.alpha * d) / at.sigma - d, torch.zeros_like(x), **CLOSE)


@shapes
@predictions
@pytest.mark.parametrize("far", [False, True])
def test_tangential_projects_on_the_first_singular_vector(shape, prediction, far):
    x, c, u = random_outputs(shape)
    if far:
        u = -u
    at = random_point(prediction)

    def noise(m):
        return (x - at.alpha * to_x0(at, x, m)) / at.sigma

    e_c, e_u = noise(c), noise(u)
    rows = torch.stack([e_c.flatten(1), e_u.flatten(1)], dim=1)
    v = torch.linalg.svd(rows, full_matrices=False).Vh[:, 0].view(x.shape)
    projected = inner(e_u, v) * v
    e = projected + 4 * (e_c - projected)
    expected = from_x0(at, x, (x - at.sigma * e) / at.alpha)
    torch.testing.assert_close(guided(fg.Tangential(4.0), at, x, c, u), expected, rtol=1e-8, atol=1e-8)


@shapes
def test_magnitude_damps_where_the_outputs_are_far_apart(shape):
    x, c, u = random_outputs(shape)
    scale = 1 + 9 * torch.exp(-8 * length(c - u) / length(u))
    expected = u + scale * (c - u)
    torch.testing.assert_close(guided(fg.Magnitude(10.0), random_point("v_prediction"), x, c, u), expected, **CLOSE)


@shapes
def test_perp_neg_removes_what_the_positive_prompt_does_not_share(shape):
    x, c, n, e = random_outputs(shape, 3)
    p, negative = c - e, n - e
    perpendicular = negative - p * inner(negative, p) / inner(p, p)
    expected = e + 6 * (p - 0.8 * perpendicular)
    guidance = fg.PerpNeg(6.0, 0.8, empty={"y": None})
    torch.testing.assert_close(guided(guidance, random_point("epsilon"), x, c, n, e), expected, **CLOSE)


@shapes
def test_dual_guides_by_one_condition_and_then_by_both(shape):
    x, c, u, m = random_outputs(shape, 3)
    at = random_point("epsilon")
    expected = u + 1.5 * (m - u) + 7.5 * (c - m)
    torch.testing.assert_close(guided(fg.Dual(7.5, 1.5, {"y": None}), at, x, c, u, m), expected, **CLOSE)
    nested = u + 1.5 * (m + 7.5 * (c - m) - u)
    torch.testing.assert_close(guided(fg.Dual(7.5, 1.5, {"y": None}, True), at, x, c, u, m), nested, **CLOSE)
    alone = m + 7.5 * (c - m)
    assert not fg.Dual(7.5, 1, {"y": None}).needs_uncond
    torch.testing.assert_close(guided(fg.Dual(7.5, 1, {"y": None}), at, x, c, None, m), alone, **CLOSE)


@shapes
@pytest.mark.parametrize("rescale", [0.0, 0.6])
def test_terms_add_up(shape, rescale):
    x, c, u, first, second = random_outputs(shape, 4)
    at = random_point("flow_prediction")
    terms = [fg.Term(3.0, {"y": 0}), fg.Term([0.5] * len(x), {"y": 1})]

    def rescaled(y):
        return y * (1 - rescale + rescale * std(c) / std(y))

    y = u + 4 * (c - u) + 3 * (c - first) + 0.5 * (c - second)
    guidance = fg.Terms(4.0, terms, rescale=rescale)
    torch.testing.assert_close(guided(guidance, at, x, c, u, first, second), rescaled(y), **CLOSE)
    y = c + 3 * (c - first) + 0.5 * (c - second)
    guidance = fg.Terms(1.0, terms, rescale=rescale)
    assert not guidance.needs_uncond
    torch.testing.assert_close(guided(guidance, at, x, c, None, first, second), rescaled(y), **CLOSE)


def test_a_term_acts_in_its_own_interval():
    x, c, u, worse = random_outputs((2, 5), 3)
    guidance = fg.Terms(4.0, [fg.Term(3.0, {"y": 0}, interval=(0, 0.5))], interval=(0.5, 2))
    low, high, beyond = (random_point("epsilon")._replace(alpha=1.0, sigma=s) for s in (0.4, 1.0, 3.0))
    assert [guidance.rule(at).calls for at in (low, high, beyond)] == [(0, 2), (0, 1), (0,)]
    torch.testing.assert_close(guided(guidance, low, x, c, u, worse), c + 3 * (c - worse), **CLOSE)
    torch.testing.assert_close(guided(guidance, high, x, c, u, worse), u + 4 * (c - u), **CLOSE)
    assert guided(guidance, beyond, x, c, u, worse) is c


@shapes
def test_autoguidance_leads_away_from_the_weak_model(shape):
    x, c, weak = random_outputs(shape)
    y = weak + 2 * (c - weak)
    at = random_point("sample")
    guidance = fg.Autoguidance(2.0, weak=lambda x, t: x)
    assert not guidance.needs_uncond
    torch.testing.assert_close(guided(guidance, at, x, c, None, weak), y, **CLOSE)
    expected = y * std(c) / std(y)
    guidance = fg.Autoguidance(2.0, weak=lambda x, t: x, rescale=1.0)
    torch.testing.assert_close(guided(guidance, at, x, c, None, weak), expected, **CLOSE)
