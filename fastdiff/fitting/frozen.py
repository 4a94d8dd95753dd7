"""A model as it is while a plan is fitted to it: its parameters are data, and its modules are in evaluation mode."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: Callable) -> Iterator[None]:
    """No parameter asks for a gradient and no module trains; all are as before at the end, also after an exception.

    The modules are those of `modules_of`. Flags alone are set, and `train` is not called: some modules merge weights or
    swap them there.
    """
    modules = [module for module in modules_of(model) if module.training]
    parameters = [p for module in modules_of(model) for p in module.parameters(recurse=False) if p.requires_grad]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad = False
        yield
    finally:
        for module in modules:
            module.training = True
        for parameter in parameters:
            parameter.requires_grad = True


def modules_of(model: object) -> list[nn.Module]:
    """The modules that a model is made of, as far as they can be seen.

    Those of a module, of an object that has `modules()` as one has, of what a partial or a bound method calls, and of
    what a function refers to: `lambda x, t: net(x, t).sample` has those of `net`.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(value: object) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if callable(getattr(type(value), "modules", None)):
            found.update((id(module), module) for module in value.modules())  # type: ignore[attr-defined]
        elif isinstance(value, functools.partial):
            look(value.func)
        elif isinstance(value, types.MethodType):
            look(value.__self__)
        elif isinstance(value, types.FunctionType):
            enclosed, named = _references(value)
            for inner in enclosed:
                look(inner)
            for inner in named:
                if isinstance(inner, nn.Module):  # and no function: those lead through whole packages
                    look(inner)

    look(model)
    return list(found.values())


def _references(function: types.FunctionType) -> tuple[list[object], list[object]]:
    """(what a function encloses, the globals that it names)."""
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a name that has no value yet
        return [], []
    return list(names.nonlocals.values()), list(names.globals.values())
