"""At the edges: no guidance, equal outputs, zeros, halves near overflow, one sample or many; and bad arguments."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from guidance_cases import SHAPES, guided, point, random_outputs, random_point
from host_reads import HostReads

import fastdiff as fd
import fastdiff.guidance as fg


def plain(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x


# Each with the number of outputs it reads.
METHODS = {
    "cfg": (fg.CFG(4.0), 2),
    "rescaled": (fg.CFG(4.0, 0.7), 2),
    "apg": (fg.APG(4.0, norm=2.0, eta=0.2), 2),
    "apg, momentum": (fg.APG(4.0, norm=2.0, momentum=-0.5, rescale=0.5), 2),
    "apg, diffusers": (fg.APG(4.0, norm=2.0, eta=0.2, form="diffusers", space="output"), 2),
    "zero star": (fg.ZeroStar(4.0, rescale=0.5), 2),
    "tangential": (fg.Tangential(4.0), 2),
    "magnitude": (fg.Magnitude(4.0), 2),
    "perp neg": (fg.PerpNeg(4.0, empty={"y": 0}), 3),
    "dual": (fg.Dual(4.0, middle={"y": 0}), 3),
    "terms": (fg.Terms(4.0, [fg.Term(3.0, plain)], rescale=0.5), 3),
    "autoguidance": (fg.Autoguidance(4.0, plain), 2),
    "history": (fg.History(0.5, 4.0, eta=0.0), 2),
    "noise scaling": (fg.NoiseScaling(1.01, 4.0), 2),
    "adaptive": (fg.Adaptive(4.0), 2),
    "cfg++": (fg.CFGpp(0.6), 2),
    "frames": (fg.CFG([1.0, 2.0, 3.0, 4.0], 0.5, frames_dim=1), 2),
    "fdg": (fg.FrequencyDecoupled((4.0, 2.0), (0.5, 0.5)), 2),
    "fresca": (fg.FreSca(4.0, cutoff=2), 2),
    "norm": (fg.CFGNorm(4.0), 2),
}
methods = pytest.mark.parametrize(("guidance", "count"), METHODS.values(), ids=METHODS)
# Those that give c where every output is c.
ANCHORED = [name for name in METHODS if name not in ("noise scaling", "tangential")]
SHAPE = (8, 4, 6, 6)


def outputs_of(guidance: fg.Guidance, outputs: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """By call: conditional, unconditional, extra."""
    return outputs if guidance.needs_uncond else [outputs[0], None, *outputs[1:]]


@methods
def test_a_sample_alone_is_the_sample_in_a_batch(guidance, count):
    x, *outputs = random_outputs(SHAPE, count)
    at = random_point("v_prediction")
    together = guided(guidance, at, x, *outputs_of(guidance, outputs))
    for b in range(len(x)):
        alone = guided(guidance, at, x[b : b + 1], *outputs_of(guidance, [m[b : b + 1] for m in outputs]))
        torch.testing.assert_close(alone, together[b : b + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ANCHORED)
@pytest.mark.parametrize("prediction", ["epsilon", "flow_prediction"])
def test_equal_outputs_are_the_result(name, prediction):
    guidance, count = METHODS[name]
    x, c = random_outputs(SHAPE, 1)
    y = guided(guidance, random_point(prediction), x, *outputs_of(guidance, [c] * count))
    torch.testing.assert_close(y, c, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_tangential_guidance_of_equal_outputs_is_the_output(prediction):
    x, c = random_outputs(SHAPE, 1)
    y = guided(fg.Tangential(4.0), random_point(prediction), x, c, c)
    torch.testing.assert_close(y, c, rtol=1e-10, atol=1e-10)


@methods
@pytest.mark.parametrize("zero", ["the others", "all", "everything"])
def test_zeros_stay_finite(guidance, count, zero):
    x, *outputs = random_outputs(SHAPE, count)
    outputs = [m if k == 0 and zero == "the others" else torch.zeros_like(m) for k, m in enumerate(outputs)]
    x = torch.zeros_like(x) if zero == "everything" else x
    for prediction in ("epsilon", "flow_prediction"):
        y = guided(guidance, random_point(prediction), x, *outputs_of(guidance, outputs))
        assert y.isfinite().all()


@methods
def test_constant_outputs_stay_finite(guidance, count):
    x, *outputs = [torch.full(SHAPE, float(k)) for k in range(1, 2 + count)]
    assert guided(guidance, random_point("flow_prediction"), x, *outputs_of(guidance, outputs)).isfinite().all()


@methods
def test_halves_near_overflow_do_not_overflow_inside(guidance, count):
    x, *outputs = random_outputs(SHAPE, count)
    c = (torch.randint(0, 2, SHAPE) * 2.0 - 1) * 60000
    outputs = [(c * (1 - 1e-3 * k)) for k in range(count)]
    at = random_point("flow_prediction")
    exact = guided(guidance, at, x.half().double(), *outputs_of(guidance, [m.half().double() for m in outputs]))
    found = guided(guidance, at, x.half(), *outputs_of(guidance, [m.half() for m in outputs]))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, exact.half(), rtol=2e-3, atol=2e-3)


@methods
def test_the_array_may_be_a_tensor(guidance, count):
    """On a device formulas run on tensors; here on a CPU's, beside NumPy's."""
    rule = guidance.rule(point())
    if rule.formula is None:
        assert rule.basis is None or rule.stop is not None
        return
    v = torch.randn(3, len(rule.basis) + 1, 50, dtype=torch.float64)
    gram = v @ v.mT
    found = rule.formula(gram)
    assert found.dtype == torch.float64
    assert tuple(found.shape) == (3, 3 if guidance.stateful else 1, 6)
    np.testing.assert_allclose(found.numpy(), rule.formula(gram.numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [4.0, [2.0, 3.0, 4.0]])
def test_on_tensors_no_value_is_read_by_the_host(scale):
    gram = torch.randn(3, 5, 5, dtype=torch.float64).abs()
    outputs = [torch.randn(3, 4, 6, 6) for _ in range(3)]
    varied = [
        fg.CFG(scale, 0.7), fg.APG(scale, norm=2.0, momentum=-0.5, rescale=0.5), fg.ZeroStar(scale),
        fg.Tangential(scale), fg.Magnitude(scale), fg.PerpNeg(scale, scale, {"y": 0}),
    ]  # fmt: skip
    for guidance in (*varied, *(guidance for guidance, _ in METHODS.values())):
        rule = guidance.rule(point("v_prediction"))
        with HostReads() as reads:
            if rule.formula is not None:
                n = len(rule.basis)
                rule.formula(gram[:, : n + 1, : n + 1])
            if rule.combine is not None:
                rule.combine(outputs[2], outputs[:2])
        assert reads.seen == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scale_one_is_the_conditional_output(shape, dtype):
    x, c, u = random_outputs(shape, dtype=dtype)
    for guidance in (
        fg.CFG(1.0), fg.CFG([1.0] * len(x), 0.7), fg.CFG(1, schedule="cosine"), fg.APG(1.0), fg.ZeroStar(1.0),
        fg.Tangential(1.0), fg.Magnitude(1.0), fg.Autoguidance(1.0, plain), fg.Adaptive(1.0), fg.Terms(1.0, []),
        fg.FrequencyDecoupled((1, 1)), fg.CFGNorm(1), fg.NoiseScaling(1.0, 1.0), fg.Dual(1.0, 1.0, {"y": 0}),
    ):  # fmt: skip
        rule = guidance.rule(random_point("epsilon"))
        assert rule.calls == (0,)
        assert torch.equal(guided(guidance, random_point("epsilon"), x, c, u), c)
        assert not guidance.needs_uncond or isinstance(guidance, fg.FrequencyDecoupled | fg.CFGNorm)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_apg_that_changes_nothing_is_cfg_to_the_bit(shape, dtype):
    x, c, u = random_outputs(shape, dtype=dtype)
    scale = (8 * torch.rand(len(x))).tolist()
    for g in (6.3, scale):
        expected = guided(fg.CFG(g), random_point("epsilon"), x, c, u)
        assert torch.equal(guided(fg.APG(g, eta=1.0), random_point("epsilon"), x, c, u), expected)


def test_outside_of_its_interval_a_method_makes_one_call_and_changes_nothing():
    for name, (guidance, _) in METHODS.items():
        options = {f: getattr(guidance, f) for f in guidance.__dataclass_fields__} | {"interval": (0.3, 2.0)}
        if name == "history":
            continue
        within = type(guidance)(**options)
        for sigma, inside in ((0.3, False), (0.31, True), (2.0, True), (2.01, False), (50.0, False)):
            rule = within.rule(point(alpha=0.5, sigma=0.5 * sigma))
            if isinstance(guidance, fg.Terms):  # whose terms have intervals of their own
                assert (1 in rule.calls) is inside
            else:
                assert (rule.calls == (0,)) is not inside
        assert within.rule(point(alpha=0.0, sigma=1.0)).calls in ((0,), (0, 2))


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("linear", lambda u: 2 * u),
        ("cosine", lambda u: 1 - math.cos(math.pi * u)),
        ("triangle", lambda u: 4 * u if u < 0.5 else 4 - 4 * u),
        ("beta", lambda u: 6 * u * (1 - u)),
    ],
)
def test_a_schedule_spreads_the_scale_over_the_noise_levels(name, f):
    values = []
    for u in np.linspace(0.005, 0.995, 100):
        at = point("v_prediction", math.sin(u * math.pi / 2), math.cos(u * math.pi / 2))
        (scale,) = {fg.CFG(5.0, schedule=name).scale_at(at), fg.Scheduled(5.0, name)(at)}
        assert scale == pytest.approx(1 + 4 * f(u), abs=1e-9)
        values.append(scale)
    assert np.mean(values) == pytest.approx(5.0, abs=1e-3)
    assert fg.Beta(5.0)(at) == pytest.approx(fg.Scheduled(5.0, "beta")(at))


def test_a_schedule_is_an_array_or_a_function_too():
    at = [point(i=i, n=4) for i in range(4)]
    guidance = fg.CFG(schedule=[1, 2, 3, 1])
    assert [guidance.rule(p).calls for p in at] == [(0,), (0, 1), (0, 1), (0,)]
    assert [guidance.rule(p).scale for p in at[1:3]] == [2.0, 3.0]
    assert fg.CFG(schedule=lambda p: 1 + p.sigma).rule(at[0]).scale == 1.6
    assert fg.APG(lambda p: 1.0 if p.i else 3.0).rule(at[1]).calls == (0,)


def test_a_scale_for_each_frame():
    x, c, u = random_outputs((2, 4, 3, 5, 5))
    each = torch.tensor([[1.0, 2.0, 3.0], [4.0, 1.0, 0.5]], dtype=torch.float64)
    for scale, shape in ((each[0], (1, 1, 3, 1, 1)), (each, (2, 1, 3, 1, 1))):
        guidance = fg.CFG(scale, frames_dim=2)
        guidance.check(x.shape)
        torch.testing.assert_close(guided(guidance, point(), x, c, u), u + scale.view(shape) * (c - u))
    for phi in (0.5, 1.0):
        one, frames = fg.CFG(4.0, phi), fg.CFG([4.0] * 3, phi, frames_dim=2)
        torch.testing.assert_close(guided(frames, point(), x, c, u), guided(one, point(), x, c, u))


def test_calls_are_counted_before_the_run():
    plan = fd.plan("dpmpp_2m", fd.Schedule.edm(), steps=10, grid="karras", prediction="sample")
    counted = fg.calls(plan, fg.CFG(3.0, interval=(0.28, 5.42)))
    inside = [0.28 < row.sigma <= 5.42 for row in plan.rows]
    assert counted.made == tuple(1 + i for i in inside)
    assert (counted.total, sum(counted.saved)) == (10 + sum(inside), 10 - sum(inside))
    assert fg.calls(plan, fg.ZeroStar(3.0)).made == (0, *[2] * 9)
    assert fg.calls(plan, fg.PerpNeg(3.0, empty={"y": 0})).made == (3,) * 10
    assert "saved" in repr(counted)


def test_values_compare_hash_print_and_travel():
    assert fg.CFG(torch.tensor([1.0, 2.0])) == fg.CFG(np.array([1, 2])) == fg.CFG([1, 2]) != fg.CFG([1, 3])
    assert hash(fg.APG(3.0, norm=2)) == hash(fg.APG(3, norm=2.0))
    assert repr(fg.CFG(7.5, interval=(0.2, 5))) == "CFG(interval=(0.2, 5.0), scale=7.5)"
    assert "\n" not in repr(fg.PerpNeg(3.0, empty={"y": torch.zeros(100)}))
    for guidance, _ in METHODS.values():
        assert "\n" not in repr(guidance)
        assert repr(pickle.loads(pickle.dumps(guidance))) == repr(guidance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fg.CFG(), "scale: expected a number, or a schedule"),
        (lambda: fg.CFG(float("nan")), "scale: expected finite numbers"),
        (lambda: fg.CFG("strong"), "scale: expected a number or numbers"),
        (lambda: fg.CFG([[1.0, 2.0]]), "scale: expected a number or a list"),
        (lambda: fg.CFG(3, 1.5), r"rescale: expected a number in \[0, 1\]"),
        (lambda: fg.CFG(3, interval=(2, 1)), "interval: expected .low, high."),
        (lambda: fg.CFG(3, interval=0.5), "interval: expected .low, high."),
        (lambda: fg.CFG(3, schedule="quadratic"), "schedule: expected one of linear, cosine"),
        (lambda: fg.CFG(3, schedule=[1, 2]), "schedule: an array or a function gives the scale itself"),
        (lambda: fg.CFG(schedule="linear"), "scale: expected a number"),
        (lambda: fg.CFG(3, space="score"), "space: expected one of output, x0"),
        (lambda: fg.CFG(schedule=[1, 2, 3]).rule(point(n=4)), "schedule: expected one for each of the 4 evaluations"),
        (lambda: fg.CFG([1.0, 2.0]).check((3, 4)), "scale: expected one for each of the 3 samples"),
        (lambda: fg.CFG([1.0, 2.0], frames_dim=2).check((3, 4, 5)), r"scale: expected shape \(5,\)"),
        (lambda: fg.CFG([1.0, 2.0], frames_dim=3).check((3, 4, 5)), "frames_dim: expected a dimension"),
        (lambda: fg.CFG([1.0, 2.0], frames_dim=0).check((3, 4, 5)), "frames_dim: expected a dimension"),
        (lambda: fg.CFG(2.0, frames_dim=1), "scale: expected a list of them"),
        (lambda: fg.APG(3, norm=-1), "norm: expected a number"),
        (lambda: fg.APG(3, form="authors"), "form: expected 'paper' or 'diffusers'"),
        (lambda: fg.ZeroStar(3, zero_steps=0.5), "zero_steps: expected a whole number"),
        (lambda: fg.PerpNeg(3), "empty: expected a dictionary"),
        (lambda: fg.PerpNeg(3, [1.0, 2.0], {"y": 0}).check((3, 4)), "strength: expected one for each"),
        (lambda: fg.Dual(3, 2, [1]), "middle: expected a dictionary"),
        (lambda: fg.Terms(3, [fg.Term(1, plain)] * 3), "terms: expected at most four calls"),
        (lambda: fg.Terms(3, [plain]), r"terms: expected Term\(scale, call\)"),
        (lambda: fg.Terms(3, [fg.Term([1.0, 2.0], plain)]).check((3, 4)), r"terms\[0\].scale: expected one for each"),
        (lambda: fg.Autoguidance(2.0), "weak: expected a dictionary"),
        (lambda: fg.FrequencyDecoupled((1, 2), (1,)), "parallel: expected one for each of 2 bands"),
        (lambda: fg.FrequencyDecoupled().check((3, 4)), r"dims: samples of \(3, 4\) have no dimensions of space"),
        (lambda: fg.FreSca(dims=(4,)).check((3, 4, 5)), "dims: expected dimensions"),
        (lambda: fg.FreSca(cutoff=0), "cutoff: expected a number"),
        (lambda: fg.CFGNorm(3, channel_dim=0).check((3, 4, 5)), "channel_dim: expected a dimension"),
        (lambda: fg.History(1.0, decay=0), r"decay: expected a number in \(0, 1\]"),
        (lambda: fg.NoiseScaling(0.0), "factor: expected a positive number"),
        (lambda: fg.ClassifierGuidance(1.0, {"y": 0}), "gradient: expected a function"),
        (lambda: fg.ReuseUncond(3.0, order=3), "order: expected 0, 1 or 2"),
        (lambda: fg.ReuseUncond(3.0).rule(point()), "guidance: ReuseUncond needs the plan"),
        (lambda: fg.ReuseUncond.fit(3.0, [plain], []), "unconds: expected one for each"),
        (lambda: fg.Adaptive(3.0, 1.5), "cosine: expected a number"),
        (lambda: fg.anneal_condition(torch.zeros(1, 2), 0.5, torch.zeros(1, 3)), "noise: expected shape"),
        (lambda: fg.anneal_condition(torch.zeros(1, 2), 0.5, torch.zeros(1, 2), t_clean=1.0), "t_clean, t_noise"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
