"""A run's state is a value: runs share nothing, interleaved or in threads; and the loop itself costs torch nothing."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastdiff as fd
from fastdiff.ops import registry

VP = fd.Schedule.scaled_linear()
SOLVERS = [entry.name for entry in fd.solvers()]
CASE = registry.CallSpec("cpu", torch.float32, (2, 6))
BACKENDS = [name for name in ("reference", "cpu") if registry.refusal("solver_step", name, CASE) is None]


def model(x, t):
    return torch.sin(1.3 * x + (t / 1000).view(-1, 1).to(x.dtype))


def run_of(solver: str, seed: int, batch: int = 2):
    seeds = [seed + b for b in range(batch)]
    return fd.iter_sample(model, fd.plan(solver, VP, 6), fd.noise.randn((batch, 6), seeds), seeds=seeds)


def finish(steps) -> torch.Tensor:
    for step in steps:
        x = step.x
    return x.clone()


@pytest.mark.parametrize("solver", SOLVERS)
def test_interleaved_runs_equal_serial_runs_bit_for_bit(solver):
    serial = [finish(run_of(solver, 1)), finish(run_of("unipc", 50, batch=3))]
    first, second = run_of(solver, 1), run_of("unipc", 50, batch=3)
    last = [None, None]
    for _ in range(40):
        for k, steps in enumerate((first, second)):
            step = next(steps, None)
            last[k] = last[k] if step is None else step.x.clone()
    assert torch.equal(last[0], serial[0])
    assert torch.equal(last[1], serial[1])


def test_one_plan_in_two_threads_gives_what_it_gives_alone():
    plan, results = fd.plan("dpmpp_sde", VP, 12), {}
    noises = {seed: fd.noise.randn((4, 300), [seed] * 4) for seed in range(4)}

    def work(seed: int) -> None:
        for _ in range(5):
            results.setdefault(seed, []).append(fd.sample(model, plan, noises[seed], seeds=[seed] * 4))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in noises]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, noise in noises.items():
        alone = fd.sample(model, plan, noise, seeds=[seed] * 4)
        assert len(results[seed]) == 5
        assert all(torch.equal(result, alone) for result in results[seed])


def test_a_run_abandoned_half_way_leaves_the_next_one_alone():
    plan, noise = fd.plan("unipc", VP, 6), torch.randn(2, 6)
    expected = fd.sample(model, plan, noise)
    half = fd.iter_sample(model, plan, noise)
    next(half)
    next(half)
    assert torch.equal(fd.sample(model, plan, noise), expected)


class Ops(TorchDispatchMode):
    """The names of the torch ops dispatched while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def ops_of_each_step(solver: str, **options: object) -> list[list[str]]:
    """What is dispatched between one yield and the next, with a model that dispatches nothing."""
    output, plan = torch.randn(2, 6), fd.plan(solver, VP, 8)
    guided = "guidance" in options
    both = torch.cat([output, output])
    steps = fd.iter_sample(lambda x, t: both if guided else output, plan, torch.randn(2, 6), seeds=[1, 2], **options)
    found = []
    for _ in range(plan.nfe):
        with Ops() as ops:
            next(steps)
        found.append(ops.names)
    return found


@pytest.mark.parametrize("solver", SOLVERS)
def test_after_warm_up_the_loop_dispatches_no_torch_op_besides_the_backends(solver):
    """None at all with the compiled backend; the reference's own, which neither wait for a value nor make state."""
    for backend in BACKENDS:
        with fd.backend(backend):
            for names in ops_of_each_step(solver)[6:]:
                assert not names or backend == "reference"
                assert not {"aten._local_scalar_dense.default", "aten.empty_like.default"} & set(names)


def test_guidance_in_one_batch_only_slices_the_models_output():
    for backend in BACKENDS:
        with fd.backend(backend):
            for names in ops_of_each_step("dpmpp_2m", guidance=2.0, uncond={})[6:]:
                assert set(names) <= {"aten.slice.Tensor"} or backend == "reference"
                assert "aten._local_scalar_dense.default" not in names
