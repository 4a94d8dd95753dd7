"""The automatic choice: the backends for a call, best first, as the benchmarks in bench/ found them.

A backend that refuses the case is passed over; PyTorch's own op and the reference come after all named here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .call_spec import CallSpec


def preferred(op: str, case: CallSpec) -> tuple[str, ...]:
    """Backends to try for the case, best first."""
    return _TABLE[op](case)


def _solver_step(case: CallSpec) -> tuple[str, ...]:
    return {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(case.device, ())


def _token_stats(case: CallSpec) -> tuple[str, ...]:
    return {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(case.device, ())


def _gram(case: CallSpec) -> tuple[str, ...]:
    return {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(case.device, ())


def _group_norm(case: CallSpec) -> tuple[str, ...]:
    return {"cpu": ("cpu",), "cuda": ("triton", "cuda")}.get(case.device, ())


class Measured(NamedTuple):
    """Where a measurement found kernels that are faster than PyTorch's own op, best first."""

    capability: tuple[int, int]  # of the CUDA device
    head_sizes: tuple[int, ...]
    keys: range
    backends: tuple[str, ...]

    def fits(self, case: CallSpec) -> bool:
        """Whether the measurement holds for this call on this device."""
        *_, keys, head_size = case.shape
        if head_size not in self.head_sizes or keys not in self.keys or case.dtype not in _HALF:
            return False
        return torch.version.hip is None and torch.cuda.get_device_capability() == self.capability


# One line for each win, as Measured((9, 0), (40, 80), range(1, 129), ("cuda", "triton")). The first that fits counts.
# Empty until bench/ has timed the kernels on a GPU: reasons are no measurement. Until then they run where forced.
_ATTENTION_ON_CUDA: tuple[Measured, ...] = ()
_HALF = (torch.float16, torch.bfloat16)


def _attention(case: CallSpec) -> tuple[str, ...]:
    if case.device == "cuda":
        return next((measured.backends for measured in _ATTENTION_ON_CUDA if measured.fits(case)), ())
    return ("cpu",) if case.device == "cpu" and _is_faster_on_cpu(case) else ()


def _is_faster_on_cpu(case: CallSpec) -> bool:
    """Whether the compiled kernel is faster than PyTorch's op: a vector lane is a query, so a few leave most idle."""
    _, _, queries, keys, _ = case.shape
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False  # not measured
    if case.dtype in _HALF and torch.cpu._is_amx_tile_supported():
        return False  # PyTorch multiplies halves in the processor's matrix tiles, at many times the rate of float32
    return queries >= 32 and keys > 1


_TABLE = {
    "solver_step": _solver_step,
    "solver_step_rows": _solver_step,
    "gram": _gram,
    "group_norm": _group_norm,
    "attention": _attention,
    "token_stats": _token_stats,
}
