"""Linear systems S v = b, one for each sample of a batch, of which only products S v are known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def conjugate_gradients(product: Product, b: Tensor, iterations: int) -> Tensor:
    """v [B, ...] with S v = b for symmetric positive definite S, from v = 0 (Hestenes & Stiefel 1952).

    iterations: at most; a sample whose residual has reached rounding stays as it is, without asking the host.
    """
    v, residual = torch.zeros_like(b), b
    direction, size = b, dot(b, b)
    least = size * torch.finfo(b.dtype).eps ** 2
    for _ in range(iterations):
        image = product(direction)
        curvature = dot(direction, image)
        going = (size > least) & (curvature > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        v = v + per_sample(step, b) * direction
        residual = residual - per_sample(step, b) * image
        new = dot(residual, residual)
        direction = residual + per_sample(torch.where(going, new / torch.where(going, size, 1.0), 0.0), b) * direction
        size = new
    return v


def gmres(product: Product, b: Tensor, iterations: int, precondition: Product | None = None) -> Tensor:
    """v [B, ...] of the least |S v - b| in the Krylov space of so many products (Saad & Schultz 1986), from v = 0.

    S need not be symmetric: the Jacobian of a trained network is so only nearly. precondition: an approximate inverse,
    which gives the last direction of the space (flexible GMRES, Saad 1993). A good one then gives the solution, as one
    of all directions would, and a bad one costs a direction and no more.
    """
    norm = dot(b, b).sqrt()
    basis = [b * per_sample(_inverse(norm), b)]
    tried: list[Tensor] = []
    hessenberg = b.new_zeros(len(b), iterations + 1, iterations)
    for k in range(iterations):
        tried.append(precondition(basis[k]) if precondition and k == iterations - 1 else basis[k])
        image = product(tried[k])
        size = dot(image, image).sqrt()
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            for j, known in enumerate(basis):
                share = dot(known, image)
                hessenberg[:, j, k] += share
                image = image - per_sample(share, b) * known
        length = dot(image, image).sqrt()
        # Only rounding is left of the image where the space is exhausted: the solution lies in it.
        length = torch.where(length > 100 * torch.finfo(b.dtype).eps * size, length, 0.0)
        hessenberg[:, k + 1, k] = length
        basis.append(image * per_sample(_inverse(length), b))
    target = b.new_zeros(len(b), iterations + 1, 1)
    target[:, 0, 0] = norm
    weights = torch.linalg.pinv(hessenberg, rtol=torch.finfo(b.dtype).eps * 100) @ target
    return sum((per_sample(weights[:, k, 0], b) * z for k, z in enumerate(tried)), torch.zeros_like(b))


def _inverse(values: Tensor) -> Tensor:
    """[B] 1 / v, and 0 for 0."""
    return torch.where(values > 0, 1 / values, 0.0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[B] inner products."""
    return (a * b).flatten(1).sum(1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] numbers, shaped to go with `like` [B, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))
