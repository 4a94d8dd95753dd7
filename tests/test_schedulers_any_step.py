"""What is particular to one scheduler: any-step sampling, times of a host's own, policies, rescaled scores, errors."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from in_double import in_double
from scheduler_loops import model
from scheduler_protocols import PROTOCOLS, first_sample, make, times_of, walk

from fastdiff import schedulers
from fastdiff.plans.schedule import Points
from fastdiff.plans.solvers.policy import grid_policy_weights
from fastdiff.plans.solvers.rescaled_score import rescaled_row, score_ratio

FLOW_MAP = "FlowMapEulerDiscreteScheduler"
ABSENT = {"timestep": 0.123}
X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


def both(name: str, **options: object) -> list:
    return [make(library, name, **options) for library in (schedulers, diffusers)]


@pytest.mark.parametrize("given", [float, torch.tensor], ids=["numbers", "tensors"])
def test_a_flow_map_steps_from_any_time_to_any_other_in_any_order(given):
    results = []
    for scheduler in both(FLOW_MAP, shift=3.0):
        scheduler.set_timesteps(4)
        listed, x = scheduler.timesteps.tolist(), X
        for t, r in ((612.3, 100.0), (listed[2], None), (listed[0], 55.5), (listed[3] + 4e-4, listed[1]), (250.0, 0.0)):
            t, r = given(t), None if r is None else given(r)
            x = scheduler.step(model(x, t), t, x, r).prev_sample
        results.append(x)
        assert scheduler.step_index is not None
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_elements_of_timesteps_are_targets_without_a_read():
    results = []
    for scheduler in both(FLOW_MAP):
        scheduler.set_timesteps(5)
        t, r = scheduler.timesteps[1], scheduler.timesteps[3]
        results.append(scheduler.step(2 * X, t, X, r_timestep=r).prev_sample)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("times", [[700.0, 320.0], [800.0, 600.0]], ids=["of the user's own", "of the schedule"])
@pytest.mark.parametrize("target", [None, 100.0, [50.0, 0.0]], ids=str)
def test_each_sample_has_its_own_times(times, target):
    """One by one as in diffusers, which takes the first one's sigma for all where that is of the schedule."""
    scheduler, peer = both(FLOW_MAP)
    scheduler.set_timesteps(5)
    peer.set_timesteps(5)
    m, t = model(X, torch.tensor(times)), torch.tensor(times)
    if target is None and times[0] == 700:
        with pytest.raises(ValueError, match="r_timestep"):
            scheduler.step(m, t, X)
        return
    r = target if not isinstance(target, list) else torch.tensor(target)
    found = scheduler.step(m, t, X, r).prev_sample
    ends = [r if not isinstance(r, torch.Tensor) else float(r[i]) for i in range(2)]
    alone = [peer.step(m[i : i + 1], times[i], X[i : i + 1], ends[i]).prev_sample for i in range(2)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-5, atol=1e-6)
    frames = scheduler.step(m, t[:, None].expand(2, 3), X, 10.0).prev_sample
    torch.testing.assert_close(frames, scheduler.step(m, t, X, 10.0).prev_sample, rtol=1e-6, atol=1e-6)


def test_a_flow_map_without_a_target_has_to_be_at_a_time_of_the_schedule():
    for scheduler in both(FLOW_MAP):
        scheduler.set_timesteps(5)
        with pytest.raises(ValueError, match="r_timestep"):
            scheduler.step(X, 512.0, X)


