"""A class's methods with their own code, in which functions that they call by a global name are others.

Only names are exchanged, and the code looks up all its globals where it always did, when it runs. So an attention does
whatever it does before and after softmax(q k^T) v, and that alone is fastdiff's.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

Replacements = Mapping[Callable[..., Any], Callable[..., Any]]
Path = tuple[str, ...]  # a global name and attributes: F.silu is ("F", "silu")


def methods_calling(cls: type, replacements: Replacements) -> dict[str, FunctionType]:
    """Those methods of the class that call a function which is to be replaced, with the other one in its place."""
    found = {}
    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        if isinstance(method, FunctionType) and method is not getattr(nn.Module, name, None):
            found[name] = _with_replaced(method, replacements)
    return {name: method for name, method in found.items() if method is not None}


def _with_replaced(function: FunctionType, replacements: Replacements) -> FunctionType | None:
    scope = function.__globals__
    called = {path for path in _loaded(function.__code__) if _function(scope, path) in replacements}
    names = {}
    for root in {path[0] for path in called}:
        rests = {path[1:] for path in called if path[0] == root}
        names[root] = "fastdiff_" + "_and_".join("_".join((root, *rest)) for rest in sorted(rests))
        # A name of its own beside the module's, where the code can find it.
        scope.setdefault(names[root], _standing_for(scope[root], rests, replacements))
    code = _renamed(function.__code__, names)
    if not names or code is None:
        return None
    made = FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(made, function)
    del vars(made)["__wrapped__"]  # it is no wrapper
    return made


def _loaded(code: CodeType) -> Iterator[Path]:
    """Each global that the code and the functions in it load, with the attributes that they take of it."""
    path: Path = ()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if instruction.opname == "LOAD_GLOBAL":
            path = (instruction.argval,)
        elif path and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            path = (*path, instruction.argval)
        else:
            path = ()
        if path:
            yield path
    for inner in _inner(code):
        yield from _loaded(inner)


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _function(scope: Mapping[str, Any], path: Path) -> Any:
    """The function that a path through modules leads to, or None."""
    thing = scope.get(path[0])
    for name in path[1:]:
        thing = getattr(thing, name, None) if isinstance(thing, ModuleType) else None
    return thing if callable(thing) and thing.__hash__ is not None else None


def _standing_for(thing: Any, rests: set[Path], replacements: Replacements) -> Any:
    """The function's replacement, or the module with replacements at these paths in it."""
    if () in rests:
        return replacements[thing]
    module = ModuleType(thing.__name__, thing.__doc__)
    vars(module)["__getattr__"] = functools.partial(getattr, thing)
    for name in {rest[0] for rest in rests}:
        inner = {rest[1:] for rest in rests if rest[0] == name}
        setattr(module, name, _standing_for(getattr(thing, name), inner, replacements))
    return module


def _renamed(code: CodeType, names: Mapping[str, str]) -> CodeType | None:
    """The code with other names of globals; None where it has one of them for something else too."""
    for instruction in dis.get_instructions(code):
        if instruction.opcode in dis.hasname and instruction.opname != "LOAD_GLOBAL" and instruction.argval in names:
            return None
    inner = {constant: _renamed(constant, names) for constant in _inner(code)}
    if None in inner.values():
        return None
    constants = tuple(inner[c] if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_names=tuple(names.get(n, n) for n in code.co_names), co_consts=constants)
