"""What a cheap call costs beside a full one: multiply-adds, and processor seconds of one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import fastdiff as fd

from . import partial_caches as caches
from .networks import CONTEXT, TOKENS, unet


def _of_attention(q: tuple, k: tuple, v: tuple, *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


ATTENTIONS = {  # torch counts those of GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _of_attention,
    torch.ops.fastdiff.attention: _of_attention,
}
Calls = dict[str, Callable[[], object]]


class Cost(NamedTuple):
    """Of a call, as shares of a full one's. full_seconds: the full one's time."""

    operations: float
    seconds: float
    full_seconds: float


def costs(full: Callable[[], object], cheap: Calls, repeats: int) -> dict[str, Cost]:
    """Of each cheap call; the times are the shortest of `repeats`, taken in turn."""
    calls = {"": full, **cheap}
    operations, best = {}, dict.fromkeys(calls, float("inf"))
    with torch.no_grad():
        for name, call in calls.items():
            with FlopCounterMode(display=False, custom_mapping=ATTENTIONS) as counter:
                call()
            operations[name] = counter.get_total_flops()
        for _ in range(repeats):
            for name, call in calls.items():
                began = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - began)
    return {name: Cost(operations[name] / operations[""], best[name] / best[""], best[""]) for name in cheap}


def cheap_call(model: fd.Cached, x: Tensor, t: Tensor, **kwargs: object) -> Callable[[], object]:
    """A cheap call after as many full ones as it extrapolates from."""
    state = None
    with torch.no_grad():
        for k in range(1 + model.order):
            _, state = model.full(x, t, state, log_snr=k, **kwargs)
    return lambda: model.cheap(x, t, state, log_snr=1.5 + model.order, **kwargs)


def hooked_calls(network: torch.nn.Module, names: caches.Names, *args: object, **kwargs: object) -> Calls:
    """Cheap calls of diffusers' caches on a transformer."""
    rare, none = 10**4, float("inf")
    made = {
        "FirstBlockCache": caches.first_block(none),
        "MagCache": caches.mag(none, rare, [1.0] * rare, max_skip_steps=rare, retention_ratio=0.0),
        "TaylorSeer, blocks": caches.taylorseer(names, rare, whole=False),
        "TaylorSeer, lite": caches.taylorseer(names, rare, whole=True),
    }
    return {name: _warmed(caches.Hooked(network, names, apply), *args, **kwargs) for name, apply in made.items()}


def _warmed(hooked: caches.Hooked, *args: object, **kwargs: object) -> Callable[[], object]:
    with torch.no_grad():
        for _ in range(caches.WARM_UP + 2):
            hooked(*args, **kwargs)
    return lambda: hooked(*args, **kwargs)


def of_unet(repeats: int) -> dict[str, Cost]:
    """Stable Diffusion's U-Net at a quarter of its width, 512 x 512, one sample."""
    network, x, t = unet(), torch.randn(1, 4, 64, 64), torch.full((1,), 500.0)
    words = {"encoder_hidden_states": torch.randn(1, TOKENS, CONTEXT)}
    cheap = {}
    for levels, order in ((1, 0), (1, 1), (2, 0)):
        model = fd.cached(network, levels=levels, order=order)
        cheap[f"`cached(levels={levels}, order={order})`"] = cheap_call(model, x, t, **words)
    return costs(lambda: network(x, t, **words), cheap, repeats)


def of_dit(repeats: int) -> dict[str, Cost]:
    """A PixArt of 12 blocks, 192 wide, for 256 image and 77 text tokens, one sample."""
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=64, num_layers=12, cross_attention_dim=192, caption_channels=CONTEXT,
        sample_size=32, patch_size=2, in_channels=4, out_channels=8, use_additional_conditions=False,
    ).eval()  # fmt: skip
    x, t = torch.randn(1, 4, 32, 32), torch.full((1,), 500.0)
    words = {
        "encoder_hidden_states": torch.randn(1, TOKENS, CONTEXT),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    cheap = {}
    for blocks, order in ((1, 0), (1, 1), (3, 0)):
        model = fd.cached(network, blocks=blocks, order=order)
        cheap[f"`cached(blocks={blocks}, order={order})`"] = cheap_call(model, x, t, **words)
    cheap |= hooked_calls(network, caches.PIXART, x, timestep=t, **words)
    told = {"t": 1000.0}
    for name, apply in {
        "TaylorSeer, attentions (its default)": caches.taylorseer_attentions(10**9),
        "FasterCache, attentions": caches.faster(told),
    }.items():
        cheap[name] = _warmed(caches.Hooked(network, caches.PIXART, apply), x, timestep=t, **words)
    told["t"] = 500.0
    return costs(lambda: network(x, timestep=t, **words), cheap, repeats)
