"""A network whose batch is shared by several processes: guidance in one batch, on two devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..sampling.ranks import Ranks, fingerprint, initialised
from .temporary import forwards


@contextlib.contextmanager
def split_batch(network: nn.Module, group: Any = None) -> Iterator[None]:
    """In this block each process of a group runs the network on its rows of the batch, and all get the whole output.

    For pipelines of diffusers that guide in one batch, [unconditional; conditional]: with two processes each makes one
    half. All processes make the same calls, `pipe(..., generator=)` with equal seeds, and all have the image.

    network: `pipe.unet` or `pipe.transformer`, in every process. Of its arguments, and in dictionaries and lists among
    them, the tensors are divided whose first dimension is that of the first tensor; of its output, too.
    group: a process group or a DeviceMesh of one dimension; None is all processes.
    Rows get the bits that a batch of their number gives them, which may differ from a larger batch's by rounding.
    Raises RuntimeError without torch.distributed, and in all processes where the network fails in one; ValueError where
    the first call's input differs between the processes, or has fewer rows than there are processes: a pipeline that
    makes the calls of guidance one after the other has no batch to divide.
    """
    if not initialised():
        raise RuntimeError("split_batch: it needs torch.distributed.init_process_group before it")
    with forwards({network: _Split(Ranks(group))}):
        yield


class _Split:
    """A wrapper of a network's forward."""

    def __init__(self, ranks: Ranks) -> None:
        if ranks.rank < 0:
            raise ValueError("group: expected one that this process is in")
        self._ranks, self._checked = ranks, False

    def __call__(self, forward: Callable[..., Any], /, *args: object, **kwargs: object) -> object:
        leaves, layout = pytree.tree_flatten((args, kwargs))
        x = next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim), None)
        if x is None or len(x) < self._ranks.count:
            found = "no tensor" if x is None else f"{len(x)}"
            raise ValueError(
                f"network: expected a batch of at least {self._ranks.count}, one row a process, got {found}"
            )
        if not self._checked:
            self._ranks.require_same(input=fingerprint(x))
            self._checked = True
        batch = len(x)
        shared = [self._ranks.share(leaf) if _has_rows(leaf, batch) else leaf for leaf in leaves]
        own = self._run(forward, *pytree.tree_unflatten(shared, layout))
        first, last = self._ranks.bounds(batch)
        return pytree.tree_map(lambda m: self._ranks.whole(m, batch) if _has_rows(m, last - first) else m, own)

    def _run(self, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The output for this process's rows. What is raised is told to the others, where the host can tell it."""
        own, error = None, None
        try:
            own = forward(*args, **kwargs)
        except Exception as raised:
            error = raised
        if self._ranks.on_host and any(self._ranks.told(int(error is not None), torch.device("cpu"))) and error is None:
            raise RuntimeError("network: it failed in another process, whose own error says why")
        if error is not None:
            raise error
        return own


def _has_rows(leaf: object, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == batch
