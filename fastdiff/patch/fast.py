"""Classes that are made when fastdiff meets the class they take the place of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from torch import nn

if TYPE_CHECKING:

    class _Unknown(nn.Module):
        """What a `Fast` class is mixed into: a module with parts that only the project that made it knows."""

        def __getattr__(self, name: str) -> Any: ...

else:
    _Unknown = object


class Fast(_Unknown):
    """Mixed into a class that fastdiff does not know before it meets it; can be pickled all the same."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _instance, type(self).__bases__, vars(self)

    @staticmethod
    def fastdiff_methods(cls: Any) -> Mapping[str, Callable[..., Any]]:
        """Further methods, made from those of the class it is mixed into."""
        return {}


def subclass(fast: Any, cls: Any) -> Any:
    """`cls` with the methods of `fast`; the same class for the same two."""
    return _made(fast, cls)


@functools.cache
def _made(fast: Any, cls: Any) -> Any:
    return type(f"Fast{cls.__name__}", (fast, cls), fast.fastdiff_methods(cls))


def _instance(fast: type, cls: type) -> object:
    """For pickle, which cannot name a class made at run time: an empty object of it."""
    made = subclass(fast, cls)
    return made.__new__(made)
