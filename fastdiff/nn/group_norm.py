"""GroupNorm: a module on `fastdiff.ops.group_norm`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import group_norm


class GroupNorm(torch.nn.GroupNorm):
    """`torch.nn.GroupNorm` with the activation and the modulation around it in the same op.

    activation: None or "silu". forward(x, add, scale, shift) computes act(GN(x + add) * (1 + scale) + shift) with x
    [B, C, ...] and add, scale, shift [B, C]; see `fastdiff.ops.group_norm`. State dicts are torch.nn.GroupNorm's.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        if activation not in (None, "silu"):
            raise ValueError(f"activation: expected None or 'silu', got {activation!r}")
        self.activation = activation

    def forward(
        self, x: Tensor, add: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """act(GN(x + add) * (1 + scale) + shift): x [B, C, ...]; add, scale, shift [B, C]."""
        return group_norm(
            x, self.num_groups, self.weight, self.bias, self.eps,
            add=add, scale=scale, shift=shift, act=self.activation or "none",
        )  # fmt: skip

    def extra_repr(self) -> str:
        """torch.nn.GroupNorm's, and the activation."""
        return f"{super().extra_repr()}, activation={self.activation}"
