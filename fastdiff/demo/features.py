"""Features of the data that a shipped network has learnt, from the network itself, and scores of samples by them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Measure
from . import data
from .network import DemoNetwork, network

TIMES = {"digits": 300.0, "mnist": 0.3}  # where a neighbour's class is most often one's own
DATA = {"digits": data.all_digits, "mnist": data.mnist}


class Features(nn.Module):
    """The middle of a network at some noise level, averaged over the picture: [B, ...] to [B, width].

    x: data in [-1, 1], or uint8 pictures [B, h, w]. No label is told, and x is scaled as at that level, without noise.
    """

    def __init__(self, net: DemoNetwork, t: float) -> None:
        super().__init__()
        self.model, self.t, self.shape = net.model, t, net.shape
        self.alpha = float(net.schedule.alpha(t))
        middle: Any = net.model.middle if hasattr(net.model, "middle") else net.model.blocks
        self._seen: list[Tensor] = []
        list(middle.children())[-1].register_forward_hook(lambda module, given, found: self._seen.append(found))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """[B, width] float32."""
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
        self.model(self.alpha * x.reshape(-1, *self.shape), torch.full((len(x),), self.t))
        found = self._seen.pop()
        return found.mean(1) if found.ndim == 3 else found.flatten(2).mean(2)  # tokens [B, N, C], channels [B, C, h, w]


def measure_of(name: str, pictures: bool = False, **options: int) -> Measure:
    """Scores of samples of a shipped network: of the data, or of uint8 pictures of it. options: those of `Measure`.

    Raises ImportError where the package that holds the data is not there.
    """
    given = DATA[name]()
    net = network(name)
    x = torch.cat([given.x, given.held_x]) if name != "digits" else given.x
    y = torch.cat([given.y, given.held_y]) if name != "digits" else given.y
    real = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) if pictures else x
    return Measure(Features(net, TIMES[name]), real, y, **options)
