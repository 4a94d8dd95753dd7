"""What the networks of the demo are trained to do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ..plans.schedule import Schedule
from .catalogue import Diffusion, Masked
from .masked import MaskedTransformer


def times(schedule: Schedule, count: int) -> Tensor:
    """Training times [count], stratified, in the schedule's units.

    Uniform in [0, t_max] where the variance is preserved; on flow schedules uniform, then shifted (Esser et al. 2024,
    eq. 23); on EDM's, ln(sigma) is normal with mean -1.2 and deviation 1.2 (Karras et al. 2022, table 1).
    """
    uniform = (torch.arange(count) + torch.rand(count)) / count
    if schedule.kind == "ve":
        return torch.exp(-1.2 + 1.2 * torch.special.ndtri(uniform)).clamp(schedule.t_min, schedule.t_max)
    if schedule.kind == "flow":
        return torch.from_numpy(schedule.shift_time(uniform.double().numpy())).float()
    return schedule.t_max * uniform


def noised(kind: Diffusion, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Data x0 [B, ...] with fresh noise of the times t [B], and what the network should say to it."""
    point = kind.schedule.at(t.double().numpy())
    column = (-1, *[1] * (x0.ndim - 1))
    alpha, sigma = (torch.from_numpy(value).float().reshape(column) for value in (point.alpha, point.sigma))
    eps = torch.randn_like(x0)
    target = {
        "epsilon": lambda: eps,
        "sample": lambda: x0,
        "v_prediction": lambda: alpha * eps - sigma * x0,  # Salimans & Ho 2022, appendix D
        "flow_prediction": lambda: eps - x0,
    }
    return alpha * x0 + sigma * eps, target[kind.prediction]()


def denoising_loss(model: nn.Module, kind: Diffusion, x0: Tensor, **conditions: Tensor) -> Tensor:
    """Mean squared error of the prediction; for EDM's divided by c_out^2 (Karras et al. 2022, section 5)."""
    t = times(kind.schedule, len(x0))
    x, target = noised(kind, x0, t)
    predicted = model(x, t, **conditions)
    if kind.schedule.kind == "ve":
        data = float(model.sigma_data)  # type: ignore[arg-type]
        weight = (t.square() + data**2) / (t * data).square()
        return (weight * (predicted - target).square().flatten(1).mean(1)).mean()
    return mse_loss(predicted, target)


def reconstruction_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Mean squared error of what an autoencoder gives back."""
    return mse_loss(model(x), x)


def masked_loss(
    model: MaskedTransformer, kind: Masked, x0: Tensor, y: Tensor, shares: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Cross-entropy of the masked tokens x0 [B, N] of classes y [B], the mean over those of a row.

    In each row k tokens are masked, k / N uniform in `shares` and stratified over the batch: from 0 to 1 the mean is a
    bound of the negative log-likelihood per token (Nie et al. 2025, eq. 14). In bfloat16, which is fast.
    """
    rows, length = x0.shape
    least, most = shares
    share = least + (most - least) * (torch.randperm(rows) + torch.rand(rows)) / rows
    count = 1 + (share * length).long().clamp(max=length - 1)
    masked = torch.rand(rows, length).argsort(1).argsort(1) < count[:, None]
    with torch.autocast(x0.device.type, torch.bfloat16):
        states = model.states(x0.masked_fill(masked, kind.vocabulary - 1), y)
        logits = model.logits(states[masked])
    weight = (masked / count[:, None])[masked] / rows
    return (cross_entropy(logits.float(), x0[masked], reduction="none") * weight).sum()
