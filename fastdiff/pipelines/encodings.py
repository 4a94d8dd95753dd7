"""The prompts' encodings: made once for all samples, and from then on taken for the samples of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def take(full: Any, probe: Any, count: int, which: Sequence[int]) -> Any:
    """The samples `which` of encodings of `count` samples. probe: the same call's result for one sample more.

    What has samples along its first dimension has it grow with their number, once or, under guidance, twice over. All
    else, such as the positions of words, is every sample's.
    """
    if isinstance(full, dict):
        return {name: take(value, probe[name], count, which) for name, value in full.items()}
    if not isinstance(full, (tuple, list, Tensor)) or (isinstance(full, Tensor) and not full.ndim):
        return full
    copies = len(probe) - len(full)
    if copies and len(full) == copies * count:
        places = [k * count + i for k in range(copies) for i in which]
        return full[places] if isinstance(full, Tensor) else type(full)(full[place] for place in places)
    if isinstance(full, Tensor):
        return full
    return type(full)(take(a, b, count, which) for a, b in zip(full, probe, strict=True))
