"""A pipeline whose networks make the calls that the rows of its scheduler's plan ask for.

The pipeline's class says when it runs, and its network's class asks the scheduler at every call. So what is kept lives
as long as one call of the pipeline, and calls of the network from elsewhere are what they were.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...plans.plan import Plan
from ..handle import Handle
from ..temporary import ORIGINAL
from .kept import Keeper, Kept, like

FOLLOWS = "fastdiff_follows"  # the attribute of a pipeline and of its networks that holds the handles in force


class FollowHandle(Handle):
    """A network that follows a pipeline, until `undo()`; others may follow it, and the network other pipelines."""

    def __init__(self, keeper: Keeper, pipe: Any) -> None:
        super().__init__(pipe, "Cached.follow")
        self.network = _component(pipe, keeper.network)
        self.keeper = replace(keeper, network=self.network)
        if any(handle.network is self.network for handle in vars(pipe).get(FOLLOWS, ())):
            raise ValueError("pipe: this network follows it already; undo that first")
        for thing, call in ((self.network, _call_network), (pipe, _call_pipe)):
            if FOLLOWS not in vars(thing):
                thing.__class__ = _calling(type(thing), call)
                vars(thing)[FOLLOWS] = []
            vars(thing)[FOLLOWS].append(self)
            self.changes[f"call of {type(thing).__name__}"] += 1

    def undo(self) -> None:
        """Put both classes back, where no other handle needs them; a second call does nothing."""
        for thing in (self.network, self.model):
            handles = vars(thing).get(FOLLOWS, [])
            if self in handles:
                handles.remove(self)
                if not handles:
                    thing.__class__ = type(thing).__bases__[0]
                    del vars(thing)[FOLLOWS]
        super().undo()


class Run:
    """One call of a pipeline: the calls of its networks, each as the scheduler's row asks."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._networks = {handle.network: NetworkCalls(handle.keeper) for handle in vars(pipe)[FOLLOWS]}

    def answer(self, network: nn.Module, call: Callable[[], Any], inputs: object) -> Any:
        """call() of the network, in full or in part. inputs: the arguments, in any structure."""
        scheduler = self._pipe.scheduler
        plan = getattr(scheduler, "plan", None)
        if not isinstance(plan, Plan) or not plan.partial or network not in self._networks:
            return call()
        if scheduler.step_index == plan.nfe:  # the run is over
            return call()
        x = next(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
        scheduler.take_call()
        return self._networks[network].answer(plan, scheduler.step_index, call, x)


class NetworkCalls:
    """The calls of one network.

    A row may make several, guidance's: each is known by its place among them and by its x, and has a state of its own.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._row: int | None = None  # None before the first step, which says where the run begins
        self._count = 0  # calls at this row
        self._states: dict[tuple, Kept] = {}

    def answer(self, plan: Plan, row: int | None, call: Callable[[], Any], x: Tensor) -> Any:
        """call(), full or cheap as the row says. A call of which nothing is kept yet is full in any case."""
        self._enter(plan, row)
        branch, self._count = (self._count, like(x)), self._count + 1
        state = self._states.get(branch)
        place = None if row is None else plan.rows[row].log_snr
        if row is not None and state is not None and plan.rows[row].call == "cheap":
            return self._keeper.cheap(call, place, state)
        result, self._states[branch] = self._keeper.full(call, x, place, state)
        return result

    def _enter(self, plan: Plan, row: int | None) -> None:
        """Begin a row, if it is another than that of the call before."""
        if row == self._row:
            return
        if row is None:  # the pipeline has begun a second run
            self._states.clear()
        elif self._row is None:
            began = plan.rows[row - 1].log_snr
            self._states = {branch: replace(state, place=began) for branch, state in self._states.items()}
        self._row, self._count = row, 0


_RUN: ContextVar[Run | None] = ContextVar("fastdiff_run", default=None)


@contextmanager
def _running(pipe: Any) -> Iterator[None]:
    token = _RUN.set(Run(pipe))
    try:
        yield
    finally:
        _RUN.reset(token)


def _call_pipe(call: Callable[..., Any], self: Any, /, *args: object, **kwargs: object) -> Any:
    with _running(self):
        return call(self, *args, **kwargs)


def _call_network(call: Callable[..., Any], self: nn.Module, /, *args: object, **kwargs: object) -> Any:
    run = None if torch.compiler.is_compiling() else _RUN.get()
    if run is None:
        return call(self, *args, **kwargs)
    return run.answer(self, functools.partial(call, self, *args, **kwargs), (args, kwargs))


def _calling(cls: type, instead: Callable[..., Any]) -> type:
    """The class with calls of instead(its own call, self, ...).

    By name it is the same: networks are saved and pipelines looked up by it. Copies and pickles are of the class as it
    was.
    """

    @functools.wraps(cls.__call__)
    def call(self: Any, /, *args: object, **kwargs: object) -> Any:
        return instead(cls.__call__, self, *args, **kwargs)

    def reduce(self: Any, protocol: SupportsIndex) -> tuple[Any, ...]:
        twin: Any = object.__new__(cls)
        vars(twin).update((name, value) for name, value in vars(self).items() if name != FOLLOWS)
        made, *rest = twin.__reduce_ex__(protocol)
        # pickle takes the function of that name for one that makes an object's very class
        return (object.__new__ if made is copyreg.__newobj__ else made, *rest)  # type: ignore[attr-defined]

    methods = {"__call__": call, "__reduce_ex__": reduce, "__module__": cls.__module__}
    return type(cls.__name__, (cls,), methods)


def _component(pipe: Any, network: nn.Module) -> nn.Module:
    """What the pipeline calls: the network, or torch.compile's module around it."""
    parts = getattr(pipe, "components", None)
    if not isinstance(parts, dict) or not hasattr(pipe, "scheduler"):
        raise TypeError(f"pipe: expected a diffusers pipeline with a scheduler, got {type(pipe).__name__}")
    for part in parts.values():
        if isinstance(part, nn.Module) and network in (part, part._modules.get(ORIGINAL)):
            return part
    raise ValueError(f"pipe: this {type(network).__name__} is none of its components")
