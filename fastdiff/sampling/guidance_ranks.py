"""Guidance on several processes: each makes one of an evaluation's calls, and all get every output.

The step is done by every process, from the same bits, so their states stay the same and are not exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..ops import checks
from ..ops.checks import FLOATS
from .ranks import Ranks, initialised

NAMES = ("conditional", "unconditional", "first further", "second further", "third further")
FAILED = -1  # what a process tells the others of its call, besides: 0 for none, or 1 + the place of a dtype in FLOATS


def check_group(guidance_mode: str, group: object) -> None:
    """Raises ValueError where a group is given to a mode that has none."""
    if group is not None and guidance_mode != "ranks":
        raise ValueError(f"guidance_group: expected guidance_mode='ranks' beside it, got {guidance_mode!r}")


class OutputRanks:
    """The processes that make the calls of a run's guidance, one each: the conditional call is the first one's.

    group: a process group or a DeviceMesh of one dimension; None is all processes. calls: those of the whole run.
    Raises RuntimeError without torch.distributed, ValueError where there are not as many processes as calls.
    """

    def __init__(self, group: Any, calls: Iterable[int]) -> None:
        if not initialised():
            raise RuntimeError("guidance_mode: 'ranks' needs torch.distributed.init_process_group before it")
        self.ranks = Ranks(group)
        self._makers = {call: rank for rank, call in enumerate(sorted(calls))}
        if self.ranks.rank < 0:
            raise ValueError("guidance_group: expected a group that this process is in")
        if self.ranks.count != len(self._makers):
            names = ", ".join(NAMES[call] for call in self._makers)
            raise ValueError(
                f"guidance_group: expected {len(self._makers)} processes, one for each output ({names}), got"
                f" {self.ranks.count}"
            )
        # Where the host has no backend, the device would have to be waited for: then only the first exchange of each
        # kind tells whether a call has failed, and of later failures the backend's timeout does.
        self._told: dict[tuple[int, ...], list[int]] = {}

    def outputs(
        self, calls: Sequence[int], make: Callable[[int], Tensor], shape: tuple[int, ...], device: torch.device
    ) -> dict[int, Tensor]:
        """The outputs [B, ...] of an evaluation's calls, each contiguous. make: makes the call of this process.

        What `make` raises is raised here, and a RuntimeError in the other processes.
        """
        own: Tensor | None = None
        error: Exception | None = None
        for call in calls:
            if self._makers[call] == self.ranks.rank:
                try:
                    own = make(call).contiguous()  # the layout would change the rounding of inner products
                    checks.require_float("model", own)
                except Exception as raised:
                    error = raised
        told = self._all_told(tuple(calls), own, error, device)
        if error is not None:
            raise error
        for call in calls:
            if told[self._makers[call]] == FAILED:
                raise RuntimeError(f"model: the {NAMES[call]} call failed in its process, whose own error says why")
        return self._exchanged(calls, own, told, shape, device)

    def _all_told(
        self, calls: tuple[int, ...], own: Tensor | None, error: Exception | None, device: torch.device
    ) -> list[int]:
        """What every process tells of its call."""
        if calls not in self._told or self.ranks.on_host:
            word = FAILED if error else 0 if own is None else 1 + FLOATS.index(own.dtype)
            self._told[calls] = self.ranks.told(word, device)
        return self._told[calls]

    def _exchanged(
        self, calls: Sequence[int], own: Tensor | None, told: list[int], shape: tuple[int, ...], device: torch.device
    ) -> dict[int, Tensor]:
        """Every output, from the process that has made it."""
        found, waiting = {}, []
        for call in calls:
            maker = self._makers[call]
            mine = own if maker == self.ranks.rank else None
            found[call] = torch.empty(shape, dtype=FLOATS[told[maker] - 1], device=device) if mine is None else mine
            source = self.ranks.name_of(maker)
            waiting.append(dist.broadcast(found[call], src=source, group=self.ranks.group, async_op=True))
        for work in waiting:
            work.wait()
        return found
