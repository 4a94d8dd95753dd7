"""What diffusers' configurations of perturbed layers ask for, as perturbations of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from diffusers.hooks import HookRegistry, LayerSkipConfig
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.hooks.layer_skip import _apply_layer_skip_hook
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig
from torch import nn

from ..patch.perturb import blurred_queries, dropped_features, identity_attention, skipped_blocks

Perturbation = Callable[[float], AbstractContextManager[None]]
"""The with-block in which a network is perturbed, for a number from which random draws follow."""

C = TypeVar("C", LayerSkipConfig, SmoothedEnergyGuidanceConfig)


def configs(kind: type[C], given: Any) -> list[C]:
    """The configurations as a list: of one, or of dictionaries read from a file, with lists of indices."""
    made = [kind(**entry) if isinstance(entry, dict) else entry for entry in _listed(given)]
    return [replace(config, indices=_listed(config.indices)) for config in made]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def names(denoiser: nn.Module, config: LayerSkipConfig | SmoothedEnergyGuidanceConfig) -> list[str]:
    """The blocks that a configuration names. fqn: of a list of blocks; "auto" is the first that the network has."""
    lists = [name for name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS if hasattr(denoiser, name)]
    if config.fqn == "auto" and not lists:
        raise ValueError(f"fqn: {type(denoiser).__name__} has no list of blocks with a known name; expected its name")
    fqn = lists[0] if config.fqn == "auto" else config.fqn
    return [f"{fqn}.{index}" for index in config.indices]


def of_skipped(denoiser: nn.Module, config: LayerSkipConfig) -> Perturbation:
    """Blocks left out or with dropout, or with the identity for their attention's map."""
    layers = names(denoiser, config)
    if config.skip_attention_scores:
        return identity_attention(denoiser, layers)._force
    if not (config.skip_attention and config.skip_ff):
        return lambda draw: _hooked(denoiser, config)
    if math.isclose(config.dropout, 1.0):
        return skipped_blocks(denoiser, layers)._force
    return dropped_features(denoiser, layers, config.dropout)._force


def of_blurred(denoiser: nn.Module, config: SmoothedEnergyGuidanceConfig, sigma: float) -> Perturbation:
    """Attention with blurred queries; an infinite sigma makes them their mean."""
    return blurred_queries(denoiser, names(denoiser, config), sigma)._force


@contextmanager
def _hooked(denoiser: nn.Module, config: LayerSkipConfig) -> Iterator[None]:
    """diffusers' own hooks, which leave out the attention or the feed-forward part of a block."""
    name = f"fastdiff_{id(config)}"
    try:
        _apply_layer_skip_hook(denoiser, config, name=name)
        yield
    finally:
        HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook(name, recurse=True)
