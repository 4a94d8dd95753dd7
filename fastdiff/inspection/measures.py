"""What is measured of states and outputs, sample by sample, in float64. Lengths are root mean squares over elements."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..plans.plan import Plan


def flat(x: Tensor) -> Tensor:
    """[B, elements] of x [B, ...]."""
    return x[:, None] if x.ndim == 1 else x.flatten(1)


def rms(x: Tensor) -> Tensor:
    """[B] the root mean square of x [B, ...], |x| / sqrt(number of elements)."""
    return flat(x).double().square().mean(1).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """[B] <a, b> / (|a| |b|); NaN where one of them is 0."""
    a, b = flat(a).double(), flat(b).double()
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def angle(a: Tensor, b: Tensor) -> Tensor:
    """[B] the angle between a and b, [B, ...] each, in degrees; NaN where one of them is 0.

    2 atan2(|a' - b'|, |a' + b'|) of the unit vectors a', b' (Kahan 2006, section 12): exact for small angles too, where
    the cosine rounds to 1.
    """
    a, b = (flat(v).double() / flat(v).double().norm(dim=1, keepdim=True) for v in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)) * (180 / math.pi)


def levels_of(plan: Plan) -> list[tuple[float, float]]:
    """[n + 1] (alpha, sigma) of the states of a run: those that the rows evaluate, and the result."""
    return [plan.start, *(plan.point_after(i) for i in range(plan.nfe))]


def flow_time(alpha: float, sigma: float) -> float:
    """tau = sigma / (alpha + sigma): the time of the flow z = (1 - tau) x0 + tau eps that any schedule is."""
    return sigma / (alpha + sigma)


def flow_state(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """z = x / (alpha + sigma), float64: a straight line in tau wherever x0 and eps do not change."""
    return x.double() / (alpha + sigma)


def line_deviation(z: Tensor, tau: Tensor) -> Tensor:
    """[S, B] how far the states z [S, B, ...] of a path are from its chord: |z_i - (z_end + w_i (z_0 - z_end))|.

    w_i = (tau_i - tau_end) / (tau_0 - tau_end) for the flow times tau [S].
    """
    z = z.double().flatten(2) if z.ndim > 2 else z.double()[..., None]
    weights = ((tau - tau[-1]) / (tau[0] - tau[-1])).view(-1, 1, 1)
    return (z - torch.lerp(z[-1:], z[:1], weights)).square().mean(2).sqrt()
