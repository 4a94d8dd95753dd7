"""Guided steps without the model: fastdiff, diffusers' guider and scheduler, and the formulas op by op."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..bench_guidance import GUIDERS, METHODS, SHAPES, check, diffusers_step, eager_step, fastdiff_step, outputs
from .session import Calls, Session

SECTION = "guidance"
QUICK_SHAPES, QUICK_METHODS = [(2, 4, 8, 8)], ("CFG", "APG momentum")
HOST = 50


def guided_steps(session: Session) -> None:
    """Every method at every shape, in float32."""
    for shape in QUICK_SHAPES if session.quick else SHAPES:
        for method in QUICK_METHODS if session.quick else METHODS:
            for name, make in _contestants(method).items():
                calls = partial(_calls, make, method, shape, session.device)
                session.measure(SECTION, f"{method} {shape}", name, calls, host=3 if session.quick else HOST)


def _contestants(method: str) -> dict[str, Callable]:
    found = {"fastdiff": _ours, "eager": eager_step}
    return found | ({"diffusers": diffusers_step} if method in GUIDERS else {})


def _calls(make: Callable, method: str, shape: tuple[int, ...], device: str) -> Calls:
    return [make(method, *outputs(shape, device))]


def _ours(method: str, *given: object) -> Callable[[], object]:
    step, run = fastdiff_step(method, *given)
    check(method, step, run, *given[1:])
    return step
