"""Normalised attention guidance: a negative prompt for models that are sampled without classifier-free guidance."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .temporary import forwards
from .two_texts import TwoTexts, networks_of


@contextlib.contextmanager
def nag(
    model: Any,
    negative: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float = 5.0,
    tau: float = 2.5,
    alpha: float = 0.25,
) -> Iterator[None]:
    """In this block the model steers away from a negative prompt, in its attention to the text.

    Normalised attention guidance (NAG, Chen et al., 2505.21179, equations 7 to 10). With Z+ and Z- the attention of an
    image token to the prompt and to the negative prompt, |Z| the sum of absolute values over all heads:

        Z~ = scale Z+ - (scale - 1) Z-
        Z  = alpha Z~ min(1, tau |Z+| / |Z~|) + (1 - alpha) Z+

    For distilled models, which are sampled without classifier-free guidance: the network runs once a step, with the
    negative prompt's tokens beside the prompt's; the attention to a text alone is split in two, that to image and text
    together (SD3, Flux) computed twice. There the tokens of each text attend to the image and to themselves. A pooled
    embedding is the prompt's. With classifier-free guidance in one batch, both halves are steered.

    model: a diffusers pipeline or its network: U-Nets with cross-attention, PixArt, Sana, LTX, Wan (from text), SD3,
    Flux. negative: [1 or B, tokens, C], the embedding that the pipeline would make of the negative prompt. mask: [1 or
    B, tokens], 1 for tokens that count, where the network is given a mask of the prompt's.
    Raises ValueError naming the argument. Afterwards the model is as it was; in other threads it always is.

    >>> from diffusers import UNet2DConditionModel
    >>> unet = UNet2DConditionModel(block_out_channels=(32, 32, 64, 64), cross_attention_dim=16)
    >>> x, prompt, negative = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 16), torch.randn(1, 5, 16)
    >>> with nag(unet, negative):
    ...     unet(x, 300, prompt).sample.shape
    torch.Size([1, 4, 8, 8])
    """
    _check(negative, mask, scale, tau, alpha)
    combine = functools.partial(normalised, scale=scale, tau=tau, alpha=alpha)
    with contextlib.ExitStack() as stack:
        for network in networks_of(model):
            stack.enter_context(forwards(TwoTexts(network, negative, mask, combine).wrappers()))
        yield


def normalised(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """alpha Z~ min(1, tau |Z+| / |Z~|) + (1 - alpha) Z+ with Z~ = scale Z+ - (scale - 1) Z-; [B, H, N, D]."""
    dtype = torch.promote_types(positive.dtype, torch.float32)
    z, other = positive.to(dtype), negative.to(dtype)
    away = torch.lerp(other, z, scale)
    most, size = (tau * _size(z), _size(away))
    kept = torch.where(size > most, most / size, 1.0)
    return torch.addcmul(z * (1 - alpha), away, alpha * kept).to(positive.dtype)


def _size(z: Tensor) -> Tensor:
    """The sum of absolute values of each token, over heads and channels; [B, 1, N, 1]."""
    return torch.linalg.vector_norm(z, 1, dim=(-3, -1), keepdim=True)


def _check(negative: Tensor, mask: Tensor | None, scale: float, tau: float, alpha: float) -> None:
    if not isinstance(negative, Tensor) or negative.ndim != 3:
        shape = tuple(negative.shape) if isinstance(negative, Tensor) else type(negative).__name__
        raise ValueError(f"negative: expected an embedding [1 or B, tokens, C], got {shape}")
    if mask is not None and mask.shape != negative.shape[:2]:
        raise ValueError(f"mask: expected shape {tuple(negative.shape[:2])}, got {tuple(mask.shape)}")
    if not (math.isfinite(scale) and scale >= 1):
        raise ValueError(f"scale: expected a finite number >= 1, got {scale}")
    if not tau > 0:
        raise ValueError(f"tau: expected a number > 0, got {tau}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
