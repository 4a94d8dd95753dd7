"""fastdiff.dpm_solver against the papers' update formulas, written out in float64, and its authors' conventions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from peers import difference, network

from fastdiff.dpm_solver import DPM_Solver, NoiseScheduleVP, UniPC, model_wrapper

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULES = {
    "discrete": NoiseScheduleVP("discrete", betas=BETAS),
    "linear": NoiseScheduleVP("linear"),
    "cosine": NoiseScheduleVP("cosine"),
}
SD = SCHEDULES["discrete"]
SKIPS = ("logSNR", "time_uniform", "time_quadratic")


def noise_of(x, t):
    """A bounded noise prediction, t [B] in (0, 1]."""
    assert t.shape == (len(x),)
    return network(x, t).to(x.dtype)


def start():
    return torch.randn(2, 6, dtype=torch.float64)


class Formulas:
    """DPM-Solver's updates (2206.00927 and 2211.01095) on scalars of the schedule, states being arrays."""

    def __init__(self, schedule, algorithm, x0_fn=None):
        self.schedule, self.data, self.x0_fn = schedule, algorithm == "dpmsolver++", x0_fn

    def at(self, t):
        """(alpha, sigma, lambda)."""
        t = torch.tensor(t, dtype=torch.float64)
        log_alpha = self.schedule.marginal_log_mean_coeff(t)
        alpha, sigma = float(log_alpha.exp()), float((1 - (2 * log_alpha).exp()).sqrt())
        return alpha, sigma, math.log(alpha / sigma)

    def time(self, log_snr):
        return float(self.schedule.inverse_lambda(torch.tensor(log_snr, dtype=torch.float64)))

    def model(self, x, t):
        eps = noise_of(x, torch.full((len(x),), t, dtype=torch.float64))
        if not self.data:
            return eps
        alpha, sigma, _ = self.at(t)
        x0 = (x - sigma * eps) / alpha
        return x0 if self.x0_fn is None else self.x0_fn(x0, torch.tensor(t, dtype=torch.float64))

    def step(self, x, s, t, m, d1=0.0, d2=0.0, second="midpoint"):
        """x_t from the output m and the scaled differences d1 = h m', d2 = h^2 m''."""
        (a_s, s_s, l_s), (a_t, s_t, l_t) = self.at(s), self.at(t)
        h = l_t - l_s
        if self.data:
            e = math.expm1(-h)
            weights = (-a_t * e, -0.5 * a_t * e if second == "midpoint" else a_t * (e / h + 1))
            third = -a_t * ((e / h + 1) / h - 0.5)
            return s_t / s_s * x + weights[0] * m + weights[1] * d1 + third * d2
        e = math.expm1(h)
        weights = (-s_t * e, -0.5 * s_t * e if second == "midpoint" else -s_t * (e / h - 1))
        third = -s_t * ((e / h - 1) / h - 0.5)
        return a_t / a_s * x + weights[0] * m + weights[1] * d1 + third * d2

    def multistep(self, x, times, orders, second):
        outputs, past = [], []
        for (s, t), order in zip(itertools.pairwise(times), orders, strict=True):
            outputs.insert(0, self.model(x, s))
            past.insert(0, self.at(s)[2])
            h = self.at(t)[2] - past[0]
            r = [(past[k] - past[k + 1]) / h for k in range(order - 1)]
            d = [(outputs[k] - outputs[k + 1]) / r[k] for k in range(order - 1)]
            if order == 1:
                x = self.step(x, s, t, outputs[0])
            elif order == 2:
                x = self.step(x, s, t, outputs[0], d[0], second=second)
            else:
                bend = (d[0] - d[1]) / (r[0] + r[1])
                x = self.step(x, s, t, outputs[0], d[0] + r[0] * bend, bend, second="taylor")
        return x

    def singlestep(self, x, s, t, places, second):
        l_s, l_t = self.at(s)[2], self.at(t)[2]
        stage = [self.time(l_s + r * (l_t - l_s)) for r in places]
        m = self.model(x, s)
        if not places:
            return self.step(x, s, t, m)
        m1 = self.model(self.step(x, s, stage[0], m), stage[0])
        if len(places) == 1:
            return self.step(x, s, t, m, (m1 - m) / places[0], second=second)
        r1, r2 = places
        u2 = self.step(x, s, stage[1], m, (m1 - m) * r2 / r1, second="taylor")
        m2 = self.model(u2, stage[1])
        d1, d2 = (m1 - m) / r1, (m2 - m) / r2
        if second == "midpoint":
            return self.step(x, s, t, m, d2, second="taylor")
        slope = (r2 * d1 - r1 * d2) / (r2 - r1)
        return self.step(x, s, t, m, slope, 2 * (d2 - d1) / (r2 - r1), second="taylor")


