"""The t that a model is given: the plan's own numbers in every run, whatever a model did with them in another."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.sampling.program import program_of

VP = fd.Schedule.scaled_linear()


def seen_by(plan: fd.Plan, noise: Tensor, spoil: Callable[[Tensor], object] = lambda t: None) -> list[Tensor]:
    """What the model is told in one run. spoil: what the model then does with it."""
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t.detach().clone())
        spoil(t)
        return x * 0.1

    fd.sample(model, plan, noise)
    return seen


def expected(plan: fd.Plan, noise: Tensor) -> list[Tensor]:
    dtype = torch.float64 if noise.dtype == torch.float64 else torch.float32
    return [torch.full((len(noise),), row.t, dtype=dtype) for row in plan.rows]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.mul_(1000),
        lambda t: t.data.mul_(1000),
        lambda t: t.numpy().fill(1.0),
        lambda t: t.unsqueeze_(-1),
        lambda t: t.requires_grad_(True),
    ],
    ids=["in place", "data", "numpy", "shape", "gradient"],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_a_model_does_to_its_t_does_not_reach_the_next_run(
    spoil: Callable[[Tensor], object], mode: Callable
) -> None:
    plan, noise = fd.plan("dpmpp_2m", VP, 5), torch.randn(3, 4)
    with mode():
        for _ in range(2):
            torch.testing.assert_close(seen_by(plan, noise, spoil), expected(plan, noise), rtol=0, atol=0)
        again: list[bool] = []
        seen_by(plan, noise, lambda t: again.append(t.requires_grad))
        assert not any(again)


def test_runs_of_other_batches_and_dtypes_get_their_own_times() -> None:
    plan = fd.plan("unipc", VP, 6)
    for noise in (torch.randn(2, 4), torch.randn(5, 4), torch.randn(5, 4, dtype=torch.float64), torch.randn(2, 4)):
        torch.testing.assert_close(seen_by(plan, noise), expected(plan, noise), rtol=0, atol=0)


def test_a_run_inside_a_models_call_has_times_of_its_own() -> None:
    plan, noise = fd.plan("ddim", VP, 4), torch.randn(1, 3)
    inner: list[list[Tensor]] = []

    def spoil_and_nest(t: Tensor) -> None:
        inner.append(seen_by(plan, noise, lambda t: t.zero_()))

    outer = seen_by(plan, noise, spoil_and_nest)
    for seen in (outer, *inner):
        torch.testing.assert_close(seen, expected(plan, noise), rtol=0, atol=0)


def test_threads_do_not_share_times() -> None:
    kept = program_of(fd.plan("ddim", VP, 4)).kept_times
    kept.give_back(kept.borrow(2, torch.float32))
    for _ in range(20):
        barrier, lent = threading.Barrier(8), []

        def work(barrier: threading.Barrier = barrier, lent: list = lent) -> None:
            barrier.wait()
            lent.append(kept.borrow(2, torch.float32))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({times.memory.data_ptr() for times in lent}) == 8
        kept.give_back(lent[0])


def test_times_are_kept_from_run_to_run() -> None:
    plan, noise = fd.plan("ddim", VP, 4), torch.randn(2, 3)
    told: list[list[int]] = []
    for _ in range(2):
        told.append([])
        seen_by(plan, noise, lambda t: told[-1].append(t.data_ptr()))
    assert told[0] == told[1]
    np.testing.assert_array_equal(program_of(plan).times, [row.t for row in plan.rows])
