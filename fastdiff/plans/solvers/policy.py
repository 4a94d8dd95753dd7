"""Policies of pi-Flow (Chen et al. 2025, arXiv 2510.14974): one evaluation says where x0 lies along a whole segment.

The network gives velocities u_0 ... u_{G-1} at one point (x_s, sigma_s) of a flow, x = (1 - sigma) x0 + sigma eps, and
with them x0_k = x_s - sigma_s u_k at G times, the last at the segment's start and the first at its end. Between the
times x0 is linear in the raw time tau, where sigma = shift tau / (1 + (shift - 1) tau): a "DX policy on a grid". The
segment is integrated by many steps of Euler's method without the network,

    x' = rho x + (1 - rho) x0(tau),    rho = sigma' / sigma,

all of them linear in x_s and u_k. x0(tau) = x_s - sigma_s sum_k h_k(tau) u_k with hat functions h_k that sum to 1, so
the weight of x_s stays 1 and only those of the u_k change: w' = rho w - (1 - rho) sigma_s h(tau). However many steps,
the segment is x_s + sum_k w_k u_k.
"""

from __future__ import annotations

import numpy as np


def grid_policy_weights(
    start: float, end: float, sigma_s: float, *, grid: int, steps: int, shift: float, least: float
) -> np.ndarray:
    """The w_k [grid] of a segment between two raw times, the first of which has sigma_s.

    steps: of Euler's method in a unit of raw time, at least one is taken. shift: of the flow. least: the sigma that is
    divided by is at least this, and so is the length that tau is measured by.
    """
    count = max(1, int(np.rint((start - end) * steps)))
    tau = np.maximum(start - (start - end) / count * np.arange(count + 1), 0.0)
    sigma = np.append(sigma_s, shift * tau[1:] / (1 + (shift - 1) * tau[1:]))
    tau[0] = sigma_s / (shift + (1 - shift) * sigma_s)
    place = np.clip(1 - (tau[0] - tau[:-1]) / max(start - end, least), 0, 1) * (grid - 1)
    hats = np.clip(1 - np.abs(place[:, None] - np.arange(grid)), 0, None)
    shares = (sigma[:-1] - sigma[1:]) / np.maximum(sigma[:-1], least)  # 1 - rho
    weights = np.zeros(grid)
    for share, hat in zip(shares, hats, strict=True):
        weights += share * (-sigma[0] * hat - weights)
    return weights