def time_steps(schedule, skip, start, end, count):
    if skip == "logSNR":
        ends = schedule.marginal_lambda(torch.tensor([start, end], dtype=torch.float64))
        between = torch.linspace(float(ends[0]), float(ends[1]), count + 1, dtype=torch.float64)
        return schedule.inverse_lambda(between).tolist()
    if skip == "time_uniform":
        return np.linspace(start, end, count + 1).tolist()
    return (np.linspace(start**0.5, end**0.5, count + 1) ** 2).tolist()


def multistep_orders(steps, order, lower):
    return [max(1, min(order, i + 1, steps - i if lower and steps < 10 else order)) for i in range(steps)]


@pytest.mark.parametrize("solver_type", ["dpmsolver", "taylor"])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_multistep_is_the_papers_for_every_skip_and_number_of_steps(order, name, algorithm, solver_type):
    schedule, second = SCHEDULES[name], {"dpmsolver": "midpoint", "taylor": "taylor"}[solver_type]
    solver, formulas = DPM_Solver(noise_of, schedule, algorithm), Formulas(schedule, algorithm)
    for skip, steps, lower in itertools.product(SKIPS, (3, 4, 9, 10, 23), (True, False)):
        x = start()
        times = time_steps(schedule, skip, schedule.T, 1e-3, steps)
        expected = formulas.multistep(x, times, multistep_orders(steps, order, lower), second)
        found = solver.sample(
            x, steps, order=order, skip_type=skip, lower_order_final=lower, solver_type=solver_type
        )  # fmt: skip
        assert difference(found, expected) < 1e-8, (skip, steps, lower)


