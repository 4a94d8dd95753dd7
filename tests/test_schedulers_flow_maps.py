"""Schedulers of flow maps, consistency models and policies, and those whose protocol is not that of images.

What holds for all classes is in the other files; here is what those cannot ask of these.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import random

import diffusers
import pytest
import torch
from host_reads import HostReads
from in_double import in_double
from scheduler_protocols import OWN, PROTOCOLS, first_sample, make, output_of, times_of, walk

from fastdiff import schedulers

EXACT = 1e-9
OPTIONS = {
    "CMStochasticIterativeScheduler": [{}, {"clip_denoised": False}, {"s_noise": 1.1, "rho": 5.0, "sigma_data": 0.8}],
    "FlowMapEulerDiscreteScheduler": [{}, {"shift": 5.0}],
    "FlowMatchLCMScheduler": [
        {}, {"shift": 3.0}, {"invert_sigmas": True}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True},
        {"scale_factors": [1.0, 1.5, 2.0], "upscale_mode": "nearest"},
    ],
    "HeliosDMDScheduler": [{}, {"stages": 1, "shift": 3.0}, {"use_dynamic_shifting": True}],
    "HeliosScheduler": [
        {}, {"scheduler_type": "euler"}, {"solver_order": 3, "solver_type": "bh1"}, {"solver_order": 1},
        {"lower_order_final": False, "disable_corrector": [0, 2]}, {"use_dynamic_shifting": True},
        {"prediction_type": "epsilon"}, {"prediction_type": "sample"},
        {"prediction_type": "epsilon", "predict_x0": False},
        {"use_flow_sigmas": False, "prediction_type": "v_prediction"},
    ],
    "LTXEulerAncestralRFScheduler": [{}, {"eta": 0.0}, {"eta": 0.4, "s_noise": 1.1}],
    "MiniMaxH3Scheduler": [{}, {"shift": 3.0}],
    "PiflowScheduler": [{}, {"num_policy_substeps": 32, "shift": 1.0, "final_step_size_scale": 1.0}],
    "RFD4ProteinaScheduler": [
        {}, {"noise_mode": "tan", "schedule_mode": "power", "t_lim_ode": 0.8}, {"tail_steps": 1},
    ],
    "SCMScheduler": [{}, {"sigma_data": 1.0}],
}  # fmt: skip
IN_ORDER = ("HeliosDMDScheduler", "HeliosScheduler", "RFD4ProteinaScheduler")  # diffusers begins these at the start
NOT_ONE = {"tail_steps", "shift_terminal"}  # one step is refused, or NaN in diffusers
each_own = pytest.mark.parametrize("name", OWN)


class Exact(diffusers.HeliosScheduler):
    """diffusers takes 1e-8 for the last sigma, 0."""

    def _sigma_to_alpha_sigma_t(self, sigma):
        alpha, scaled = super()._sigma_to_alpha_sigma_t(sigma)
        return alpha, torch.as_tensor(sigma) if self.config.use_flow_sigmas else scaled


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert theirs.isfinite().all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, found in OPTIONS.items() for o in found], ids=str)
def test_samples_are_those_of_diffusers_to_rounding(name, options):
    peer = type("Peer", (Exact,), {}) if name == "HeliosScheduler" else getattr(diffusers, name)
    most = 5 if "scale_factors" in options else random.SystemRandom().randint(6, 30)
    counts = (4,) if "scale_factors" in options else (2, 3, most) if options.keys() & NOT_ONE else (1, 2, 3, most)
    unlimited = "lower_order_final" in options or options.get("solver_type") == "bh1" or "predict_x0" in options
    with in_double():
        ours, theirs = make(schedulers, name, **options), peer(**{**(PROTOCOLS[name].options or {}), **options})
        for n in counts:
            for begin in {0, n // 2} if name not in IN_ORDER and "scale_factors" not in options else {0}:
                # Onto sigma = 0 these are NaN without diffusers' 1e-8, and fastdiff takes the limit.
                end = n - 1 if unlimited else n
                images = [walk(name, each, n, begin, torch.float64, end) for each in (ours, theirs)]
                assert gap(*images) < EXACT, (n, begin)
                assert torch.equal(ours.timesteps, theirs.timesteps)


@each_own
def test_in_float32_too(name):
    with in_double():
        exact = walk(name, make(diffusers, name), 6, 0, torch.float64)
    ours, theirs = (walk(name, make(library, name), 6) for library in (schedulers, diffusers))
    assert ours.dtype == theirs.dtype == torch.float32
    assert gap(ours, exact) <= max(1e-5, 6 * gap(theirs, exact))


def advance(name: str, scheduler: object, i: int, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    arguments = PROTOCOLS[name].step(scheduler, i, x.shape)
    return scheduler.step(output_of(scheduler, x, t), t, x, **arguments, return_dict=False)[0]


@each_own
def test_a_copy_goes_on_where_the_original_is(name):
    scheduler = make(schedulers, name)
    PROTOCOLS[name].begin(scheduler, 5)
    x, times = first_sample(PROTOCOLS[name]), list(enumerate(times_of(scheduler)))
    torch.manual_seed(0)
    for i, t in times[:2]:
        x = advance(name, scheduler, i, t, x)
    results = []
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), scheduler):
        torch.manual_seed(1)
        y = x.clone()
        for i, t in times[2:]:
            y = advance(name, other, i, t, y)
        results.append(y)
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[2])


@pytest.mark.parametrize("name", [name for name in OWN if name != "HeliosDMDScheduler"])
def test_two_interleaved_runs_are_two_serial_runs(name):
    """Helios' distilled steps are told the scheduler's own times, which are the latest run's."""
    shared, protocol = make(schedulers, name), PROTOCOLS[name]
    times, samples, states = [], [], []
    for k, n in enumerate((4, 6)):
        protocol.begin(shared, n)
        times.append(list(enumerate(times_of(shared))))
        samples.append(first_sample(protocol, seed=k))
        states.append(torch.Generator().manual_seed(k).get_state())
    for i in range(6):
        for k in (0, 1):
            if i < len(times[k]):
                torch.set_rng_state(states[k])
                samples[k] = advance(name, shared, *times[k][i], samples[k])
                states[k] = torch.get_rng_state()
    for k, n in enumerate((4, 6)):
        alone = make(schedulers, name)
        protocol.begin(alone, n)
        x = first_sample(protocol, seed=k)
        torch.manual_seed(k)
        for i, t in enumerate(times_of(alone)):
            x = advance(name, alone, i, t, x)
        assert torch.equal(samples[k], x)


