"""Perturbed blocks: skipped (SLG, STG), dropped at random (S2), given shuffled tokens (TPG), or with dropout."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from ...sampling import noise
from ..attention_tokens import Frame
from ..temporary import Wrapper
from .layers import Layers, blocks
from .perturbed import Perturbed, forcing, key, network_of
from .skip import Skip


def skipped_blocks(model: Callable[..., Any], layers: Layers, *, network: nn.Module | None = None) -> Perturbed:
    """The model without some of its blocks: each returns what it was given.

    Skip-layer guidance (of Stable Diffusion 3.5: blocks 7, 8 and 9 of the medium model) and spatio-temporal guidance
    (STG, Hyung et al., 2411.18664, which skips one block of a video model) steer away from its output. Of a block with
    two streams, image and text, both pass.

    model: model(x, t, **kwargs), as for `fastdiff.sample`. layers: numbers of blocks, counted through the network's
    lists of them; names of modules, where one that holds blocks means these; or a predicate (name, module) -> bool.
    network: the torch.nn.Module that the model calls, where the model is not one itself.
    Returns a call for `fastdiff.guidance.Terms`. Raises TypeError or ValueError naming the argument; when called,
    RuntimeError for a block whose outputs do not stand for its inputs.
    """
    inside = network_of(model, network)
    modules = blocks(inside, layers)
    skip = Skip()
    wrappers = {name: functools.partial(skip, name, module) for name, module in modules.items()}
    return Perturbed(model, "skipped_blocks", modules, lambda t: forcing(inside, modules, wrappers))


def dropped_blocks(
    model: Callable[..., Any], layers: Layers, p: float = 0.1, *, seed: int = 0, network: nn.Module | None = None
) -> Perturbed:
    """The model without a random part of its blocks, another one at each time t.

    S2-guidance (Chen et al., 2508.12880, which drops about a tenth) steers away from its output. Of the n blocks that
    `layers` names, max(1, round(p n)) are skipped, the same for all samples of a batch. Which ones follows from the
    seed and t alone: the global generator is not touched, and the same run skips the same blocks.

    p: in (0, 1]. seed: a whole number of 64 bits. The rest as for `skipped_blocks`.
    """
    if not 0 < p <= 1:
        raise ValueError(f"p: expected a number in (0, 1], got {p}")
    inside = network_of(model, network)
    modules = blocks(inside, layers)
    count, skip = max(1, round(p * len(modules))), Skip()

    def force(t: float) -> Any:
        names = random.Random(key(seed, t)).sample(list(modules), count)
        wrappers = {name: functools.partial(skip, name, modules[name]) for name in names}
        return forcing(inside, modules, wrappers)

    return Perturbed(model, "dropped_blocks", modules, force)


def shuffled_tokens(
    model: Callable[..., Any], layers: Layers, *, seed: int = 0, network: nn.Module | None = None
) -> Perturbed:
    """The model with the tokens that some blocks are given in a random order, another one for each block and time t.

    Token perturbation guidance (TPG, Rajabi et al., 2506.10036; there the blocks of SDXL's "down_blocks")
    steers away from its output. As there, the order is the same for all samples, and is not restored after the block.
    Of a block with two streams, the image's tokens are shuffled. Each order follows from the seed, t and the block.

    seed: a whole number of 64 bits. The rest as for `skipped_blocks`.
    """

    def wrapper(name: str, module: nn.Module, draw: int) -> Wrapper:
        return functools.partial(_shuffle, name, module, draw)

    return _of_blocks(model, network, layers, "shuffled_tokens", seed, wrapper)


def dropped_features(
    model: Callable[..., Any], layers: Layers, p: float, *, seed: int = 0, network: nn.Module | None = None
) -> Perturbed:
    """The model with dropout in what some blocks return.

    Features are 0 with probability p, the others divided by 1 - p: a weak model for autoguidance (Karras et al.,
    2406.02507, where dropout is one of the degradations). The features that are dropped follow from the
    seed, t and the block, and are the same for all samples of a batch.

    p: in (0, 1). seed: a whole number of 64 bits. The rest as for `skipped_blocks`.
    """
    if not 0 < p < 1:
        raise ValueError(f"p: expected a number in (0, 1), got {p}; skipped_blocks leaves blocks out")

    def wrapper(name: str, module: nn.Module, draw: int) -> Wrapper:
        return functools.partial(_drop, name, p, draw)

    return _of_blocks(model, network, layers, "dropped_features", seed, wrapper)


def _of_blocks(
    model: Callable[..., Any],
    network: nn.Module | None,
    layers: Layers,
    what: str,
    seed: int,
    wrapper: Callable[[str, nn.Module, int], Wrapper],
) -> Perturbed:
    """Each block with the wrapper(name, module, draw) for random numbers that follow from seed, t and block: `draw`."""
    inside = network_of(model, network)
    modules = blocks(inside, layers)

    def force(t: float) -> Any:
        draws = [key(seed, t, place) for place in range(len(modules))]
        wrappers = {name: wrapper(name, modules[name], d) for name, d in zip(modules, draws, strict=True)}
        return forcing(inside, modules, wrappers)

    return Perturbed(model, what, modules, force)


def _shuffle(name: str, module: nn.Module, draw: int, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    x = Frame(module, args, kwargs).first
    if x is None or x.ndim != 3:
        shape = "no tensor" if x is None else f"shape {tuple(x.shape)}"
        raise RuntimeError(f"{name}: expected tokens [B, N, C] to shuffle, got {shape}")
    order = noise.randn((1, x.shape[1]), [draw], device=x.device)[0].argsort()
    shuffled = x[:, order]
    args = tuple(shuffled if a is x else a for a in args)
    return forward(*args, **{word: shuffled if a is x else a for word, a in kwargs.items()})


def _drop(name: str, p: float, draw: int, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    out = forward(*args, **kwargs)
    if isinstance(out, Tensor):
        return _with_dropout(out, p, draw, 0)
    if isinstance(out, tuple) and all(a is None or isinstance(a, Tensor) for a in out):
        return tuple(a if a is None else _with_dropout(a, p, draw, i) for i, a in enumerate(out))
    raise RuntimeError(f"{name}: expected a tensor or a tuple of tensors from it, got {type(out).__name__}")


def _with_dropout(x: Tensor, p: float, draw: int, index: int) -> Tensor:
    kept = noise.randn((1, *x.shape[1:]), [draw], index=index, device=x.device) >= NormalDist().inv_cdf(p)
    return torch.where(kept, x / (1 - p), torch.zeros_like(x))