@pytest.mark.parametrize("method", ["singlestep", "singlestep_fixed"])
@pytest.mark.parametrize("solver_type", ["dpmsolver", "taylor"])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_singlestep_is_the_papers_and_uses_all_evaluations(order, algorithm, solver_type, method):
    second = {"dpmsolver": "midpoint", "taylor": "taylor"}[solver_type]
    formulas = Formulas(SD, algorithm)
    for skip, steps in itertools.product(SKIPS, (3, 4, 5, 8, 15)):
        calls = []
        solver = DPM_Solver(lambda x, t, calls=calls: (calls.append(t), noise_of(x, t))[1], SD, algorithm)
        x = start()
        found = solver.sample(x, steps, order=order, skip_type=skip, solver_type=solver_type, method=method)
        orders = [order] * (steps // order)
        if method == "singlestep":
            left = steps - sum(orders)
            orders = [*orders[:-1], 2, 1] if order == 3 and not left else [*orders, *([left] if left else [])]
        whole = time_steps(SD, skip, 1.0, 1e-3, steps if method == "singlestep" and skip != "logSNR" else len(orders))
        counts = orders if len(whole) == sum(orders) + 1 and method == "singlestep" and skip != "logSNR" else None
        times = [whole[k] for k in np.cumsum([0, *counts])] if counts else whole
        for (s, t), p in zip(itertools.pairwise(times), orders, strict=True):
            inner = [formulas.at(u)[2] for u in time_steps(SD, skip, s, t, p)]
            places = [(u - inner[0]) / (inner[-1] - inner[0]) for u in inner[1:-1]]
            x = formulas.singlestep(x, s, t, places, second)
        assert difference(found, x) < 1e-8, (skip, steps)
        assert len(calls) == sum(orders)
        if method == "singlestep":
            assert len(calls) == steps


@pytest.mark.parametrize("variant", ["bh1", "bh2", "vary_coeff"])
@pytest.mark.parametrize("algorithm", ["noise_prediction", "data_prediction"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_the_papers(order, algorithm, variant):
    for skip, steps, lower in itertools.product(SKIPS, (4, 12), (True, False)):
        x = start()
        found, states = UniPC(noise_of, SD, algorithm, variant=variant).sample(
            x, steps, order=order, skip_type=skip, lower_order_final=lower, return_intermediate=True
        )
        times = time_steps(SD, skip, 1.0, 1e-3, steps)
        expected = unipc_states(x, times, order, lower, variant, algorithm)
        for ours, theirs in zip(states, expected, strict=True):
            assert difference(ours, theirs) < 1e-8
        fused = UniPC(noise_of, SD, algorithm, variant=variant).sample(
            x, steps, order=order, skip_type=skip, lower_order_final=lower
        )
        assert torch.equal(found, states[-1])
        assert difference(fused, found) < 1e-12


def unipc_states(x, times, order, lower, variant, algorithm):
    """2302.04867, algorithms 1 and 2: every corrected state; with 1/2 for single conditions of B(h)."""
    f = Formulas(SD, "dpmsolver++" if algorithm == "data_prediction" else "dpmsolver")
    outputs, past, states = [f.model(x, times[0])], [f.at(times[0])[2]], [x]
    steps = len(times) - 1
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        p = max(1, min(order, i + 1, steps - i if lower else order))
        h = f.at(t)[2] - past[0]
        hh = -h if f.data else h
        b_of_h = hh if variant == "bh1" else math.expm1(hh)
        r = [(past[k] - past[0]) / h for k in range(1, p)] + [1.0]
        phi = [math.expm1(hh)]
        for k in range(1, p + 2):
            phi.append(phi[-1] / hh - 1 / math.factorial(k))
        scale = -f.at(t)[0] if f.data else -f.at(t)[1]

        def increment(places, differences, simple, phi=phi, b_of_h=b_of_h, scale=scale):
            if not differences:
                return 0.0
            n = len(places)
            matrix = np.array([[place**k for place in places] for k in range(n)])
            right = np.array([math.factorial(k + 1) * phi[k + 1] / b_of_h for k in range(n)])
            rho = np.array([0.5]) if simple and n == 1 and variant != "vary_coeff" else np.linalg.solve(matrix, right)
            return scale * b_of_h * sum(w * d for w, d in zip(rho, differences, strict=True))

        first = f.step(x, s, t, outputs[0])
        d = [(outputs[k] - outputs[0]) / r[k - 1] for k in range(1, p)]
        predicted = first + increment(r[:-1], d, True)
        if i == steps - 1:
            return [*states, predicted]
        m_t = f.model(predicted, t)
        x = first + increment(r, [*d, m_t - outputs[0]], True)
        outputs.insert(0, m_t)
        past.insert(0, f.at(t)[2])
        states.append(x)
    return states


def test_defaults_are_dpmsolver_plus_plus_2m_from_t_1_to_one_over_n():
    x, times = start(), np.linspace(1.0, 1e-3, 21).tolist()
    expected = Formulas(SD, "dpmsolver++").multistep(x, times, [1] + [2] * 19, "midpoint")
    assert difference(DPM_Solver(noise_of, SD).sample(x), expected) < 1e-8
    x32 = DPM_Solver(noise_of, NoiseScheduleVP(betas=BETAS.float())).sample(x.float())
    assert x32.dtype == torch.float32
    assert difference(x32, expected) < 1e-5


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_follows_the_authors_step_control(order, algorithm):
    f, x = Formulas(SD, algorithm), start()
    places = {2: ([], [0.5]), 3: ([1 / 3], [1 / 3, 2 / 3])}[order]
    calls = []
    solver = DPM_Solver(lambda x, t: (calls.append(float(t[0])), noise_of(x, t))[1], SD, algorithm)
    found = solver.sample(x, method="adaptive", order=order, t_end=1e-2)
    s, before, h, nfe, last = 1.0, x, 0.05, 0, f.at(1e-2)[2]
    while abs(s - 1e-2) > 1e-5:
        t = f.time(f.at(s)[2] + h)
        low, high = (f.singlestep(x, s, t, r, "midpoint") for r in places)
        delta = torch.maximum(torch.tensor(0.0078), 0.05 * torch.maximum(low.abs(), before.abs()))
        error = float(((high - low) / delta).square().mean(1).sqrt().max())
        if error <= 1:
            x, before, s = high, low, t
        h = min(0.9 * h * error ** (-1 / order), last - f.at(s)[2])
        nfe += order
    assert len(calls) == nfe
    assert difference(found, x) < 1e-6


def test_inverse_of_gaussian_data_is_the_exact_map_to_noise_and_back():
    """The flow of N(0, 1/4) data scales x by its standard deviation."""

    def eps(x, t):
        alpha, sigma = float(SD.marginal_alpha(t[:1])), float(SD.marginal_std(t[:1]))
        return x * sigma / (alpha**2 / 4 + sigma**2)

    x, ends = torch.randn(2, 6, dtype=torch.float64), torch.tensor([1e-3, 1.0], dtype=torch.float64)
    spread = (SD.marginal_alpha(ends) ** 2 / 4 + SD.marginal_std(ends) ** 2).sqrt()
    solver = DPM_Solver(eps, SD)
    for options in (
        {"steps": 300, "order": 3},
        {"method": "singlestep", "steps": 150, "order": 3},
        {"method": "singlestep_fixed", "steps": 150, "order": 2},
        {"method": "adaptive", "order": 3, "atol": 1e-5, "rtol": 1e-5},
    ):
        noise = solver.inverse(x, skip_type="logSNR", **options)
        assert difference(noise, x * spread[1] / spread[0]) < 2e-3, options
        assert difference(solver.sample(noise, skip_type="logSNR", **options), x) < 2e-3, options


def test_denoise_to_zero_is_the_data_predicted_at_the_end_in_one_more_evaluation():
    x, f = start(), Formulas(SD, "dpmsolver++")
    for algorithm, method in itertools.product(("dpmsolver", "dpmsolver++"), ("multistep", "singlestep", "adaptive")):
        solver = DPM_Solver(noise_of, SD, algorithm)
        before = solver.sample(x, 8, method=method)
        after, expected = solver.sample(x, 8, method=method, denoise_to_zero=True), f.model(before, 1e-3)
        assert difference(after, expected) < 1e-8
        assert difference(solver.denoise_to_zero_fn(before, torch.tensor([1e-3])), expected) < 1e-5


@pytest.mark.parametrize("order", [1, 2, 3])
def test_corrections_of_x0_and_of_xt_are_made_where_the_authors_make_them(order):
    def x0_fn(x0, t):
        return 0.7 * torch.tanh(x0) + t

    seen = []

    def xt_fn(x, t, step):
        seen.append((step, float(t)))
        return x + 0.01 * step + 0.02

    x, times = start(), np.linspace(1.0, 1e-3, 5).tolist()
    solver = DPM_Solver(noise_of, SD, correcting_x0_fn=x0_fn, correcting_xt_fn=xt_fn)
    found, states = solver.sample(x, 4, order=order, return_intermediate=True, denoise_to_zero=True)
    f, outputs, expected = Formulas(SD, "dpmsolver++", x0_fn), [], []
    for i, t in enumerate(times[:-1]):  # the first state is corrected after the model has seen it
        outputs.insert(0, f.model(x, t))
        if i == 0:
            x = x + 0.02
            expected.append(x)
        p = multistep_orders(4, order, True)[i]
        replay = Formulas(SD, "dpmsolver++")
        past = iter(outputs[:p][::-1])
        replay.model = lambda *_, past=past: next(past)
        replay_x = x
        window = times[i + 1 - p : i + 2]
        l = [f.at(u)[2] for u in window]  # noqa: E741
        r = [(l[-2 - k] - l[-3 - k]) / (l[-1] - l[-2]) for k in range(p - 1)]
        d = [(outputs[k] - outputs[k + 1]) / r[k] for k in range(p - 1)]
        if p == 3:
            bend = (d[0] - d[1]) / (r[0] + r[1])
            x = f.step(replay_x, t, times[i + 1], outputs[0], d[0] + r[0] * bend, bend, second="taylor")
        else:
            x = f.step(replay_x, t, times[i + 1], outputs[0], *d)
        x = x + 0.01 * (i + 1) + 0.02
        expected.append(x)
    x = f.model(x, 1e-3) + 0.01 * 5 + 0.02
    expected.append(x)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert [t for _, t in seen] == pytest.approx([*times, 1e-3])
    assert len(states) == len(expected)
    for ours, theirs in zip(states, expected, strict=True):
        assert difference(ours, theirs) < 1e-8
    assert torch.equal(found, states[-1])


def test_singlestep_and_unipc_states_are_corrected_after_each_step():
    seen = []
    record = lambda x, t, step: (seen.append(step), x)[1]  # noqa: E731
    x = start()
    plain = DPM_Solver(noise_of, SD).sample(x, 6, order=2, method="singlestep")
    found, states = DPM_Solver(noise_of, SD, correcting_xt_fn=record).sample(
        x, 6, order=2, method="singlestep", return_intermediate=True
    )
    assert seen == [0, 1, 2]
    assert len(states) == 3
    assert difference(found, plain) < 1e-12
    seen.clear()
    found = UniPC(noise_of, SD, correcting_xt_fn=record).sample(x, 5, order=3, denoise_to_zero=True)
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    assert difference(found, UniPC(noise_of, SD).sample(x, 5, order=3, denoise_to_zero=True)) < 1e-12


def test_dynamic_thresholding_divides_by_the_quantile_and_no_less_than_the_maximum():
    x0 = torch.randn(3, 500, dtype=torch.float64) * torch.tensor([[0.2], [1.0], [9.0]])
    for least in (1.0, 1.7):
        solver = DPM_Solver(
            noise_of, SD, correcting_x0_fn="dynamic_thresholding", thresholding_max_val=least,
            dynamic_thresholding_ratio=0.9,
        )  # fmt: skip
        s = torch.quantile(x0.abs(), 0.9, dim=1, keepdim=True).clamp_min(least)
        torch.testing.assert_close(solver.dynamic_thresholding_fn(x0, None), x0.clamp(-s, s) / s)
        f = Formulas(SD, "dpmsolver++", solver.dynamic_thresholding_fn)
        x = 3 * torch.randn(3, 500, dtype=torch.float64)
        expected = f.multistep(x, np.linspace(1.0, 1e-3, 7).tolist(), multistep_orders(6, 2, True), "midpoint")
        assert difference(solver.sample(x, 6), expected) < 1e-8
        unipc = UniPC(noise_of, SD, correcting_x0_fn="dynamic_thresholding", thresholding_max_val=least)
        assert unipc.sample(x, 6, denoise_to_zero=True).abs().max() <= 1


@pytest.mark.parametrize("model_type", ["noise", "x_start", "v", "score"])
@pytest.mark.parametrize("scale", [None, 1.0, 3.5])
def test_a_wrapped_model_of_any_type_with_guidance_is_the_noise_it_stands_for(model_type, scale):
    seen = []

    def model(x, t_input, condition=None, gain=1.0):
        seen.append(t_input.clone())
        t = t_input / 1000 + 1e-3
        eps = noise_of(x, t) * gain + (0 if condition is None else condition)
        point = SD.vp.at(float(t[0]))
        alpha, sigma = float(point.alpha), float(point.sigma)
        x0 = (x - sigma * eps) / alpha
        return {"noise": eps, "x_start": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma}[model_type]

    x, c, u = start(), torch.randn(2, 6).double(), torch.randn(2, 6).double()
    options = {"model_kwargs": {"gain": 0.9}}
    if scale is not None:
        options |= {"guidance_type": "classifier-free", "condition": c, "unconditional_condition": u}
        options |= {"guidance_scale": scale}
    shift = 0 if scale is None else u + scale * (c - u)
    plain = lambda x, t: noise_of(x, t) * 0.9 + shift  # noqa: E731
    wrapped = model_wrapper(model, SD, model_type, **options)
    t = torch.full((2,), 0.3, dtype=torch.float64)
    assert difference(wrapped(x, t), plain(x, t)) < 1e-9
    assert seen[-1].tolist() == pytest.approx([299.0] * (4 if scale == 3.5 else 2))
    for cls, algorithm in ((DPM_Solver, "dpmsolver"), (DPM_Solver, "dpmsolver++"), (UniPC, "data_prediction")):
        for fn in (None, lambda x0, *_: torch.tanh(x0)):
            ours = cls(wrapped, SD, algorithm, fn).sample(x, 12, order=3, denoise_to_zero=True)
            theirs = cls(plain, SD, algorithm, fn).sample(x, 12, order=3, denoise_to_zero=True)
            assert difference(ours, theirs) < 1e-8


def test_classifier_guidance_follows_the_gradient():
    def log_prob(x, t_input, condition, sharpness):
        return -sharpness * ((x - condition) ** 2).sum(1)

    x, c = start(), torch.randn(2, 6, dtype=torch.float64)
    wrapped = model_wrapper(
        lambda x, t: noise_of(x, t / 1000 + 1e-3), SD, guidance_type="classifier", condition=c, guidance_scale=2.0,
        classifier_fn=log_prob, classifier_kwargs={"sharpness": 0.5},
    )  # fmt: skip

    def plain(x, t):
        sigma = float(SD.marginal_std(t[:1]))
        return noise_of(x, t) + 2.0 * sigma * (x - c)

    assert difference(DPM_Solver(wrapped, SD).sample(x), DPM_Solver(plain, SD).sample(x)) < 1e-8


def test_the_schedule_interpolates_clips_and_inverts_as_its_authors_do():
    log_alpha = 0.5 * torch.log(torch.cumprod(1 - BETAS, 0))
    index = torch.tensor([0, 17, 999])
    t = (index + 1).double() / 1000
    torch.testing.assert_close(SD.marginal_log_mean_coeff(t), log_alpha[index], rtol=1e-12, atol=0)
    half = SD.marginal_log_mean_coeff(torch.tensor([0.0175], dtype=torch.float64))
    torch.testing.assert_close(half, (log_alpha[16:17] + log_alpha[17:18]) / 2, rtol=1e-12, atol=0)
    below = SD.marginal_log_mean_coeff(torch.tensor([5e-4], dtype=torch.float64))
    torch.testing.assert_close(below, 1.5 * log_alpha[:1] - 0.5 * log_alpha[1:2], rtol=1e-10, atol=0)
    for schedule in SCHEDULES.values():
        t = torch.rand(50, dtype=torch.float64) * 0.98 + 0.002
        torch.testing.assert_close(schedule.inverse_lambda(schedule.marginal_lambda(t)), t, rtol=1e-9, atol=1e-12)
        spread = schedule.marginal_alpha(t) ** 2 + schedule.marginal_std(t) ** 2
        torch.testing.assert_close(spread, torch.ones_like(t))
        assert schedule.marginal_lambda(t.float()).dtype == torch.float32
    cosine = torch.cos((torch.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2).double() ** 2
    clipped = NoiseScheduleVP(betas=(1 - cosine[1:] / cosine[:-1]).clamp_max(0.999))
    assert 900 < clipped.total_N < 1000
    assert float(clipped.marginal_lambda(torch.tensor([1.0]))) >= -5.1
    assert (SD.T, SD.total_N, SCHEDULES["cosine"].T, SCHEDULES["linear"].total_N) == (1.0, 1000, 0.9946, 1000)
    linear = SCHEDULES["linear"].marginal_log_mean_coeff(torch.tensor([0.5], dtype=torch.float64))
    assert float(linear) == pytest.approx(-0.25 * 0.25 * 19.9 - 0.25 * 0.1)


def test_add_noise_gives_one_batch_for_each_time():
    x, solver = torch.randn(3, 4), DPM_Solver(noise_of, SD)
    t = torch.tensor([0.2, 0.7])
    noise = torch.randn(2, 3, 4)
    expected = torch.stack([SD.marginal_alpha(t)[k] * x + SD.marginal_std(t)[k] * noise[k] for k in range(2)])
    torch.testing.assert_close(solver.add_noise(x, t, noise), expected)
    assert solver.add_noise(x, t[:1]).shape == x.shape


def test_time_steps_and_orders_are_public():
    solver = DPM_Solver(noise_of, SD)
    torch.testing.assert_close(solver.get_time_steps("time_uniform", 1.0, 0.2, 4, "cpu"), torch.linspace(1, 0.2, 5))
    times, orders = solver.get_orders_and_timesteps_for_singlestep_solver(7, 3, "time_uniform", 1.0, 0.3, "cpu")
    assert orders == [3, 3, 1]
    torch.testing.assert_close(times, torch.tensor([1.0, 0.7, 0.4, 0.3]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoiseScheduleVP("sigmoid"), "schedule: expected 'discrete', 'linear' or 'cosine'"),
        (lambda: NoiseScheduleVP(), "betas, alphas_cumprod: expected one of them"),
        (lambda: DPM_Solver(noise_of, SD, "ddim"), "algorithm_type: expected 'dpmsolver'"),
        (lambda: DPM_Solver(noise_of, SD, correcting_x0_fn="static"), "correcting_x0_fn: expected"),
        (lambda: UniPC(noise_of, SD, variant="bh3"), "variant: expected one of bh1"),
        (lambda: UniPC(noise_of, SD).sample(start(), method="singlestep"), "method: expected 'multistep'"),
        (lambda: DPM_Solver(noise_of, SD).sample(start(), 2, order=3), "steps: expected at least the order, 3, got 2"),
        (lambda: DPM_Solver(noise_of, SD).sample(start(), order=4), "order: expected 1, 2 or 3"),
        (lambda: DPM_Solver(noise_of, SD).sample(start(), t_end=0.0), "t_start, t_end: expected two different times"),
        (lambda: DPM_Solver(noise_of, SD).sample(start(), skip_type="karras"), "skip_type: expected one of logSNR"),
        (lambda: DPM_Solver(noise_of, SD).sample(start(), solver_type="heun"), "solver_type: expected 'dpmsolver'"),
        (
            lambda: DPM_Solver(noise_of, SD).sample(start(), method="adaptive", return_intermediate=True),
            "return_intermediate: the adaptive method keeps no",
        ),
        (lambda: model_wrapper(noise_of, SD, "eps"), "model_type: expected one of noise"),
        (lambda: model_wrapper(noise_of, SD, guidance_type="cfg"), "guidance_type: expected one of uncond"),
        (lambda: model_wrapper(noise_of, SD, guidance_type="classifier"), "classifier_fn: classifier guidance needs"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
