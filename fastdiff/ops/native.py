"""The compiled kernels of fastdiff.ops._C, for CPU and CUDA tensors.

The extension was built without torch and is bound to it here. It reads tensors itself, so its functions are the
backends' `run` with no Python in between; only arguments that it cannot take as they are come back to `_plain_values`
and `_plain_layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _C
from .call_spec import CallSpec, Implementation
from .definitions.attention import MAX_HEAD_SIZE
from .layout import layout_of
from .native_rows import plainly

_KINDS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3, torch.int64: 4}
_FLOATING = tuple(dtype for dtype in _KINDS if dtype.is_floating_point)


def _plain_values(run: Callable[..., Any], table: np.ndarray, i: int, x: Tensor, *rest: Any) -> None:
    """`run` with guidance, threshold and seeds [B] and weights in the kernel's dtype, on x's device."""
    tensors, numbers, outputs, (others, state, weights, out_state) = rest[:4], rest[4:7], rest[7:11], rest[11:]

    def plain(given: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        return given.to(x.device, dtype).reshape(shape).contiguous()

    dtypes = (torch.float64, torch.float64, torch.int64)
    numbers = tuple(None if t is None else plain(t, dtype, [-1]) for t, dtype in zip(numbers, dtypes, strict=True))
    weights = None if weights is None else plain(weights, torch.float64, weights.shape)
    run(table, i, x, *tensors, *numbers, *outputs, others, state, weights, out_state)


def _plain_layout(run: Callable[..., Any], table: np.ndarray, i: int, *arguments: Any) -> None:
    """`run` with contiguous [B, n] tensors."""
    inputs, numbers, outputs, combined = arguments[:5], arguments[5:8], arguments[8:12], arguments[12:]
    others, state, weights, out_state = combined
    outputs = (*outputs, out_state)

    def flat(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return [flat(each) for each in given]
        return None if given is None else given.reshape(len(given), -1).contiguous()

    *results, new_state = (None if out is None else torch.empty_like(flat(out)) for out in outputs)
    run(table, i, *map(flat, inputs), *numbers, *results, flat(others), flat(state), weights, new_state)
    for out, result in zip(outputs, (*results, new_state), strict=True):
        if out is not None and result is not None:
            out.copy_(result.view(out.shape))


def _attention(run: Callable[..., Any]) -> Callable[..., Tensor]:
    """Attention in new memory laid out like q; heads whose elements are no neighbours along D are copied."""

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
        out = torch.empty_like(q)
        run(q, k, v, out, scale)
        return out

    return attention


def _group_norm(run: Callable[..., Any]) -> Callable[..., Tensor]:
    """Group norm in new memory laid out like x; what `run` cannot read as it is, is copied."""

    def group_norm(
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        add: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        act: str,
    ) -> Tensor:
        out = torch.empty_like(x)
        silu = int(act == "silu")
        if not run(x, out, groups, weight, bias, eps, add, scale, shift, silu):
            x = x.contiguous(memory_format=layout_of(x))
            out = torch.empty_like(x)
            weight, bias, add, scale, shift = (
                None if t is None else t.contiguous() for t in (weight, bias, add, scale, shift)
            )
            run(x, out, groups, weight, bias, eps, add, scale, shift, silu)
        return out

    return group_norm


def _token_stats(run: Callable[..., Any]) -> Callable[..., None]:
    """Of rows whose logits are neighbours, [B, L, V]; others are copied. The results are contiguous."""

    def token_stats(logits: Tensor, logits_uncond: Tensor | None, *given: Any) -> None:
        *values, top_k, top_p, exclude, numbers, tokens = given
        shape = (logits.shape[0], logits.shape[1:-1].numel(), logits.shape[-1])

        def rows(t: Tensor) -> Tensor:
            t = t.reshape(shape)
            return t if t.stride(-1) == 1 else t.contiguous()

        def flat(t: Tensor) -> Tensor:
            return (t if t.ndim < 2 else t.reshape(shape[:2])).contiguous()

        uncond = None if logits_uncond is None else rows(logits_uncond)
        plain = [None if t is None else flat(t) for t in values]
        out = numbers.view(-1, *shape[:2]), tokens.view(-1, *shape[:2])
        run(rows(logits), uncond, *plain, top_k, top_p, exclude, *out)

    return token_stats


def _stream(device: int) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _workspace(size: int, device: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=f"cuda:{device}")


def _bind(use_exchange: bool = True) -> None:
    """use_exchange: read tensors through DLPack's C interface where this torch has it."""
    run_time = (torch.get_num_threads, _stream, _workspace)
    _C.bind(torch.Tensor, _KINDS, *run_time, _plain_values, _plain_layout, use_exchange)


