"""Every method in runs of every solver, and whole runs against the methods' own definitions."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian import DATA, smooth_levels

import fastdiff as fd
import fastdiff.guidance as fg
from fastdiff import demo

SHAPE = (2, 3, 4, 4)
SCHEDULE = fd.Schedule.vp()


def network(x: torch.Tensor, t: torch.Tensor, mean: float = 0.0) -> torch.Tensor:
    """E[eps | x] of data N(mean, 1/4) on the schedule, with a little that is not linear."""
    alpha, sigma = (torch.from_numpy(f(t.double().numpy())).to(x) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    alpha, sigma = (v.view(-1, *[1] * (x.ndim - 1)) for v in (alpha, sigma))
    return sigma * (x - alpha * mean) / (alpha**2 / 4 + sigma**2) + 0.05 * torch.sin(x + mean)


def weak(x: torch.Tensor, t: torch.Tensor, **kwargs: object) -> torch.Tensor:
    return 0.9 * network(x, t)


def draw(plan: fd.Plan, noise: torch.Tensor, guidance: object, **options: object) -> torch.Tensor:
    return fd.sample(
        network, plan, noise, guidance=guidance, uncond={"mean": -1.0}, guidance_mode="calls", mean=1.0, **options
    )


METHODS = {
    "cfg": fg.CFG(3.0, 0.7, interval=(0.05, 50)),
    "cosine": fg.CFG([2.0, 4.0], schedule="cosine"),
    "cfg++": fg.CFGpp(0.6),
    "apg": fg.APG(3.0, norm=2.0, momentum=-0.5),
    "zero star": fg.ZeroStar(3.0),
    "tangential": fg.Tangential(3.0),
    "magnitude": fg.Magnitude(3.0),
    "perp neg": fg.PerpNeg(3.0, empty={"mean": 0.1}),
    "dual": fg.Dual(3.0, middle={"mean": 0.5}),
    "terms": fg.Terms(3.0, [fg.Term(1.0, weak), fg.Term(0.5, {"mean": 0.2}, interval=(0.1, 5))], rescale=0.5),
    "three terms": fg.Terms(1.0, [fg.Term(1.0, weak), fg.Term(0.5, {"mean": 0.2}), fg.Term(0.5, {"mean": 0.3})]),
    "autoguidance": fg.Autoguidance(2.0, weak),
    "history": fg.History(0.5, 2.0, eta=0.0),
    "noise scaling": fg.NoiseScaling(1.005, 2.0),
    "adaptive": fg.Adaptive(3.0, 0.99),
    "reuse": fg.ReuseUncond(3.0),
    "frames": fg.CFG([1.0, 2.0, 3.0, 4.0], frames_dim=2),
    "fdg": fg.FrequencyDecoupled((4.0, 2.0), (0.5, 0.5)),
    "fresca": fg.FreSca(3.0, cutoff=1),
    "norm": fg.CFGNorm(3.0),
    "classifier": fg.ClassifierGuidance(1.0, fg.Gradient(lambda x, t, **_: -((x - 1) ** 2).flatten(1).sum(1))),
}


@pytest.mark.parametrize("solver", [solver.name for solver in fd.solvers()])
def test_every_method_runs_with_every_solver(solver):
    plan = fd.plan(solver, SCHEDULE, steps=4, prediction="epsilon")
    noise = torch.randn(SHAPE)
    for name, guidance in METHODS.items():
        x = draw(plan, noise, guidance, seeds=[1, 2])
        assert x.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cfg_is_the_number_it_stands_for_to_the_bit(dtype):
    plan, noise = fd.plan("dpmpp_2m", SCHEDULE, steps=6), torch.randn(SHAPE).to(dtype)
    for scale in (6.3, torch.tensor([1.7, 6.3], dtype=torch.float64)):
        expected = draw(plan, noise, scale)
        for guidance in (fg.CFG(scale), fg.APG(scale, eta=1.0), fg.CFG(schedule=lambda point, s=scale: s)):
            found = draw(plan, noise, guidance)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", METHODS)
def test_the_calls_made_are_those_that_are_counted(name):
    plan, guidance = fd.plan("dpmpp_2m", SCHEDULE, steps=7), METHODS[name]
    uncond = {"mean": -1.0} if guidance.needs_uncond else None
    steps = fd.iter_sample(
        network, plan, torch.randn(SHAPE), guidance=guidance, uncond=uncond, guidance_mode="calls", mean=1.0
    )
    made = tuple(step.evaluations for step in steps)
    if name == "adaptive":  # which ends on its own
        assert all(m <= counted for m, counted in zip(made, fg.calls(plan, guidance).made, strict=True))
    else:
        assert made == fg.calls(plan, guidance).made


@pytest.mark.parametrize("solver", ["dpmpp_2m", "lms", "deis", "dpmpp_3m"])
@pytest.mark.parametrize("interval", [None, (0.1, 3.0)])
def test_cfgpp_of_a_multistep_solver_remembers_the_unconditional_output(solver, interval):
    plan = fd.plan(solver, SCHEDULE, steps=8)
    x = noise = torch.randn(SHAPE, dtype=torch.float64)
    history: list[torch.Tensor] = []
    for i, row in enumerate(plan.rows):
        at = fg.Point.of(plan, i)
        t = torch.full((2,), row.t, dtype=torch.float64)
        c, u = network(x, t, 1.0), network(x, t, -1.0)
        guided = interval is None or interval[0] < at.ratio <= interval[1]
        if not guided:
            u = c
        p_m = at.to_x0[1]
        history.insert(0, row.p_x * x + row.p_m * u)
        kept = row.x.x * x + row.x.base * x + sum(w * h for w, h in zip(row.x.history, history, strict=False))
        x = kept + plan.point_after(i)[0] * 0.4 * p_m * (c - u)
    found = draw(plan, noise, fg.CFGpp(0.4, interval=interval))
    torch.testing.assert_close(found, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("of", ["difference", "output"])
@pytest.mark.parametrize("solver", ["ddim", "unipc"])
def test_what_is_reused_is_the_line_through_the_last_two(solver, of):
    plan = fd.plan(solver, SCHEDULE, steps=9)
    noise = torch.randn(SHAPE, dtype=torch.float64)
    made, rows = [], iter(plan.rows)

    def by_hand(x, t):
        row = next(rows)
        i = plan.rows.index(row)
        c, angle = network(x, t, 1.0), math.atan2(row.sigma, row.alpha)
        without = c if of == "difference" else torch.zeros_like(c)
        if i % 2 == 0:
            made.insert(0, (angle, network(x, t, -1.0) - without))
            kept = made[0][1]
        else:
            (a, kept), (b, older) = made[0], made[min(1, len(made) - 1)]
            kept = kept if len(made) == 1 else kept + (angle - a) / (b - a) * (older - kept)
        u = kept + without
        return u + 3 * (c - u)

    expected = fd.sample(by_hand, plan, noise)
    found = draw(plan, noise, fg.ReuseUncond(3.0, order=1, of=of))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_fit_predicts_what_was_recorded_no_worse_than_the_polynomial(order):
    plan, outputs = fd.plan("dpmpp_2m", SCHEDULE, steps=12), []

    def recording(x, t):
        outputs.append((network(x, t, 1.0), network(x, t, -1.0)))
        return outputs[-1][1] + 3 * (outputs[-1][0] - outputs[-1][1])

    fd.sample(recording, plan, torch.randn(16, 4, dtype=torch.float64))
    conds, unconds = zip(*outputs, strict=True)
    options = {"order": order, "of": "output"}
    polynomial, fitted = fg.ReuseUncond(3.0, **options), fg.ReuseUncond.fit(3.0, conds, unconds, **options)
    for i in range(1, 12, 2):
        errors = []
        for guidance in (fitted, polynomial):
            rule = guidance.rule(fg.Point.of(plan, i))
            past = [unconds[i - 1 - 2 * k] for k in range(rule.past)]
            w = rule.weights[0]
            y = w[0] * (conds[i] - past[0]) + w[1] * past[0]
            y = y + sum(w_k * (u - past[0]) for w_k, u in zip(w[2:], past[1:], strict=False))
            errors.append((y - unconds[i] - 3 * (conds[i] - unconds[i])).norm().item())
        assert errors[0] <= errors[1] * (1 + 1e-9)


@pytest.mark.slow
def test_with_a_real_network_a_line_beats_the_last_output_and_a_fit_beats_the_line():
    model, outputs = demo.load_model(), []
    plan = fd.plan("unipc", demo.schedule(), steps=20, prediction=demo.PREDICTION)
    label = torch.arange(8)
    none = torch.full_like(label, demo.NUM_CLASSES)

    def recording(x, t):
        outputs.append((model(x, t, label), model(x, t, none)))
        return outputs[-1][1] + 3 * (outputs[-1][0] - outputs[-1][1])

    def run(guidance: object) -> torch.Tensor:
        return fd.sample(model, plan, noise, guidance=guidance, uncond={"y": none}, y=label)

    fd.sample(recording, plan, torch.randn(8, *demo.SHAPE))
    noise = torch.randn(8, *demo.SHAPE)
    full = run(3.0)
    fitted = fg.ReuseUncond.fit(3.0, *zip(*outputs, strict=True), of="output")
    line, last = (fg.ReuseUncond(3.0, order=order, of="output") for order in (1, 0))
    guidances = (fg.ReuseUncond(3.0, every=1), fitted, line, last, fg.CFG(1.0))
    errors = [(run(guidance) - full).flatten(1).norm(dim=1).median().item() for guidance in guidances]
    assert errors == sorted(errors)
    assert errors[0] < 1e-4
    assert errors[1] < errors[-1] / 4


def test_adaptive_guidance_is_cfg_until_both_outputs_agree():
    plan, noise = fd.plan("ddim", SCHEDULE, steps=12), torch.randn(SHAPE, dtype=torch.float64)
    cosines: list[float] = []

    def by_hand(x, t):
        c, u = network(x, t, 1.0), network(x, t, -1.0)
        if cosines and cosines[-1] > threshold:
            return c
        over = torch.nn.functional.cosine_similarity(c.flatten(1), u.flatten(1))
        cosines.append(over.min().item())
        return u + 3 * (c - u)

    for threshold in (-1.0, 0.9, 1.0):
        cosines.clear()
        expected = fd.sample(by_hand, plan, noise)
        guidance = fg.Adaptive(3.0, threshold, space="output")
        found = draw(plan, noise, guidance)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guided_samples_of_gaussians_end_where_theory_says(scale):
    """D_c - D_u does not depend on x, so CFG is the flow of the Gaussian around the extrapolated mean."""
    levels = smooth_levels(SCHEDULE, 100)
    plan = fd.plan("dpm_solver_3m_exact", SCHEDULE, sigmas=levels, prediction="sample")

    def denoiser(x, t, mean):
        alpha, sigma = (torch.from_numpy(f(t.numpy())).view(-1, 1) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        return mean + alpha / (alpha**2 + sigma**2) * (x - alpha * mean)

    means = [torch.from_numpy(DATA.mean).repeat(5, 1), -1.5 * torch.from_numpy(DATA.mean).repeat(5, 1)]
    noise = torch.randn(5, 4, dtype=torch.float64)
    found = fd.sample(denoiser, plan, noise, guidance=fg.CFG(scale), uncond={"mean": means[1]}, mean=means[0])
    mean = means[1] + scale * (means[0] - means[1])
    (alpha, sigma), (alpha_end, sigma_end) = plan.start, plan.end
    whitened = (plan.init_scale * noise - alpha * mean) / math.hypot(alpha, sigma)
    exact = alpha_end * mean + math.hypot(alpha_end, sigma_end) * whitened
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("guidance", "shape", "message"),
    [
        (fg.APG(3.0), SHAPE, "uncond: APG"),
        (fg.CFG([1.0, 2.0, 3.0]), SHAPE, "scale: expected one for each of the 2 samples"),
        (fg.CFG([1.0, 2.0, 3.0], frames_dim=2), SHAPE, r"scale: expected shape \(4,\)"),
        (fg.CFG(schedule=[3.0, 2.0]), SHAPE, "schedule: expected one for each of the 5 evaluations"),
        (fg.FrequencyDecoupled(), (2, 3), "dims: samples of"),
        (fg.CFGNorm(3.0, channel_dim=4), SHAPE, "channel_dim: expected a dimension"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_called(guidance, shape, message):
    def never(x, t, mean):
        raise AssertionError("the model was called")

    plan = fd.plan("dpmpp_2m", SCHEDULE, steps=5)
    uncond = None if message.startswith("uncond") else {"mean": -1.0}
    with pytest.raises(ValueError, match=message):
        fd.sample(never, plan, torch.randn(shape), guidance=guidance, uncond=uncond, mean=1.0)
