"""Small photographs from a quarter of their resolution, from a blur, and from a fifth of their pixels.

python -m examples.posterior.images [--quick] [--out FOLDER] [--peers]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from fastdiff import demo

from .problem import Problem, measured
from .show import run

SPREAD = 0.5  # of the pixels


def enlarge(net: demo.DemoNetwork, truth: Tensor, noise: float = 0.05) -> Problem:
    """Four by four pixels are averaged. 16 A^T A is a projection, so A^+ repeats pixels."""

    def pinv(v: Tensor) -> Tensor:
        return v.repeat_interleave(4, 2).repeat_interleave(4, 3)

    y = measured(avg_pool2d(truth, 4), noise)
    start = interpolate(y, scale_factor=4, mode="bicubic")
    return Problem("super-resolution x4", net, truth, y, lambda x: avg_pool2d(x, 4), noise, start, "bicubic", pinv)


def deblur(net: demo.DemoNetwork, truth: Tensor, noise: float = 0.05, width: float = 1.5) -> Problem:
    """A Gaussian blur of this standard deviation in pixels, around the edges as if the picture went on from the other
    side: a product in Fourier space.
    """
    size = truth.shape[-1]
    frequency = torch.fft.fftfreq(size)
    one = torch.exp(-2 * (torch.pi * width * frequency) ** 2)
    gains = one[:, None] * one

    def blur(x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * gains).real

    y = measured(blur(truth), noise)
    wave = size * (frequency.square() + frequency[:, None].square()).sqrt()
    power = size**2 * 0.05 / (1 + wave) ** 2.5  # about that of pictures; noise has size^2 noise^2
    wiener = gains / (gains**2 + size**2 * noise**2 / (size**2 * power))
    start = torch.fft.ifft2(torch.fft.fft2(y) * wiener).real
    return Problem("deblurring", net, truth, y, blur, noise, start, "Wiener")


def fill(net: demo.DemoNetwork, truth: Tensor, noise: float = 0.05, share: float = 0.2) -> Problem:
    """y [B, C, K]: a share of the pixels, at random."""
    seen = torch.rand(truth.shape[-2:], generator=torch.Generator().manual_seed(1)) < share

    def among_zeros(v: Tensor) -> Tensor:
        whole = v.new_zeros(*v.shape[:2], *seen.shape)
        whole[..., seen] = v
        return whole

    y = measured(truth[..., seen], noise)
    start = smooth(among_zeros(y)) / smooth(among_zeros(torch.ones_like(y))).clamp(min=1e-6)
    return Problem(
        "inpainting", net, truth, y, lambda x: x[..., seen], noise, start, "smoothing", among_zeros, seen.float()
    )


def smooth(x: Tensor) -> Tensor:
    """[B, C, H, W] with a Gaussian of 1.2 pixels."""
    one = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 1.2) ** 2)
    kernel = (one[:, None] * one).expand(x.shape[1], 1, 9, 9)
    return conv2d(x, kernel, padding=4, groups=x.shape[1])


def main(argv: Sequence[str] | None = None) -> None:
    run(argv, __doc__, demo.network("colour"), (enlarge, deblur, fill), SPREAD)


if __name__ == "__main__":
    main()