@each_own
def test_a_step_reads_no_value(name):
    scheduler = make(schedulers, name)
    PROTOCOLS[name].begin(scheduler, 4)
    x, times = first_sample(PROTOCOLS[name]), times_of(scheduler).unbind()
    calls = [(output_of(scheduler, x, t), t, PROTOCOLS[name].step(scheduler, i, x.shape)) for i, t in enumerate(times)]
    with HostReads() as reads:
        for m, t, arguments in calls:
            x = scheduler.step(m, t, x, **arguments, return_dict=False)[0]
    assert reads.seen == []


@each_own
def test_a_compiled_step_is_one_graph_and_the_same_numbers(name):
    scheduler = make(schedulers, name)

    def step(m, t, x, arguments):
        return scheduler.step(m * 2, t, x, **arguments, return_dict=False)[0]

    def run(function):
        torch.manual_seed(0)
        PROTOCOLS[name].begin(scheduler, 3)
        x = first_sample(PROTOCOLS[name])
        for i, t in enumerate(times_of(scheduler)):
            x = function(output_of(scheduler, x, t), t, x, PROTOCOLS[name].step(scheduler, i, x.shape))
        return x

    torch._dynamo.reset()
    torch.testing.assert_close(run(torch.compile(step, fullgraph=True, backend="eager")), run(step), rtol=0, atol=0)


@each_own
def test_step_takes_its_arguments_by_place_and_names_what_it_does_not_know(name):
    protocol, results = PROTOCOLS[name], []
    for by_place in (True, False):
        scheduler = make(schedulers, name)
        protocol.begin(scheduler, 3)
        t, x = times_of(scheduler)[0], first_sample(protocol)
        defaults = {k: p.default for k, p in inspect.signature(scheduler.step).parameters.items()}
        given = dict(list(defaults.items())[3:]) | protocol.step(scheduler, 0, x.shape) | {"return_dict": False}
        torch.manual_seed(0)
        m = output_of(scheduler, x, t)
        results.append(scheduler.step(m, t, x, *given.values()) if by_place else scheduler.step(m, t, x, **given))
    assert torch.equal(results[0][0], results[1][0])
    with pytest.raises(TypeError, match=rf"{name}.step\(\) got an unexpected keyword argument 'etta'"):
        scheduler.step(m, t, x, **given, etta=1.0)


@pytest.mark.parametrize("name", ["HeliosScheduler", "PiflowScheduler"])
def test_sigmas_edited_in_place_are_those_of_the_next_step(name):
    samples = []
    for library in (schedulers, diffusers):
        scheduler, x = make(library, name), first_sample(PROTOCOLS[name])
        PROTOCOLS[name].begin(scheduler, 5)
        for i, t in enumerate(scheduler.timesteps):
            if i == 2:
                scheduler.sigmas[3] *= 0.9
            x = advance(name, scheduler, i, t, x)
        samples.append(x)
    assert gap(*samples) < 1e-4
