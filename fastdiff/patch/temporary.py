"""Other forwards for some modules of a network while a with-block lasts, in the thread that entered it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

Wrapper = Callable[..., Any]
"""wrapper(forward, *args, **kwargs) in place of forward(*args, **kwargs)."""

ORIGINAL = "_orig_mod"  # torch.compile's name for the module that it compiled

_LOCK = threading.Lock()


@contextlib.contextmanager
def forwards(wrappers: Mapping[nn.Module, Wrapper]) -> Iterator[None]:
    """Call wrappers[module](forward, ...) where module.forward(...) would be called.

    Blocks may be nested and may overlap between threads, in any order; the innermost wrapper of a thread is called
    first. Afterwards each module is as it was, also when the block raises. Of a module that is compiled, the code that
    was compiled is run.
    """
    entered = []
    try:
        for module, wrapper in wrappers.items():
            entered.append((module, *_enter(module, wrapper)))
        yield
    finally:
        for entry in reversed(entered):
            _leave(*entry)


class _Entry:
    """One wrapper and whose it is."""

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper, self.thread = wrapper, threading.get_ident()


class _Forward:
    """What stands on the object as `forward`: the wrappers in force, and what stood there before."""

    def __init__(self, module: nn.Module) -> None:
        own = vars(module)
        self.module = module
        self.entries: tuple[_Entry, ...] = ()
        self.before = {name: own.pop(name) for name in ("forward", "_compiled_call_impl") if name in own}

    def __call__(self, *args: object, **kwargs: object) -> object:
        forward: Callable[..., Any] = self.before.get("forward") or type(self.module).forward.__get__(self.module)
        for entry in self.entries:
            if entry.thread == threading.get_ident():
                forward = functools.partial(entry.wrapper, forward)
        return forward(*args, **kwargs)


def _enter(module: nn.Module, wrapper: Wrapper) -> tuple[_Forward, _Entry]:
    own, entry = vars(module), _Entry(wrapper)
    with _LOCK:
        if not isinstance(own.get("forward"), _Forward):
            own["forward"] = _Forward(module)
        forward = own["forward"]
        forward.entries = (*forward.entries, entry)
    return forward, entry


def _leave(module: nn.Module, forward: _Forward, entry: _Entry) -> None:
    own = vars(module)
    with _LOCK:
        forward.entries = tuple(other for other in forward.entries if other is not entry)
        if not forward.entries and own.get("forward") is forward:  # and not another patch around it
            del own["forward"]
            own.update(forward.before)


def named(network: nn.Module) -> dict[str, nn.Module]:
    """The network's modules by name, as if nothing were compiled."""
    return {_plain(name): module for name, module in network.named_modules()}  # the original comes after its compiled


def uncompiled(network: nn.Module, names: Iterable[str]) -> dict[nn.Module, Wrapper]:
    """Wrappers that run the original of each compiled module that holds one of the modules named."""
    around = holders(names)
    found: dict[nn.Module, Wrapper] = {}
    for name, module in network.named_modules():
        if _plain(name) not in around:
            continue
        if ORIGINAL in module._modules:
            found[module] = functools.partial(_run, module._modules[ORIGINAL])
        elif module._compiled_call_impl is not None:
            found[module] = _run_as_it_is
    return found


def holders(names: Iterable[str]) -> set[str]:
    """The names of these modules and of all that they are part of."""
    found = {""}
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return found


def is_inside(name: str, outer: str) -> bool:
    """Whether the module of that name is the other one or a part of it."""
    return not outer or name == outer or name.startswith(f"{outer}.")


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != ORIGINAL)


def _run(original: nn.Module, forward: Callable[..., Any], /, *args: object, **kwargs: object) -> object:
    return original(*args, **kwargs)


def _run_as_it_is(forward: Callable[..., Any], /, *args: object, **kwargs: object) -> object:
    return forward(*args, **kwargs)
