"""diffusers' own caches on a transformer, so that runs with them can be counted and compared."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import CacheMixin
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    HookRegistry,
    MagCacheConfig,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_first_block_cache,
    apply_mag_cache,
    apply_taylorseer_cache,
)
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from torch import Tensor, nn

from fastdiff.demo.dit import Block


@dataclass(frozen=True)
class Names:
    """Of a network, for regular expressions: its blocks, and its last layer."""

    blocks: str
    last: str


PIXART, DEMO = Names(r"transformer_blocks\.\d+", "proj_out"), Names(r"blocks\.\d+", "tokens_out")


Apply = Callable[[nn.Module], None]
WARM_UP = 2  # calls before the first cheap one


class HostBlock(Block):
    """The demo's block with the argument's name by which diffusers' hooks know tokens."""

    def forward(self, hidden_states: Tensor, emb: Tensor) -> Tensor:
        return super().forward(hidden_states, emb)


TransformerBlockRegistry.register(HostBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class Hooked:
    """A copy of a network with a cache of diffusers on it. `full`: how many calls have run its last block."""

    def __init__(self, network: nn.Module, names: Names, apply: Apply) -> None:
        self._network = copy.deepcopy(network)
        blocks = [module for module in self._network.modules() if type(module) is Block]
        for block in blocks:
            block.__class__ = HostBlock
        self.full = 0
        inside = names.blocks + r".*\.(qkv|to_q)"  # a layer that no cache touches itself
        layers = [module for name, module in self._network.named_modules() if re.fullmatch(inside, name)]
        layers[-1].register_forward_hook(self._count)
        apply(self._network)
        self._registry = HookRegistry.check_if_exists_or_initialize(self._network)
        self.begin()

    def begin(self) -> None:
        """Forget the run before."""
        self._registry.reset_stateful_hooks()
        self.full = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        with CacheMixin.cache_context(self._network, "run"):  # as pipelines do
            return self._network(*args, **kwargs)

    def _count(self, *_: object) -> None:
        self.full += 1


def first_block(threshold: float) -> Apply:
    """Cheap calls run the first block alone, and are made where what it gives has changed little."""
    return lambda network: apply_first_block_cache(network, FirstBlockCacheConfig(threshold))


def taylorseer(names: Names, interval: int, whole: bool) -> Apply:
    """whole: extrapolate what the last layer returns and run no block, as in its lite mode; else what blocks return."""
    skipped = {"cache_identifiers": [names.last], "skip_predict_identifiers": [names.blocks]}
    given = skipped if whole else {"cache_identifiers": [names.blocks]}
    config = TaylorSeerCacheConfig(interval, WARM_UP, taylor_factors_dtype=torch.float32, **given)
    return lambda network: apply_taylorseer_cache(network, config)


def taylorseer_attentions(interval: int) -> Apply:
    """As it is by default: the attentions alone."""
    config = TaylorSeerCacheConfig(interval, WARM_UP, taylor_factors_dtype=torch.float32)
    return lambda network: apply_taylorseer_cache(network, config)


def mag(threshold: float, steps: int, ratios: list[float], **options: float) -> Apply:
    """Cheap calls run no block, and are made where the residual's size is known to change little."""
    config = MagCacheConfig(threshold, num_inference_steps=steps, mag_ratios=ratios, **options)
    return lambda network: apply_mag_cache(network, config)


def mag_ratios(network: nn.Module, names: Names, steps: int, run: Callable[[Hooked], object]) -> list[float]:
    """What MagCache prints after a run in which it calibrates itself."""
    config = MagCacheConfig(num_inference_steps=steps, calibrate=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run(Hooked(network, names, lambda copied: apply_mag_cache(copied, config)))
    return ast.literal_eval(next(line for line in said.getvalue().splitlines() if line.startswith("[1.0")))


def faster(told: dict[str, float]) -> Apply:
    """Its part in the attentions, from the time told["t"] <= 681 on; the part that leaves out calls is guidance's."""
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=10**9, is_guidance_distilled=True, tensor_format="BCHW",
        current_timestep_callback=lambda: told["t"], attention_weight_callback=lambda module: 1.0,
    )  # fmt: skip
    return lambda network: apply_faster_cache(network, config)
