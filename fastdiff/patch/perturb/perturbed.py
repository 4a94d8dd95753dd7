"""The callable that every perturbation is."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from ...sampling.model import checked_output
from ..temporary import Wrapper, forwards, uncompiled

Force = Callable[[float], AbstractContextManager[None]]


class Perturbed:
    """perturbed(x, t, **kwargs) -> Tensor: a model whose network is perturbed while it is called, and not otherwise.

    Nothing is left on the network between calls, also when a call raises. Other threads that call the network at the
    same time see it as it is. layers: the names of what is perturbed.
    """

    def __init__(self, model: Callable[..., Any], what: str, layers: Mapping[str, object], force: Force) -> None:
        self.layers = tuple(layers)
        self._model, self._what, self._force = model, what, force

    def __call__(self, x: Tensor, t: Any, **kwargs: Any) -> Tensor:
        """The model's output, unwrapped as `fastdiff.sample` does. x: [B, ...]. t: the time, [B] or one number.

        Raises RuntimeError where nothing was perturbed, or a layer computes in a way that cannot be.
        """
        with self._force(_first(t)):
            out = self._model(x, t, **kwargs)
        return checked_output(out, tuple(x.shape))

    def __repr__(self) -> str:
        return f"{self._what}({', '.join(self.layers)})"


def network_of(model: Any, network: nn.Module | None) -> nn.Module:
    """Where the layers are looked for. Raises TypeError where that is no module."""
    found = model if network is None else network
    if not isinstance(found, nn.Module):
        wanted = "expected a torch.nn.Module" if network is not None else "a model that is no torch.nn.Module needs it"
        raise TypeError(f"network: {wanted}, got {type(found).__name__}")
    return found


@contextlib.contextmanager
def forcing(network: nn.Module, modules: Mapping[str, nn.Module], wrappers: Mapping[str, Wrapper]) -> Iterator[None]:
    """The wrappers of some of the modules, all by name in the network, for a with-block in which one of them runs."""
    ran: set[str] = set()

    def noted(name: str, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        ran.add(name)
        return wrappers[name](forward, *args, **kwargs)

    ours = {modules[name]: functools.partial(noted, name) for name in wrappers}
    with forwards(uncompiled(network, wrappers) | ours):
        yield
    if not ran:
        raise RuntimeError(f"the model has called none of {', '.join(wrappers)}")


def key(seed: int, t: float, *place: int) -> int:
    """64 bits with sign from a seed, a time in float32 and a place in the network: the same for the same three."""
    parts = struct.pack(f"<qf{len(place)}q", seed, t, *place)
    return int.from_bytes(hashlib.blake2b(parts, digest_size=8).digest(), "little", signed=True)


def _first(t: Any) -> float:
    return float(t.flatten()[0]) if isinstance(t, Tensor) else float(t)
