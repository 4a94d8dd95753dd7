"""A run's state is its own: threads and interleaved runs share a scheduler, and a step makes nobody wait."""

from __future__ import annotations

import copy
import pickle
import threading

import diffusers
import pytest
import torch
from scheduler_loops import QUICK, loop, model, start
from scheduler_protocols import BROWNIAN, STANDARD
from test_no_sync import HostReads

import fastdiff
from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
OPTIONS = {"PNDMScheduler": {"skip_prk_steps": True}, "DPMSolverSDEScheduler": {"noise_sampler_seed": 1}, **QUICK}
QUIET = [name for name in STANDARD if name not in BROWNIAN]
each_class = pytest.mark.parametrize("name", STANDARD)


def make(name: str, **options: object) -> object:
    return getattr(schedulers, name)(**{**OPTIONS.get(name, {}), **options})


def predicted(scheduler: object, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return model(scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, t)


def alone(name: str, n: int, seed: int) -> torch.Tensor:
    scheduler = make(name)
    scheduler.set_timesteps(n)
    torch.manual_seed(seed)
    x = start(scheduler)
    for t in scheduler.timesteps:
        x = scheduler.step(predicted(scheduler, x, t), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", QUIET)
def test_two_interleaved_runs_are_two_serial_runs(name):
    """Each has called set_timesteps, and one changes its sample between steps, as inpainting does."""
    shared = make(name)
    times, samples, states = [], [], []
    for n, seed in ((6, 0), (9, 1)):
        shared.set_timesteps(n)
        times.append(shared.timesteps)
        samples.append(start(shared))
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
    for i in range(max(map(len, times))):
        for k in (0, 1):
            if i < len(times[k]):
                t = times[k][i]
                torch.set_rng_state(states[k])
                samples[k] = shared.step(predicted(shared, samples[k], t), t, samples[k], return_dict=False)[0]
                states[k] = torch.get_rng_state()
                samples[k] = samples[k].clone() if k else samples[k]
    assert torch.equal(samples[0], alone(name, 6, 0))
    assert torch.equal(samples[1], alone(name, 9, 1))


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"])
def test_two_loops_over_the_same_times_are_told_apart_by_the_sample_that_step_returned(name):
    shared = make(name)
    shared.set_timesteps(7)
    samples = [start(shared), 2 * start(shared)]
    for t in shared.timesteps:
        for k in (0, 1):
            samples[k] = shared.step(predicted(shared, samples[k], t), t, samples[k], return_dict=False)[0]
    other = make(name)
    for k in (0, 1):
        other.set_timesteps(7)
        x = (k + 1) * start(other)
        for t in other.timesteps:
            x = other.step(predicted(other, x, t), t, x, return_dict=False)[0]
        assert torch.equal(samples[k], x)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_threads_share_a_scheduler(name):
    shared, results, barrier = make(name), {}, threading.Barrier(4)

    def run(n: int) -> None:
        barrier.wait()
        shared.set_timesteps(n)
        x = start(shared)
        for t in shared.timesteps:
            x = shared.step(predicted(shared, x, t), t, x, return_dict=False)[0]
        results[n] = x

    threads = [threading.Thread(target=run, args=(n,)) for n in (5, 8, 11, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in (5, 8, 11, 14):
        assert torch.equal(results[n], alone(name, n, 0))


def test_a_second_loop_needs_no_second_set_timesteps():
    scheduler = make("DPMSolverMultistepScheduler")
    scheduler.set_timesteps(6)
    first, second = (loop(scheduler)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", QUIET)
def test_a_step_reads_no_value(name):
    scheduler = make(name)
    scheduler.set_timesteps(5)
    x = start(scheduler)
    outputs = [torch.randn_like(x) for _ in scheduler.timesteps]
    times = scheduler.timesteps.unbind()
    with HostReads() as reads:
        for t, m in zip(times, outputs, strict=True):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, t)
            x = scheduler.step(m, t, x, return_dict=False)[0]
    assert reads.seen == []


@each_class
def test_a_compiled_step_is_one_graph_and_the_same_numbers(name):
    scheduler = make(name)

    def advance(m: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return scheduler.step(m * 2, t, x, return_dict=False)[0]

    def run(function: object) -> torch.Tensor:
        torch.manual_seed(0)
        scheduler.set_timesteps(12)
        x = start(scheduler)
        for t in scheduler.timesteps:
            x = function(predicted(scheduler, x, t), t, x)
        return x

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = run(torch.compile(advance, fullgraph=True, backend="aot_eager"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch.equal(compiled, run(advance))


@each_class
def test_a_copy_goes_on_where_the_original_is(name):
    """As the panorama pipeline has it, which also puts a copied __dict__ back."""
    scheduler = make(name)
    scheduler.set_timesteps(6)
    x = start(scheduler)
    times = list(scheduler.timesteps)
    torch.manual_seed(0)
    for t in times[:3]:
        x = scheduler.step(predicted(scheduler, x, t), t, x, return_dict=False)[0]
    if name in BROWNIAN:
        return  # a Brownian tree has no copy
    saved = copy.deepcopy(scheduler.__dict__)
    others = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), scheduler]
    results = []
    for other in others:
        torch.manual_seed(1)
        y = x.clone()
        for t in times[3:]:
            y = other.step(predicted(other, y, t), t, y, return_dict=False)[0]
        results.append(y)
    scheduler.__dict__.update(saved)
    torch.manual_seed(1)
    for t in times[3:]:
        x = scheduler.step(predicted(scheduler, x, t), t, x, return_dict=False)[0]
    assert all(torch.equal(y, x) for y in results)


def test_editing_code_may_write_the_history():
    """LEdits++ pushes outputs, counts them, and moves step_index itself."""
    ours, theirs = (library.DPMSolverMultistepScheduler(solver_order=2) for library in (fastdiff, diffusers))
    results = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(8)
        x = start(scheduler)
        for i, t in enumerate(scheduler.timesteps):
            if i == 3:
                scheduler.model_outputs = [0.5 * h for h in scheduler.model_outputs]
            if i == 5:
                scheduler.model_outputs, scheduler.lower_order_nums = [None] * 2, 0
            x = scheduler.step(model(x, t), t, x).prev_sample
        assert scheduler.step_index == 8
        assert scheduler.lower_order_nums == 2
        results.append(x)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-4)


def test_gradients_reach_the_sample_through_every_step():
    scheduler = make("DPMSolverMultistepScheduler")
    first = start(scheduler, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(loop_from(scheduler, first).sum(), first)
    step = 1e-6 * torch.randn_like(first)
    with torch.no_grad():
        up, down = (loop_from(scheduler, first + sign * step).sum() for sign in (1, -1))
    torch.testing.assert_close((gradient * step).sum(), (up - down) / 2, rtol=1e-4, atol=0.0)


def loop_from(scheduler: object, x: torch.Tensor) -> torch.Tensor:
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample
    return x


@each_class
def test_a_run_may_begin_with_the_image_of_the_one_before(name):
    """The very tensor that its last step returned, after set_timesteps and without it."""
    scheduler = make(name)
    images = []
    for copied in (False, True):
        scheduler.set_timesteps(4)
        x = start(scheduler)
        for n in (None, 5, None):
            if n is not None:
                scheduler.set_timesteps(n)
            torch.manual_seed(0)
            for t in scheduler.timesteps:
                x = scheduler.step(predicted(scheduler, x, t), t, x, return_dict=False)[0]
            x = x.clone() if copied else x
        images.append(x)
    assert torch.equal(*images)
