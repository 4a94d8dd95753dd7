"""The centre of a point set, and noise that has none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sampling.noise import randn


def check_points(name: str, x: Tensor, mask: Tensor | None = None) -> None:
    """Raises TypeError or ValueError naming the argument."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name}: expected a tensor of floating point, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 3:
        raise ValueError(f"{name}: expected points [B, N, d], got shape {tuple(x.shape)}")
    if mask is not None and tuple(mask.shape) not in ((x.shape[1],), tuple(x.shape[:2])):
        shape = tuple(mask.shape)
        raise ValueError(
            f"mask: expected shape {tuple(x.shape[:2])} or {(x.shape[1],)}, one for each point, got {shape}"
        )


def weights_of(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mask as [B or 1, N, 1] in x's dtype; ones without one."""
    if mask is None:
        return torch.ones(1, x.shape[1], 1, dtype=x.dtype, device=x.device)
    weights = mask.to(x.device, x.dtype)
    return (weights if weights.ndim == 2 else weights[None])[..., None]


def mean_point(x: Tensor, weights: Tensor) -> Tensor:
    """sum_i w_i x_i / sum_i w_i [B, 1, d]; the origin where all weights are 0."""
    return (weights * x).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def centre(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """x [B, N, d] less the mean of its points, so that it is the origin.

    mask: [B, N] or [N], 1 at points and 0 at padding, which is moved with them and does not count. Other numbers are
    weights. Raises TypeError or ValueError naming the argument.
    """
    check_points("x", x, mask)
    return x - mean_point(x, weights_of(x, mask))


def centred_noise(
    shape: Sequence[int],
    mask: Tensor | None = None,
    *,
    seeds: Sequence[int] | Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Unit Gaussian noise [B, N, d] in the subspace of sets whose centre is the origin (Hoogeboom et al. 2022).

    xi - mean(xi): each coordinate of each of n points has variance 1 - 1/n. It is the start of models that see centred
    sets alone, which have no probability over translations.

    shape: [B, N, d]. mask: [B, N] or [N], 1 at points; padding is 0 in the result. seeds: B whole numbers, for noise
    that does not depend on the batch; from torch's generator if None. Raises TypeError or ValueError naming the
    argument.

    >>> centred_noise((2, 5, 3), seeds=[0, 1]).mean(1).abs().max() < 1e-6
    tensor(True)
    """
    drawn = torch.randn(tuple(shape), dtype=dtype) if seeds is None else randn(shape, seeds, dtype=dtype)
    drawn = drawn.to(device)
    check_points("shape", drawn, mask)
    weights = (weights_of(drawn, mask) != 0).to(dtype)
    return weights * (drawn - mean_point(drawn, weights))
