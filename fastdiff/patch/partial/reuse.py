"""A network's forward pass with its outputs recorded, or with recorded outputs in the place of modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..temporary import forwards, named, uncompiled
from .split import Split

Outputs = dict[str, list[Any]]  # what each module returned, call by call


@dataclass(frozen=True)
class Shape:
    """What is known of an output that nobody reads."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device

    def filler(self) -> Tensor:
        """A tensor of this shape that takes no memory."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.size)


@contextlib.contextmanager
def recording(network: nn.Module, splits: Sequence[Split], kept: Outputs, shapes: Outputs) -> Iterator[None]:
    """Write to `kept` what each split keeps, and to `shapes` what the other skipped modules' outputs look like."""
    latest: Outputs = {}

    def record(name: str, split: Split, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if name == split.since:
            latest.setdefault(name, []).append(out)
        elif name == split.kept:
            calls = kept.setdefault(name, [])
            before = latest[split.since][len(calls)] if split.since else None
            # A copy: the network may go on in the same memory.
            calls.append(
                pytree.tree_map_only(Tensor, torch.clone, out) if before is None else _difference(name, out, before)
            )
        else:
            shapes.setdefault(name, []).append(pytree.tree_map_only(Tensor, _shape, out))
        return out

    with _forwards(network, splits, record):
        yield
    for split in splits:
        if split.kept not in kept:
            raise RuntimeError(f"the model has not called {split.kept} of its network, whose output was to be kept")


@contextlib.contextmanager
def reusing(
    network: nn.Module, splits: Sequence[Split], kept: Mapping[str, list[Any]], shapes: Outputs
) -> Iterator[None]:
    """Run the network without what the splits skip: `kept` in its place."""
    calls: dict[str, int] = {}
    latest: Outputs = {}

    def reuse(name: str, split: Split, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if name == split.since:
            out = forward(*args, **kwargs)
            latest.setdefault(name, []).append(out)
            return out
        place = calls.get(name, 0)
        calls[name] = place + 1
        found = (kept if name == split.kept else shapes).get(name, ())
        if place >= len(found):
            raise RuntimeError(f"the model calls {name} of its network more often here than in the full call before")
        if name != split.kept:
            return pytree.tree_map_only(Shape, Shape.filler, found[place])
        if split.since is None:
            return pytree.tree_map_only(Tensor, torch.clone, found[place])
        return _zipped(name, torch.add, latest[split.since][place], found[place])

    with _forwards(network, splits, reuse):
        yield


def _forwards(
    network: nn.Module, splits: Sequence[Split], wrapper: Callable[..., Any]
) -> contextlib.AbstractContextManager:
    modules = named(network)
    names = {name: split for split in splits for name in (*split.skip, split.since) if name is not None}
    ours = {modules[name]: partial(wrapper, name, split) for name, split in names.items()}
    return forwards({**uncompiled(network, names), **ours})


def _shape(out: Tensor) -> Shape:
    return Shape(out.shape, out.dtype, out.device)


def _difference(name: str, out: Any, before: Any) -> Any:
    return _zipped(name, lambda old, new: new - old, before, out)


def _zipped(name: str, combine: Callable[[Tensor, Tensor], Tensor], first: Any, second: Any) -> Any:
    """combine(a, b) of the tensors in two outputs; None in the second stays None."""
    if isinstance(second, (tuple, list)) and isinstance(first, (tuple, list)) and len(first) == len(second):
        return type(second)([_zipped(name, combine, a, b) for a, b in zip(first, second, strict=True)])
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
        return combine(first, second)
    if second is None:
        return None
    raise RuntimeError(f"{name}: returns other shapes than the module that its output is counted from; give a split")
