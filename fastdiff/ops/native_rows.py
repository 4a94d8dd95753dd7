"""What the compiled solver_step_rows cannot take as it is: made plain, run again, and results copied back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_RAN, _OTHER_VALUES = 0, 1  # what the kernel answers; else 2, another layout


def plainly(run: Callable[..., int]) -> Callable[..., None]:
    """The contract of `reference_rows.run_solver_step_rows` for a compiled kernel."""

    def solver_step_rows(
        table: Tensor,
        rows: Tensor,
        buffers: Sequence[Tensor],
        m: Tensor | None,
        m_uncond: Tensor | None,
        guidance: Tensor | None,
        threshold: Tensor | None,
        seeds: Tensor | None,
        out_input: Tensor | None,
        others: Sequence[Tensor | None] = (),
        state: Tensor | None = None,
        weights: Tensor | None = None,
        out_state: Tensor | None = None,
    ) -> None:
        outputs, results = (m, m_uncond), (others, state)
        numbers = (guidance, threshold, seeds)
        answer = run(table, rows, buffers, *outputs, *numbers, out_input, *results, weights, out_state)
        if answer == _RAN:
            return
        if answer != _OTHER_VALUES:
            _run_flat(run, table, rows, buffers, *outputs, *numbers, out_input, *results, weights, out_state)
            return
        device, double = buffers[0].device, torch.float64
        table = table.to(device, double).contiguous()
        rows = rows.to(device, torch.int64).reshape(-1).contiguous()
        guidance, threshold = _plain(guidance, double, device), _plain(threshold, double, device)
        seeds, weights = _plain(seeds, torch.int64, device), _plain(weights, double, device)
        given = (table, rows, buffers, m, m_uncond, guidance, threshold, seeds, out_input)
        solver_step_rows(*given, others, state, weights, out_state)

    return solver_step_rows


def _plain(given: Tensor | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Numbers of each sample as the kernel takes them."""
    if given is None:
        return None
    return given.to(device, dtype).reshape(given.shape if given.ndim == 3 else -1).contiguous()


def _run_flat(run: Callable[..., int], table: Tensor, rows: Tensor, buffers: Sequence[Tensor], *arguments: Any) -> None:
    """`run` with contiguous [B, n] tensors."""

    def flat(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return [flat(each) for each in given]
        return None if given is None else given.reshape(len(given), -1).contiguous()

    m, m_uncond, *numbers, out_input, others, state, weights, out_state = arguments
    new_buffers, new_input, new_state = flat(buffers), flat(out_input), flat(out_state)
    others, state = flat(others), flat(state)
    run(table, rows, new_buffers, flat(m), flat(m_uncond), *numbers, new_input, others, state, weights, new_state)
    pairs = [*zip(buffers, new_buffers, strict=True), (out_input, new_input), (out_state, new_state)]
    for to, result in pairs:
        if to is not None:
            to.copy_(result.view(to.shape))
