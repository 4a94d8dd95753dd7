"""An autoencoder whose latents a diffusion model can learn (Rombach et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Images [B, 1, 28, 28] in [-1, 1] to latents [B, latent, 7, 7] and back.

    A batch norm ends the encoder: latents have mean 0 and variance 1 in each channel. In training they get noise of
    standard deviation `noise`, so that the decoder forgives a diffusion model's errors.
    """

    def __init__(self, width: int = 32, latent: int = 4, noise: float = 0.1) -> None:
        super().__init__()
        self.noise = noise

        def conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
            return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1)

        def up() -> nn.Module:
            return nn.Upsample(scale_factor=2.0, mode="nearest")

        self.encoder = nn.Sequential(
            conv(1, width // 2), nn.SiLU(), conv(width // 2, width, 2), nn.SiLU(), conv(width, 2 * width, 2), nn.SiLU(),
            conv(2 * width, latent), nn.BatchNorm2d(latent, affine=False),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            conv(latent, 2 * width), nn.SiLU(), conv(2 * width, 2 * width), nn.SiLU(), up(),
            conv(2 * width, width), nn.SiLU(), up(), conv(width, width // 2), nn.SiLU(), conv(width // 2, 1), nn.Tanh(),
        )  # fmt: skip

    def encode(self, x: Tensor) -> Tensor:
        """Images [B, 1, 28, 28] to latents."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to images [B, 1, 28, 28] in [-1, 1]."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """The image that comes back."""
        z = self.encode(x)
        return self.decode(z + self.noise * torch.randn_like(z) if self.training else z)
