"""The layers of a network that a perturbation names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from torch import nn

from ..temporary import is_inside, named

Layers = str | int | Iterable[str | int] | Callable[[str, nn.Module], bool]
"""Names of modules, as in `named_modules()`; numbers of blocks, counted through the network's lists of blocks; or a
predicate (name, module) -> bool."""

BLOCK_LISTS = (
    "transformer_blocks",
    "single_transformer_blocks",
    "temporal_transformer_blocks",
    "visual_transformer_blocks",
    "blocks",
    "layers",
)
"""What a network calls its lists of transformer blocks."""


def chosen(network: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The modules that `layers` names, by name. Raises TypeError or ValueError for what names none."""
    modules = named(network)
    if callable(layers):
        found = {name: module for name, module in modules.items() if name and layers(name, module)}
        if not found:
            raise ValueError(f"layers: the predicate holds for none of the {len(modules) - 1} modules")
        return found
    wanted = [layers] if isinstance(layers, (str, int)) else list(layers)
    if not wanted:
        raise ValueError("layers: expected at least one, got none")
    names = [_block_name(layer, modules) if isinstance(layer, int) else _known(layer, modules) for layer in wanted]
    return {name: modules[name] for name in names}


def attentions(network: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The attentions among and inside the chosen modules. Raises ValueError where there are none."""
    every = attentions_of(network)
    outer = chosen(network, layers)
    found = {name: m for name, m in every.items() if any(is_inside(name, other) for other in outer)}
    if not found:
        raise ValueError(f"layers: no attention in {_listed(outer)}; there is some in {_listed(every)}")
    return found


def attentions_of(network: nn.Module) -> dict[str, nn.Module]:
    """All modules that compute an attention themselves: those with a processor, and the innermost called attention."""
    called = {name: module for name, module in named(network).items() if _is_called_attention(module)}
    whole = [name for name, module in called.items() if _has_processor(module)]
    parts = {name for name in called if any(name != outer and is_inside(name, outer) for outer in whole)}
    made_of_others = {o for o in called if o not in whole and any(n != o and is_inside(n, o) for n in called)}
    return {name: module for name, module in called.items() if name not in parts | made_of_others}


def blocks(network: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The transformer blocks inside the chosen modules; a module that is one, or holds none, stands for itself."""
    found: dict[str, nn.Module] = {}
    modules = named(network)
    for name, module in chosen(network, layers).items():
        inside = {n: m for n, m in modules.items() if n.startswith(f"{name}.") and _is_block(n)}
        found |= inside if inside and not _is_block(name) else {name: module}
    return found


def _is_block(name: str) -> bool:
    *_, owner, last = ("", *name.split("."))
    return owner in BLOCK_LISTS and last.isdigit()


def _has_processor(module: nn.Module) -> bool:
    return hasattr(module, "processor")


def _is_called_attention(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return _has_processor(module) or "attention" in name or "attn" in name


def _block_name(number: int, modules: dict[str, nn.Module]) -> str:
    every = [name for name in modules if _is_block(name) and name.count(".") == 1]
    if not every:
        raise ValueError(f"layers: {number} names no block, for the network has no list of them; give names")
    if not 0 <= number < len(every):
        raise ValueError(f"layers: expected numbers of blocks from 0 to {len(every) - 1}, got {number}")
    return every[number]


def _known(name: object, modules: dict[str, nn.Module]) -> str:
    if not isinstance(name, str):
        raise TypeError(f"layers: expected names, numbers of blocks or a predicate, got {type(name).__name__}")
    if name in modules and name:
        return name
    near = difflib.get_close_matches(name, modules, n=4, cutoff=0.5)
    hint = (
        f"did you mean {', '.join(near)}?" if near else f"its parts are {_listed(n for n in modules if '.' not in n)}"
    )
    raise ValueError(f"layers: the network has no module {name!r}; {hint}")


def _listed(names: Iterable[str]) -> str:
    names = [name for name in names if name]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "no part of it"
