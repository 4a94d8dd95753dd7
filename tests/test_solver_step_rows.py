"""solver_step_rows: a sample of any mixture has the bits that `solver_step` gives it alone, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import INTERPRETING
from solver_step_cases import Case
from solver_step_rows_cases import CASES, INTERPRETABLE, Mixture, assert_same, make_mixture, one_by_one
from torch import Tensor

from fastdiff.ops import registry

OP = "solver_step_rows"


def chosen(op: str, backend: str, x: Tensor) -> Callable[..., None]:
    with registry.backend(backend):
        return registry.choose(op, registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))


def skip_if_refused(backend: str, case: Case, device: str) -> None:
    reason = registry.refusal(OP, backend, registry.CallSpec(device, case.state, case.shape))
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


def run(backend: str, mixture: Mixture) -> Mixture:
    chosen(OP, backend, mixture.buffers[0])(*mixture.arguments())
    return mixture


@pytest.mark.parametrize("case", INTERPRETABLE if INTERPRETING else CASES, ids=str)
def test_a_mixture_has_the_bits_of_one_by_one(backend: str, device: str, case: Case) -> None:
    skip_if_refused(backend, case, device)
    mixture = make_mixture(case, device)
    right = one_by_one(chosen("solver_step", backend, mixture.buffers[0]), mixture.cloned())
    assert_same(run(backend, mixture), right)