@pytest.mark.parametrize("given", [{"sigmas": [1.0, 0.8, 0.3, 0.0]}, {"timesteps": [1.0, 0.6, 0.2, 0.0]}], ids=str)
def test_the_end_among_sigmas_of_the_hosts_own_leaves_the_sample_as_it_is(given):
    results = []
    for scheduler in both("LTXEulerAncestralRFScheduler"):
        scheduler.set_timesteps(**given)
        x, generator = X, torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            before, x = x, scheduler.step(model(x, t), t, x, generator=generator, return_dict=False)[0]
        assert torch.equal(before, x)
        results.append(x)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("SCMScheduler", {"num_inference_steps": 3, "timesteps": [1.5, 1.0, 0.4, 0.0], "max_timesteps": None,
                          "intermediate_timesteps": None}),
        ("HeliosScheduler", {"num_inference_steps": 4, "stage_index": 2}),
        ("HeliosDMDScheduler", {"num_inference_steps": 2, "stage_index": 0, "is_amplify_first_chunk": True}),
        ("MiniMaxH3Scheduler", {"sigmas": [1.0, 0.7, 0.2, 0.0]}),
        ("FlowMapEulerDiscreteScheduler", {"sigmas": [1.0, 0.7, 0.2]}),
        ("RFD4ProteinaScheduler", {"num_inference_steps": 6, "start_time": 0.3}),
        ("CMStochasticIterativeScheduler", {"timesteps": [35, 20, 3]}),
    ],
    ids=str,
)  # fmt: skip
def test_times_are_placed_as_diffusers_places_them(name, given, monkeypatch):
    protocol = PROTOCOLS[name]._replace(begin=lambda scheduler, n: scheduler.set_timesteps(**given))
    monkeypatch.setitem(PROTOCOLS, name, protocol)
    with in_double():
        ours, theirs = both(name)
        samples = [walk(name, each, 0, 0, torch.float64) for each in (ours, theirs)]
        assert torch.equal(ours.timesteps, theirs.timesteps)
        torch.testing.assert_close(*samples, rtol=0, atol=1e-6 if name == "HeliosScheduler" else 1e-9)


@pytest.mark.parametrize("grid", [2, 8, 10, 17])
def test_a_policy_of_one_velocity_is_a_straight_line(grid):
    weights = grid_policy_weights(0.7, 0.2, 0.9, grid=grid, steps=64, shift=1.0, least=1e-6)
    assert weights.sum() == pytest.approx(0.2 - 0.9, abs=1e-12)
    assert (weights <= 0).all()


def test_a_policys_substeps_converge_to_its_flow():
    """dx/dtau = (x - x0(tau)) / tau, x0 linear from a at tau = 1 to b at 1/2: x(1/2) = x/2 + a/2 + (b-a)(1 - ln 2)."""
    slope = []
    for steps in (256, 512):
        w_end, w_start = grid_policy_weights(1.0, 0.5, 1.0, grid=2, steps=steps, shift=1.0, least=1e-6)
        slope.append(-w_end - (1 - np.log(2)))
        assert -w_end - w_start == pytest.approx(0.5, abs=1e-12)
    assert slope[0] / slope[1] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("grid", [2, 8, 17])
def test_a_policy_of_any_size_is_diffusers_own_and_has_gradients(grid):
    x, m = torch.randn(2, 5, 3), torch.randn(2, 5, 3 * grid)
    results = []
    for scheduler in both("PiflowScheduler", n_grid=grid, num_policy_substeps=8):
        scheduler.set_timesteps(3)
        leaf = m.clone().requires_grad_()
        new = scheduler.step(leaf, scheduler.timesteps[0], x).prev_sample
        results.append((new.detach(), *torch.autograd.grad(new.square().sum(), leaf)))
        with torch.no_grad():
            torch.testing.assert_close(
                scheduler.step(m, scheduler.timesteps[1], new).prev_sample.isfinite().all(), torch.tensor(True)
            )
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_policys_step_after_the_last_is_refused():
    for scheduler in both("PiflowScheduler"):
        scheduler.set_timesteps(2)
        x = first_sample(PROTOCOLS["PiflowScheduler"])
        for t in scheduler.timesteps:
            x = scheduler.step(x.repeat(1, 1, 1, 10), t, x).prev_sample
        with pytest.raises(RuntimeError):
            scheduler.step(x.repeat(1, 1, 1, 10), scheduler.timesteps[1], x)