def _refuse_cpu(case: CallSpec) -> str | None:
    if case.device != "cpu":
        return "serves CPU tensors only"
    return _refuse_dtype(case)


def _refuse_cuda(case: CallSpec) -> str | None:
    if case.device != "cuda":
        return "serves CUDA tensors only"
    if _C.build_info()["cuda"] is None:
        return "fastdiff.ops._C was built without CUDA (no nvcc was found)"
    if torch.version.hip is not None:
        return "serves NVIDIA devices only"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return f"needs compute capability 8.0 or higher, the device has {capability[0]}.{capability[1]}"
    return _refuse_dtype(case)


def _refuse_dtype(case: CallSpec) -> str | None:
    return None if case.dtype in _FLOATING else f"serves float32, float64, float16 and bfloat16, not {case.dtype}"


def _refuse_cpu_attention(case: CallSpec) -> str | None:
    return _refuse_cpu(case) or _refuse_double(case)


def _refuse_cuda_attention(case: CallSpec) -> str | None:
    return _refuse_cuda(case) or _refuse_double(case) or _refuse_large_heads(case)


def _refuse_double(case: CallSpec) -> str | None:
    return "serves float32, float16 and bfloat16, not torch.float64" if case.dtype == torch.float64 else None


def _refuse_cpu_group_norm(case: CallSpec) -> str | None:
    return _refuse_cpu(case) or _refuse_double(case)


def _refuse_cuda_group_norm(case: CallSpec) -> str | None:
    return _refuse_cuda(case) or _refuse_double(case)


def _refuse_large_heads(case: CallSpec) -> str | None:
    size = case.shape[-1]
    return f"serves head sizes up to {MAX_HEAD_SIZE}, not {size}" if size > MAX_HEAD_SIZE else None


def _refuse_cpu_token_stats(case: CallSpec) -> str | None:
    return _refuse_cpu(case) or _refuse_double(case)


def _refuse_cuda_token_stats(case: CallSpec) -> str | None:
    return _refuse_cuda(case) or _refuse_double(case)


def _no_cuda(*_: object) -> Any:
    raise RuntimeError("fastdiff.ops._C was built without CUDA")


_bind()
IMPLEMENTS = {
    ("cpu", "solver_step"): Implementation(_C.solver_step_cpu, _refuse_cpu),
    ("cuda", "solver_step"): Implementation(getattr(_C, "solver_step_cuda", _no_cuda), _refuse_cuda),
    ("cpu", "solver_step_rows"): Implementation(plainly(_C.solver_step_rows_cpu), _refuse_cpu),
    ("cuda", "solver_step_rows"): Implementation(plainly(getattr(_C, "solver_step_rows_cuda", _no_cuda)), _refuse_cuda),
    ("cpu", "gram"): Implementation(_C.gram_cpu, _refuse_cpu),
    ("cuda", "gram"): Implementation(getattr(_C, "gram_cuda", _no_cuda), _refuse_cuda),
    ("cpu", "group_norm"): Implementation(_group_norm(_C.group_norm_cpu), _refuse_cpu_group_norm),
    ("cuda", "group_norm"): Implementation(
        _group_norm(getattr(_C, "group_norm_cuda", _no_cuda)), _refuse_cuda_group_norm
    ),
    ("cpu", "token_stats"): Implementation(_token_stats(_C.token_stats_cpu), _refuse_cpu_token_stats),
    ("cuda", "token_stats"): Implementation(
        _token_stats(getattr(_C, "token_stats_cuda", _no_cuda)), _refuse_cuda_token_stats
    ),
    ("cpu", "attention"): Implementation(_attention(_C.attention_cpu), _refuse_cpu_attention),
    ("cuda", "attention"): Implementation(_attention(getattr(_C, "attention_cuda", _no_cuda)), _refuse_cuda_attention),
}
