"""What the networks of the demo are trained to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..training import edm, loss, mask_tokens, masked_cross_entropy, strata, usual
from .catalogue import Diffusion, Masked
from .masked import MaskedTransformer


def denoising_loss(model: nn.Module, kind: Diffusion, x0: Tensor, **conditions: Any) -> Tensor:
    """Mean squared error of the prediction; of an EDM divided by c_out^2. The rows of x0 are in random order."""
    t = usual(kind.schedule, strata(len(x0), shuffle=False), kind.prediction)
    weighting = edm(float(model.sigma_data)) if kind.schedule.kind == "ve" else None  # type: ignore[arg-type]
    return loss(model, kind.schedule, x0, prediction=kind.prediction, t=t, weighting=weighting, **conditions)


def reconstruction_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Mean squared error of what an autoencoder gives back."""
    return mse_loss(model(x), x)


def masked_loss(
    model: MaskedTransformer, kind: Masked, x0: Tensor, y: Tensor, shares: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """`fastdiff.training.masked_loss` in bfloat16, which is fast, with logits of the masked tokens alone."""
    x, masked, weight = mask_tokens(x0, kind.vocabulary - 1, shares=shares)
    with torch.autocast(x0.device.type, torch.bfloat16):
        logits = model.logits(model.states(x, y)[masked])
    return masked_cross_entropy(logits, x0[masked], weight)