def test_a_score_that_is_not_rescaled_is_eulers_step_and_its_noise_keeps_the_law():
    """Of data N(0, 1), eps is sigma x / v; in a short step the variance v follows alpha^2 + sigma^2."""
    s, t = (Points(*(np.float64(v) for v in (1 - a, a, 1 - a))) for a in (0.4, 0.4001))
    assert score_ratio(s, 1.0, 0.7) == 1
    variance = [float(p.alpha**2 + p.sigma**2) for p in (s, t)]
    for langevin in (None, 0.9):
        row = rescaled_row(s, t, "flow_prediction", 1.0, langevin)
        factor = row.x.x + row.x.history[0] * float(s.sigma) / variance[0]
        noise = sum(weight**2 for _, weight in row.x.noise)
        drift = (factor**2 * variance[0] + noise - variance[0]) / 1e-4
        assert drift == pytest.approx((variance[1] - variance[0]) / 1e-4, abs=2e-3)  # of order h
    line = rescaled_row(s, t, "flow_prediction", 1.0, None)
    velocity = line.x.history[0] * line.p_m  # of eps - x0
    assert velocity == pytest.approx(-1e-4)
    assert line.x.x + line.x.history[0] * line.p_x == pytest.approx(1)


def test_the_ratio_of_scores_rises_from_1_to_its_limit():
    at = [score_ratio(Points(1 - a, a, 1 - a), 2.5, 0.7) for a in (1e-6, 0.3, 0.6, 1 - 1e-9)]
    assert at == sorted(at)
    assert (at[0], at[-1]) == pytest.approx((1, 2.5))


@pytest.mark.parametrize(
    ("name", "call", "error"),
    [
        (name, call, error)
        for names, call, error in (
            (("LTXEulerAncestralRFScheduler", "FlowMatchLCMScheduler", "CMStochasticIterativeScheduler",
              "MiniMaxH3Scheduler", "PiflowScheduler"), {"timestep": 3}, ValueError),
            (("LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler", "PiflowScheduler"), ABSENT, ValueError),
            (("FlowMatchLCMScheduler", "CMStochasticIterativeScheduler", "SCMScheduler"), ABSENT, IndexError),
            (("HeliosDMDScheduler",), {}, (TypeError, AttributeError)),
            (("PiflowScheduler",), {"model_output": X}, ValueError),
            (("RFD4ProteinaScheduler",), {"timestep": torch.tensor(0.5)}, ValueError),
            (("RFD4ProteinaScheduler",), {"generator": torch.Generator()}, ValueError),
        )
        for name in names
    ],
    ids=lambda given: given if isinstance(given, str) else "+".join(given) if isinstance(given, dict) else "",
)  # fmt: skip
def test_bad_calls_are_the_errors_that_they_are_in_diffusers(name, call, error):
    for scheduler in both(name):
        PROTOCOLS[name].begin(scheduler, 4)
        given = {"model_output": X, "timestep": times_of(scheduler)[0], "sample": X}
        given |= PROTOCOLS[name].step(scheduler, 0, X.shape) if "RFD4" in name else {}
        if hasattr(scheduler, "scale_model_input"):
            scheduler.is_scale_input_called = True
        with pytest.raises(error):
            scheduler.step(**given | call)


@pytest.mark.parametrize("name", ["SCMScheduler", "LTXEulerAncestralRFScheduler", "RFD4ProteinaScheduler"])
def test_a_step_before_set_timesteps_is_refused(name):
    for scheduler in both(name):
        given = PROTOCOLS[name].step(scheduler, 0, X.shape) if "RFD4" in name else {}
        with pytest.raises(ValueError, match=r"set_timesteps"):
            scheduler.step(X, torch.tensor(0.5), X, **given)


def test_structures_are_stepped_in_order():
    for scheduler in both("RFD4ProteinaScheduler"):
        assert scheduler.step_index is None
        scheduler.set_timesteps(3)
        assert scheduler.step_index == 0
        mask = torch.ones(2, 3, dtype=torch.bool)
        with pytest.raises(ValueError, match="next element"):
            scheduler.step(X, scheduler.timesteps[1], X, mask)
        scheduler.step(X, scheduler.timesteps[0], X, mask)
        assert scheduler.step_index == 1
