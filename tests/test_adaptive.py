"""sample_adaptive: the peer's steps, errors that follow the tolerance, and a plan that does the same again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES, run_rows, slope
from peers import difference, network, start_noise

import fastdiff as fd
from fastdiff.plans.solvers.embedded import ORDERS, embedded_step

EDM = fd.Schedule.edm(sigma_min=0.1, sigma_max=80.0)
ALL = {
    **SCHEDULES,
    "discrete": fd.Schedule.scaled_linear(),
    "cosine": fd.Schedule.cosine(None),
    "zero snr": fd.Schedule.scaled_linear().zero_terminal_snr(),
}


def perfect(schedule: fd.Schedule):
    """The velocity eps - x0 of Gaussian data."""

    def model(x, t):
        alpha, sigma = (torch.as_tensor(f(t.double().numpy()))[:, None] for f in (schedule.alpha, schedule.sigma))
        mean, variance = torch.from_numpy(DATA.mean), torch.from_numpy(DATA.variance)
        x0 = mean + alpha * variance * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        return (x - alpha * x0) / sigma - x0

    return model


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("pair", ORDERS)
def test_both_members_of_a_pair_have_their_order(pair, schedule):
    """The error of one step, which is one order more."""
    schedule, steps = SCHEDULES[schedule], np.geomspace(0.04, 0.2, 5)
    errors = {"x": [], "base": []}
    for h in steps:
        s, t = (schedule.at_log_snr(np.float64(at)) for at in (0.3, 0.3 + h))
        rows = embedded_step(schedule, s, t, "epsilon", pair)
        end = (float(t.alpha), float(t.sigma))
        start = DATA.mean * float(s.alpha) + np.array([1.3, -0.8, 0.6, 1.1])
        exact = DATA.flow(start, (float(s.alpha), float(s.sigma)))(*end)
        for name in errors:
            last = replace(rows[-1], x=getattr(rows[-1], name), base=None)
            plan = fd.Plan((*rows[:-1], last), end, "epsilon")
            errors[name].append(np.abs(run_rows(plan, DATA.x0, start) - exact).max())
    assert -slope(steps, errors["x"]) > ORDERS[pair] + 0.7
    assert -slope(steps, errors["base"]) == pytest.approx(ORDERS[pair], abs=0.6)


@pytest.mark.parametrize(("pair", "order"), [("dpm_12", 2), ("dpm_23", 3)])
@pytest.mark.parametrize(
    "options",
    [{}, {"rtol": 0.01, "atol": 1e-3}, {"rtol": 1e-3, "atol": 1e-4, "pid": (0.2, 0.7, 0.1)}, {"h_init": 2.0}],
)
def test_dpm_adaptive_takes_k_diffusions_steps(pair, order, options, double, k_diffusion):
    def denoise(x, sigma):
        c = (1 + sigma**2) ** -0.5
        return network(x * c.view(-1, 1), c)

    theirs_options = {name: value for name, value in options.items() if name != "pid"}
    if "pid" in options:
        theirs_options |= dict(zip(("pcoeff", "icoeff", "dcoeff"), options["pid"], strict=True))
    theirs, info = k_diffusion.sample_dpm_adaptive(
        denoise, start_noise() * 80.0, 0.1, 80.0, order=order, disable=True, return_info=True, **theirs_options
    )
    calls = []

    def counted(x, t):
        calls.append(t)
        return denoise(x, t)

    options = {"prediction": "sample", "final_sigma": "sigma_min", **options}
    ours, plan = fd.sample_adaptive(counted, EDM, start_noise(), pair=pair, return_plan=True, **options)
    assert len(calls) == info["nfe"]
    assert plan.nfe == order * info["n_accept"]
    assert difference(ours, theirs) < 1e-8


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("pair", ORDERS)
def test_the_error_follows_the_tolerance_on_every_schedule(pair, schedule):
    schedule = ALL[schedule]
    noise = torch.from_numpy(np.array([[1.3, -0.8, 0.6, 1.1], [0.2, 0.4, -1.5, 0.9]]))
    errors = []
    for rtol in (1e-2, 1e-5):
        x, plan = fd.sample_adaptive(
            perfect(schedule), schedule, noise, pair=pair, prediction="flow_prediction", rtol=rtol, atol=rtol / 10,
            final_sigma="sigma_min", max_nfe=20000, return_plan=True,
        )  # fmt: skip
        start = (plan.rows[0].alpha, plan.rows[0].sigma)
        exact = DATA.flow(noise.numpy() * plan.init_scale, start)(*plan.end)
        errors.append(np.abs(x.numpy() - exact).max())
    assert errors[1] < errors[0] / 2
    assert errors[1] < 1e-3


@pytest.mark.parametrize("pair", ORDERS)
def test_the_plan_of_the_accepted_steps_draws_the_same_sample_and_survives_a_file(pair, tmp_path):
    schedule, noise = fd.Schedule.flow(), start_noise()[:, :4]
    x, plan = fd.sample_adaptive(
        perfect(schedule), schedule, noise, pair=pair, prediction="flow_prediction", return_plan=True
    )
    plan.save(tmp_path / "plan.json")
    again = fd.sample(perfect(schedule), fd.Plan.load(tmp_path / "plan.json"), noise)
    torch.testing.assert_close(again, x, rtol=1e-13, atol=1e-13)


def test_guidance_is_the_same_as_in_sample():
    schedule, noise = fd.Schedule.flow(), start_noise()[:, :4]

    def model(x, t, shift):
        return perfect(schedule)(x, t) + shift

    options = {"shift": torch.ones(2, 4), "uncond": {"shift": torch.zeros(2, 4)}, "guidance": 3.0}
    x, plan = fd.sample_adaptive(
        model, schedule, noise, prediction="flow_prediction", return_plan=True, guidance_mode="calls", **options
    )
    torch.testing.assert_close(fd.sample(model, plan, noise, **options), x, rtol=1e-12, atol=1e-12)
    assert float((x - fd.sample(perfect(schedule), plan, noise)).abs().min()) > 0.1


def test_bad_requests_and_bad_models_are_refused_by_name():
    noise = start_noise()
    for options, message in [
        ({"pair": "dpm_34"}, "pair: expected one of dpm_12, dpm_23, rk_45, got 'dpm_34'"),
        ({"rtol": 0.0}, "rtol: expected a number > 0, got 0.0"),
        ({"atol": float("nan")}, "atol: expected a number > 0, got nan"),
        ({"final_sigma": "none"}, "final_sigma: expected 'zero' or 'sigma_min', got 'none'"),
    ]:
        with pytest.raises(ValueError, match=message):
            fd.sample_adaptive(network, EDM, noise, **options)
    with pytest.raises(RuntimeError, match="max_nfe: 20 evaluations did not suffice"):
        fd.sample_adaptive(network, EDM, noise, max_nfe=20)
    with pytest.raises(RuntimeError, match="model: gave numbers that are not finite"):
        fd.sample_adaptive(lambda x, t: x * float("nan"), EDM, noise)
