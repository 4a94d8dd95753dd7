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
        outputs = (m, m_uncond)
        numbers: tuple[Tensor | None, ...] = (guidance, threshold, seeds)
        rest = (others, state, weights, out_state)
        answer = run(table, rows, buffers, *outputs, *numbers, out_input, *rest)
        if answer == _RAN:
            return
        if answer == _OTHER_VALUES:
            device = buffers[0].device
            table, rows = _plain(table, torch.float64, device), _plain(rows, torch.int64, device)
            numbers = tuple(None if t is None else _plain(t, _DTYPES[k], device) for k, t in enumerate(numbers))
            weights = None if weights is None else _plain(weights, torch.float64, device)
            again = solver_step_rows
        else:
            again = _flat(run)
        again(table, rows, buffers, *outputs, *numbers, out_input, others, state, weights, out_state)

    return solver_step_rows


_DTYPES = (torch.float64, torch.float64, torch.int64)


def _plain(given: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return given.to(device, dtype).contiguous()


def _flat(run: Callable[..., int]) -> Callable[..., None]:
    """`run` with contiguous [B, n] tensors."""

    def flat(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return [flat(each) for each in given]
        return None if given is None else given.reshape(len(given), -1).contiguous()

    def again(table: Tensor, rows: Tensor, buffers: Sequence[Tensor], *arguments: Any) -> None:
        *inputs, out_input, others, state, weights, out_state = arguments
        m, m_uncond, *numbers = inputs
        written = [*buffers, *(t for t in (out_input, out_state) if t is not None)]
        copies = flat(written)
        results = iter(copies[len(buffers) :])
        new_input, new_state = (None if t is None else next(results) for t in (out_input, out_state))
        pool = copies[: len(buffers)]
        run(table, rows, pool, flat(m), flat(m_uncond), *numbers, new_input, flat(others), flat(state), weights, new_state)
        for to, result in zip(written, copies, strict=True):
            to.copy_(result.view(to.shape))

    return again
