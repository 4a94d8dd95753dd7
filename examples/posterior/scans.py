"""Digits from a third of their Fourier coefficients, as in magnetic resonance, and from ten X-ray views.

python -m examples.posterior.scans [--quick] [--out FOLDER] [--peers]
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from skimage.transform import iradon, radon
from torch import Tensor

from fastdiff import demo

from .problem import Problem, measured
from .show import run

SPREAD = 0.57  # of the pixels


def resonance(
    net: demo.DemoNetwork, truth: Tensor, noise: float = 0.05, frequencies: Sequence[int] = (0, 1, -1, 3, -5)
) -> Problem:
    """Complex y = the rows of fft2(x) with these frequencies, the lowest and some of the others, noise in both parts.

    A^+ fills the others with zeros: the transform is unitary.
    """
    size = truth.shape[-1]
    rows = torch.tensor(frequencies) % size

    def transform(x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")[..., rows, :]

    def zero_filled(v: Tensor) -> Tensor:
        whole = torch.zeros(*v.shape[:-2], size, size, dtype=v.dtype)
        whole[..., rows, :] = v
        return torch.fft.ifft2(whole, norm="ortho").real

    y = measured(transform(truth), noise)
    return Problem(f"Fourier rows, {len(rows)} of {size}", net, truth, y, transform, noise, zero_filled(y), "zero-fill")


def tomography(net: demo.DemoNetwork, truth: Tensor, noise: float = 0.1, views: int = 8) -> Problem:
    """The line integrals of scikit-image's Radon transform, as a matrix [views detectors, pixels]."""
    size = truth.shape[-1]
    angles = np.linspace(0.0, 180.0, views, endpoint=False)

    def project(image: np.ndarray) -> np.ndarray:
        return radon(image, angles, circle=False)

    basis = np.eye(size * size).reshape(-1, size, size)
    matrix = torch.tensor(np.stack([project(image).ravel() for image in basis], axis=1), dtype=torch.float32)
    y = measured(truth.flatten(1) @ matrix.T, noise)
    # Filtered back-projection takes what lies outside of the image for 0, so the background has to be that.
    ink = (y + matrix.sum(1)).double().numpy().reshape(len(y), -1, views)
    back = np.stack([iradon(one, angles, output_size=size, circle=False) for one in ink])
    start = torch.tensor(back, dtype=torch.float32)[:, None] - 1
    return Problem(f"tomography, {views} views", net, truth, y, matrix, noise, start, "filtered back-projection")


def main(argv: Sequence[str] | None = None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Radon transform")  # of corners outside of the circle
        run(argv, __doc__, demo.network("mnist"), (resonance, tomography), SPREAD)


if __name__ == "__main__":
    main()
