"""What the processes of a run agree on before it starts: a run that several processes share is the same in all."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..plans.plan import Plan
from .corrected import CorrectedCalls
from .guidance_ranks import OutputRanks
from .guided import GuidedCalls
from .model import ModelCalls
from .ranks import Ranks, fingerprint
from .rule import Guidance
from .sharded import Sharded


class OverRanks:
    """How a run is shared: guidance's calls by the processes `apart`, parts of samples by those of a `shard`."""

    def __init__(self, apart: OutputRanks | None, shard: Sharded | None) -> None:
        self.apart, self.shard = apart, shard

    @property
    def groups(self) -> list[Ranks]:
        """The groups that this process shares the run with."""
        return [each.ranks for each in (self.shard, self.apart) if each is not None]

    def require_same(self, x: Tensor, seeds: Tensor | None, guidance: object, plan: Plan | str) -> None:
        """Raises ValueError naming what the processes have different values of.

        x: [B, ...] the start. plan: or the options of the step size, in words.
        """
        if not self.groups:
            return
        values: dict[str, Any] = {
            "plan": plan if isinstance(plan, str) else f"{plan.nfe} rows {zlib.crc32(plan.table.tobytes()):08x}",
            "seeds": None if seeds is None else fingerprint(seeds),
            "guidance": _told(guidance),
        }
        if self.shard is not None:
            shape = [*x.shape]
            shape[self.shard.dim] = sum(self.shard.sizes)
            self.shard.ranks.require_same(noise=f"{shape} {x.dtype}", shard=str(self.shard.sizes), **values)
        if self.apart is not None:
            self.apart.ranks.require_same(noise=fingerprint(x), **values)


def _told(guidance: object) -> object:
    """What the processes compare of a guidance; what its functions return is not known."""
    if isinstance(guidance, Tensor):
        return fingerprint(guidance.double())
    return type(guidance).__name__ if isinstance(guidance, Guidance) else guidance


def refuse_with_shard(**options: object) -> None:
    """Raises ValueError naming an option, where it is given, that looks at whole samples."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name}: it looks at whole samples, of which a process has a part with shard")


def check_sharded(shard: Sharded, calls: ModelCalls | GuidedCalls, shape: Sequence[int]) -> None:
    """Raises ValueError where the guidance needs other positions along the sharded dimension than this process's."""
    if not isinstance(calls, GuidedCalls):
        return
    guidance, ndim = calls.of, len(shape)
    combined = any(rule.combine is not None for rule in calls.rules)
    if combined and not guidance.by_position(shard.dim % ndim, ndim):
        raise ValueError(f"guidance: {guidance!r} reads other positions along dimension {shard.dim}, which is sharded")
    if any(getattr(call, "of_whole_samples", False) for call in guidance.extra):
        raise ValueError(
            f"guidance: {guidance!r} takes the gradient of a function of whole samples; shard divides them"
        )


def check_gradients(apart: OutputRanks | None, calls: object) -> None:
    """Raises ValueError where a correction takes gradients through outputs of other processes."""
    if apart is not None and isinstance(calls, CorrectedCalls) and calls.correction.gradients:
        raise ValueError(
            "correction: it takes gradients through the model, and guidance_mode='ranks' has outputs of other processes"
        )
