"""A witness of waiting: which ops hand a tensor's value to the host."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "masked_select")


class HostReads(TorchDispatchMode):
    """Counts the ops whose result the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.seen += [name] if name in HOST_READS else []
        return func(*args, **(kwargs or {}))
