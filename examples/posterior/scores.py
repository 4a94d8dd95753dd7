"""How good members are, given the truth: PSNR, SSIM, CRPS, coverage."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

COVERED = 0.9


def psnr(x: Tensor, truth: Tensor, low: float, high: float) -> float:
    """Mean over images [N, ...], in dB."""
    pairs = zip(_images(x, low, high), _images(truth, low, high), strict=True)
    return float(np.mean([peak_signal_noise_ratio(b, a, data_range=1.0) for a, b in pairs]))


def ssim(x: Tensor, truth: Tensor, low: float, high: float) -> float:
    """Mean over images [N, C, H, W], in windows of 7 x 7 pixels."""
    pairs = zip(_images(x, low, high), _images(truth, low, high), strict=True)
    return float(np.mean([structural_similarity(a, b, data_range=1.0, channel_axis=0) for a, b in pairs]))


def crps(members: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Continuous ranked probability score of members [M, N, ...]: E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007).

    X and X' are different members, so that the score does not depend on how many there are (Ferro 2014). Of one
    member it is the mean absolute error.
    """
    error, count = (members - truth).abs().mean(0), len(members)
    if count > 1:
        ranks = torch.arange(1, count + 1).view(-1, *[1] * truth.ndim)
        # sum over pairs |X_i - X_j|, from the members in order
        pairs = ((2 * ranks - count - 1) * members.sort(0).values).sum(0)
        error = error - pairs / (count * (count - 1))
    return float(_counted(error, where).mean())


def coverage(members: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """How often the truth [N, ...] lies in the members' central interval, which right members do in 90 of 100.

    Between the k-th smallest and the k-th largest of M members lie (M + 1 - 2 k) / (M + 1) of the truths: 19 members
    are told by their extremes, 39 by the second ones.
    """
    k = max(1, round((len(members) + 1) * (1 - COVERED) / 2))
    ordered = members.sort(0).values
    inside = (truth >= ordered[k - 1]) & (truth <= ordered[-k])
    return float(_counted(inside.float(), where).mean())


def _counted(x: Tensor, where: Tensor | None) -> Tensor:
    """The elements of x [N, ...] that count."""
    return x if where is None else x[where.expand_as(x)]


def _images(x: Tensor, low: float, high: float) -> np.ndarray:
    return ((x - low) / (high - low)).clamp(0, 1).double().numpy()
