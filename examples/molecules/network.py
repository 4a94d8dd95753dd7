"""An E(3)-equivariant network of atoms (EGNN, Satorras et al. 2021), in EDM's preconditioning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastdiff.demo.edm import Preconditioned

CENTRES, WIDTH = torch.linspace(0, 7, 20), 0.4  # of the radial functions, in units of the preconditioned x


class Messages(nn.Module):
    """One round of messages between all pairs: h_i and x_i are changed by sums over j, x along x_i - x_j."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.here, self.there = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.apart = nn.Linear(len(CENTRES), width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.pull = nn.Linear(width, 1, bias=False)
        self.change = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, x: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """h [B, N, width], x [B, N, 3], pairs [B, N, N, 1]: 1 of two atoms, over their number."""
        way = x[:, :, None] - x[:, None]
        distance = (way.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        radial = torch.exp(-(((distance - CENTRES.to(x)) / WIDTH) ** 2))
        m = self.message(self.here(h)[:, :, None] + self.there(h)[:, None] + self.apart(radial)) * pairs
        x = x + (self.pull(m) * way / (1 + distance)).sum(2)
        return h + self.change(torch.cat([h, 8 * m.sum(2)], -1)), x


class Atoms(nn.Module):
    """The way from x to the prediction [B, N, 3], at t [B], of atomic numbers atoms [B, N]; 0 at padding."""

    def __init__(self, width: int = 64, rounds: int = 4) -> None:
        super().__init__()
        self.width = width
        self.element = nn.Embedding(10, width)
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.rounds = nn.ModuleList(Messages(width) for _ in range(rounds))

    def forward(self, x: Tensor, t: Tensor, atoms: Tensor) -> Tensor:
        mask = (atoms > 0).to(x)
        pairs = mask[:, :, None] * mask[:, None] * (1 - torch.eye(x.shape[1], device=x.device))
        pairs = (pairs / mask.sum(1).view(-1, 1, 1))[..., None]
        angles = t[:, None] / 100 * 1.5 ** torch.arange(-8, 8, device=x.device)  # t is 100 ln(sigma)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        h, moved = self.element(atoms) + time[:, None], x
        for part in self.rounds:
            h, moved = part(h, moved, pairs)
        away = (moved - x) * mask[..., None]
        return away - mask[..., None] * (away.sum(1, keepdim=True) / mask.sum(1).view(-1, 1, 1))


class Denoiser(Preconditioned):
    """D(x, sigma, atoms): x0 of noisy centred atoms."""

    def forward(self, x: Tensor, t: Tensor, atoms: Tensor) -> Tensor:  # type: ignore[override]
        sigma = t.float().view(-1, 1, 1)
        total = (sigma**2 + self.sigma_data**2).sqrt()
        said = self.network(x / total, 100 * torch.log(t.float()), atoms)
        return (self.sigma_data / total) ** 2 * x + sigma * self.sigma_data / total * said
