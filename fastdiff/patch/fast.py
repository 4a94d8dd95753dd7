"""Classes that are made when fastdiff meets the class they take the place of."""

from __future__ import annotations

import functools

from torch import nn


class Fast:
    """Mixed into a class that fastdiff does not know before it meets it; can be pickled all the same."""

    def __reduce_ex__(self, protocol: int) -> tuple:
        return _instance, type(self).__bases__, vars(self)


@functools.cache
def subclass(fast: type, cls: type) -> type:
    """`cls` with the forward of `fast`; the same class for the same two."""
    return type(f"Fast{cls.__name__}", (fast, cls), {})


def _instance(fast: type, cls: type) -> nn.Module:
    """For pickle, which cannot name a class made at run time: an empty object of it."""
    made = subclass(fast, cls)
    return made.__new__(made)
