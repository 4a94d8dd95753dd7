"""Rotations of point sets: uniform ones, and the best one between two sets (Kabsch 1976)."""

from __future__ import annotations

import torch
from torch import Tensor

from .centre import check_points, mean_point, weights_of


def random_rotations(count: int, normals: Tensor | None = None, **options: object) -> Tensor:
    """Uniform rotations R [count, 3, 3], by unit quaternions with uniform directions (Shoemake 1992).

    normals: [count, 4], the unit Gaussian numbers that they are made of; from torch's generator if None. options: dtype
    and device of that draw. Raises ValueError naming the argument.

    >>> R = random_rotations(4, dtype=torch.float64)
    >>> torch.allclose(R @ R.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    True
    """
    q = torch.randn(count, 4, **options) if normals is None else normals  # type: ignore[call-overload]
    if q.shape != (count, 4):
        raise ValueError(f"normals: expected shape [{count}, 4], got {tuple(q.shape)}")
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(1)
    # R v = q v q*, written out.
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def align(x: Tensor, to: Tensor, weights: Tensor | None = None) -> Tensor:
    """x [B, N, d] rotated and moved onto `to`, never mirrored: least sum_i w_i |R x_i + b - to_i|^2 (Kabsch 1976).

    weights: [B, N] or [N], at least 0; 0 at padding. Computed in float64 whatever the dtype; nothing is differentiated.
    Where the best rotation is not unique, as of points on a line, it is one of the best. Raises TypeError or ValueError
    naming the argument.
    """
    check_points("x", x)
    check_points("to", to)
    if x.shape != to.shape:
        raise ValueError(f"to: expected the shape of x, {tuple(x.shape)}, got {tuple(to.shape)}")
    if weights is not None:
        check_points("x", x, weights)
    with torch.no_grad():
        a, b = x.double(), to.double()
        w = weights_of(a, weights)
        mean_a, mean_b = mean_point(a, w), mean_point(b, w)
        a = a - mean_a
        u, _, vt = torch.linalg.svd((w * (b - mean_b)).mT @ a)
        # det(U V^T) = -1 would be a mirror: the direction that counts least is turned over.
        flip = torch.ones_like(u[:, 0])
        flip[:, -1] = torch.linalg.det(u @ vt)
        rotation = (u * flip[:, None]) @ vt
        return (a @ rotation.mT + mean_b).to(x.dtype)
