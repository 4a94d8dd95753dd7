"""When a run can end: stop tokens, and whether all is done, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Stop(NamedTuple):
    """What ends a sequence: any of these tokens [n], and the token that fills what comes after."""

    tokens: Tensor
    fill: int

    def after(self, tokens: Tensor, open: Tensor) -> Tensor:
        """[B, N] whether a token was generated after the first generated stop token."""
        hit = open & torch.isin(tokens, self.tokens)
        return open & (hit.cumsum(-1) > hit.long())

    def filled(self, tokens: Tensor, open: Tensor) -> Tensor:
        """The tokens [B, N], and `fill` after a stop token."""
        return tokens.masked_fill(self.after(tokens, open), self.fill)


def stop_of(stop: int | Sequence[int] | None, fill: int | None, mask_id: int, device: torch.device) -> Stop | None:
    """Raises ValueError naming the argument."""
    if stop is None:
        if fill is not None:
            raise ValueError("fill: expected a stop token beside it, got none")
        return None
    numbers = [stop] if isinstance(stop, int) else list(stop)
    if not numbers or not all(isinstance(token, int) and token >= 0 and token != mask_id for token in numbers):
        raise ValueError(f"stop: expected tokens' numbers >= 0 that are not the mask, got {stop!r}")
    filler = numbers[0] if fill is None else fill
    if not isinstance(filler, int) or filler < 0 or filler == mask_id:
        raise ValueError(f"fill: expected a token's number >= 0 that is not the mask, got {filler!r}")
    return Stop(torch.tensor(numbers, device=device), filler)


class Watch:
    """Whether a flag on the device is set. On a GPU it answers for the flag before, so that a step is always queued."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, torch.cuda.Event] | None = None

    def __call__(self, flag: Tensor) -> bool:
        if not flag.is_cuda:
            return bool(flag)
        copy = torch.empty((), dtype=torch.bool, pin_memory=True)
        copy.copy_(flag, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        before, self._before = self._before, (copy, event)
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])
