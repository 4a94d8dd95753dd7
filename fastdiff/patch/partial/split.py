"""Which modules of a network a cheap call does not run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..perturb.layers import BLOCK_LISTS
from ..temporary import named


@dataclass(frozen=True)
class Split:
    """A stretch of a network that a cheap call leaves out, by the names in `named_modules()`.

    skip: the modules that are not run, in the order in which the network calls them. What the last of them returns is
    kept from the full call; nothing outside of the stretch may read what the others return.
    since: a module that does run and returns the same shapes. Then the difference of the two outputs is kept and added
    to what `since` returns in the cheap call, as one keeps the residual of transformer blocks.
    """

    skip: tuple[str, ...]
    since: str | None = None

    @property
    def kept(self) -> str:
        """The module whose output is kept."""
        return self.skip[-1]


def splits_of(network: nn.Module, split: Split | Iterable[Split] | None, levels: int, blocks: int) -> tuple[Split, ...]:
    """The network's splits, as given or found. Raises TypeError or ValueError naming the argument."""
    if split is None:
        found = _of_unet(network, levels) if hasattr(network, "up_blocks") else _of_blocks(network, blocks)
    else:
        found = (split,) if isinstance(split, Split) else tuple(split)
    modules = named(network)
    for one in found:
        if not isinstance(one, Split) or not one.skip or isinstance(one.skip, str):
            raise TypeError(f"split: expected a fastdiff.Split that skips at least one module, got {one!r}")
        unknown = [name for name in (*one.skip, *([one.since] if one.since else [])) if name not in modules]
        if unknown:
            raise ValueError(f"split: the network has no module {unknown[0]!r}")
    return found


def _of_unet(network: nn.Module, levels: int) -> tuple[Split, ...]:
    """The outer `levels` down and up blocks run; the last inner up block's output is kept."""
    down, up = ([name for name, _ in getattr(network, part).named_children()] for part in ("down_blocks", "up_blocks"))
    if not isinstance(levels, int) or not 0 < levels < len(up):
        raise ValueError(f"levels: expected 1 to {len(up) - 1}, the network has {len(up)} levels, got {levels}")
    skip = [f"down_blocks.{name}" for name in down[levels:]]
    if getattr(network, "mid_block", None) is not None:
        skip.append("mid_block")
    return (Split((*skip, *(f"up_blocks.{name}" for name in up[: len(up) - levels]))),)


def _of_blocks(network: nn.Module, blocks: int) -> tuple[Split, ...]:
    """The first `blocks` of each list of transformer blocks run; the residual of the others is kept."""
    lists = {
        name: getattr(network, name) for name in BLOCK_LISTS if isinstance(getattr(network, name, None), nn.ModuleList)
    }
    if not lists:
        raise ValueError(
            f"split: {type(network).__name__} has neither up_blocks nor a list of transformer blocks; say which modules"
            " a cheap call does not run, fastdiff.Split"
        )
    if not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks: expected at least 1, got {blocks!r}")
    found = tuple(
        Split(tuple(f"{name}.{i}" for i in range(blocks, len(every))), f"{name}.{blocks - 1}")
        for name, every in lists.items()
        if len(every) > blocks
    )
    if not found:
        counts = ", ".join(f"{len(every)} {name}" for name, every in lists.items())
        raise ValueError(f"blocks: expected less than the network has, {counts}, got {blocks}")
    return found
