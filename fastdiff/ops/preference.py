"""The automatic choice: the backends for a call, best first, as the benchmarks in bench/ found them.

A backend that refuses the case is passed over; PyTorch's own op and the reference come after all named here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .registry import Case


def preferred(op: str, case: Case) -> tuple[str, ...]:
    """Backends to try for the case, best first."""
    return _TABLE[op](case)


def _solver_step(case: Case) -> tuple[str, ...]:
    return {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(case.device, ())


def _group_norm(case: Case) -> tuple[str, ...]:
    return ("cpu",) if case.device == "cpu" else ()


def _attention(case: Case) -> tuple[str, ...]:
    return ("cpu",) if case.device == "cpu" else ()


_TABLE = {"solver_step": _solver_step, "group_norm": _group_norm, "attention": _attention}
