"""Which rule moves which weights in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .masked import MaskedTransformer

MUON = 5.0  # its rate over AdamW's


class Optimizer:
    """AdamW for the tables and norms of a transformer, Muon (Jordan et al. 2024) for the matrices of its blocks.

    Needs torch 2.9. `scale` of a group is its rate's factor.
    """

    def __init__(self, model: MaskedTransformer) -> None:
        matrices = [
            p for module in model.blocks.modules() if isinstance(module, nn.Linear) for p in module.parameters()
        ]
        known = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in known]
        self.parts = (
            torch.optim.Muon([{"params": matrices, "scale": MUON}], weight_decay=0.01),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])
