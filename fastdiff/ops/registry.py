"""Which implementation serves which call: by device, dtype and shape, or the one the user forces."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from .auto_choice import preferred
from .call_spec import CallSpec, Implementation

BACKENDS = ("reference", "cpu", "triton", "cuda", "torch")
OPS = ("solver_step", "solver_step_rows", "gram", "group_norm", "attention", "token_stats")

_OWN_MODULES = {("reference", "solver_step_rows"): "reference_rows"}

_forced: ContextVar[str | None] = ContextVar("fastdiff_backend", default=None)


def forced_backend() -> str | None:
    """The backend that `backend()` or FASTDIFF_BACKEND asks for, or None for the automatic choice."""
    name = _forced.get() or os.environ.get("FASTDIFF_BACKEND") or "auto"
    return None if name == "auto" else _known(name)


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one backend for every fastdiff op in this context: `with fastdiff.backend("triton"): ...`.

    name: "reference", "cpu", "triton", "cuda", "torch", or "auto" for the automatic choice. A call that the forced
    backend cannot serve raises RuntimeError with each backend's reason.
    """
    token = _forced.set("auto" if name == "auto" else _known(name))
    try:
        yield
    finally:
        _forced.reset(token)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)} or auto, got {name!r}")
    return name


@functools.cache
def _load(op: str, name: str) -> Implementation | str:
    """The implementation, or why there is none."""
    module = {"cpu": "native", "cuda": "native", "triton": f"triton.{op}", "torch": "torch_ops"}.get(name, name)
    module = _OWN_MODULES.get((name, op), module)
    try:
        table = importlib.import_module(f"fastdiff.ops.{module}").IMPLEMENTS
    except ImportError as error:
        return f"has no {op}" if error.name == f"fastdiff.ops.{module}" else f"not available here ({error})"
    key = (name, op) if module == "native" else op
    return table.get(key, f"has no {op}")


def refusal(op: str, name: str, case: CallSpec) -> str | None:
    """Why backend `name` cannot serve the case, or None if it can."""
    found = _load(op, name)
    return found if isinstance(found, str) else found.refuse(case)


def choose(op: str, case: CallSpec) -> Callable[..., Any]:
    """The function that serves the case. Raises RuntimeError if a forced backend cannot."""
    return _choose(op, case, forced_backend())


def chosen(op: str, case: CallSpec) -> str:
    """The name of the backend that serves the case. Raises RuntimeError if a forced backend cannot."""
    return _chosen(op, case, forced_backend())


@functools.lru_cache(maxsize=4096)
def _choose(op: str, case: CallSpec, forced: str | None) -> Callable[..., Any]:
    found = _load(op, _chosen(op, case, forced))
    assert isinstance(found, Implementation)  # what `_chosen` names refuses nothing
    return found.run


def _chosen(op: str, case: CallSpec, forced: str | None) -> str:
    if forced is not None:
        if refusal(op, forced, case) is not None:
            raise RuntimeError(_explain(op, case, forced))
        return forced
    return next(name for name in (*preferred(op, case), "torch", "reference") if refusal(op, name, case) is None)


def _explain(op: str, case: CallSpec, forced: str) -> str:
    what = f"{op} on {case.device}, {case.dtype}, shape {case.shape}"
    reasons = (f"  {name}: {refusal(op, name, case) or 'can'}" for name in BACKENDS)
    return "\n".join([f"backend {forced!r} was asked for and cannot serve {what}:", *reasons])
