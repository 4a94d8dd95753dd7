"""Preconditioning of Karras et al. 2022 (table 1, last column) around a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Preconditioned(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise): the clean data of x, where F is the network (eq. 7).

    sigma_data: the data's standard deviation. c_noise is 100 ln(sigma), the paper's times 400, so that a network's
    embedding of times up to 1000 resolves it.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = t.float().reshape(-1, *[1] * (x.ndim - 1))
        total = (sigma**2 + self.sigma_data**2).sqrt()
        c_skip, c_out = (self.sigma_data / total) ** 2, sigma * self.sigma_data / total
        return c_skip * x + c_out * self.network(x / total, 100 * torch.log(t.float()))
