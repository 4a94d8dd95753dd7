"""log_likelihood: the change of variables along the probability flow (Song et al. 2021, arXiv 2011.13456, eq. 39).

    log p(x) = log N(x(sigma_max); 0, sigma_max^2) + integral of div d(x, sigma) d(sigma),  d = (x - D) / sigma

from sigma_min to sigma_max. The divergence is Hutchinson's estimate v . (dd/dx v), with one v of +-1 for the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..sampling.adaptive import Controller, scaled_error
from .loop import Denoiser
from .noise import Extra
from .sigmas import to_d

State = tuple[Tensor, Tensor]

# Dormand & Prince 1980 (J. Comput. Appl. Math. 6, 19): the last stage is the fifth-order result and the next first one.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_LOW = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)


@torch.no_grad()
def log_likelihood(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: Extra = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
) -> tuple[Tensor, dict[str, int]]:
    """The log density [B] of each sample in nats, and {"fevals": number of model evaluations}.

    x: [B, ...] at sigma_min. model must be differentiable in x. v comes from torch's global generator. atol, rtol:
    error bounds of a step of the fifth-order integrator. Raises ValueError unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min, sigma_max: expected 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
    v = torch.randint_like(x, 2) * 2 - 1
    fevals = 0

    def slope(sigma: float, state: State) -> State:
        nonlocal fevals
        fevals += 1
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            level = at.new_full((len(at),), sigma)
            d = to_d(at, level, model(at, level, **(extra_args or {})))
            (gradient,) = torch.autograd.grad((d * v).sum(), at)
        return d.detach(), (v * gradient).flatten(1).sum(1)

    latent, divergence = _integrate(slope, (x, x.new_zeros(len(x))), float(sigma_min), float(sigma_max), atol, rtol)
    prior = torch.distributions.Normal(0.0, float(sigma_max)).log_prob(latent).flatten(1).sum(1)
    return prior + divergence, {"fevals": fevals}


def _integrate(
    slope: Callable[[float, State], State], state: State, start: float, end: float, atol: float, rtol: float
) -> State:
    """Integrate from start to end with adaptive steps in log sigma."""
    controller = Controller(h=0.1, order=5)
    at, first, before = math.log(start), slope(start, state), state
    while at < math.log(end):
        target = min(math.log(end), at + controller.h)
        s, t = math.exp(at), end if target == math.log(end) else math.exp(target)
        slopes = [first]
        for node, weights in zip(_NODES, _STAGES, strict=True):
            high = _moved(state, t - s, slopes, weights)
            slopes.append(slope(s + node * (t - s), high))
        low = _moved(state, t - s, slopes, _LOW)
        error = max(scaled_error(*parts, rtol, atol) for parts in zip(high, low, before, strict=True))
        if controller.propose(error):
            state, before, first, at = high, low, slopes[-1], target
    return state


def _moved(state: State, h: float, slopes: list[State], weights: tuple[float, ...]) -> State:
    return tuple(
        value + h * sum(w * slope[k] for w, slope in zip(weights, slopes, strict=True) if w)
        for k, value in enumerate(state)
    )
