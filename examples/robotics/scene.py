"""What a policy sees of the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from .expert import GOAL, OUTLINE, outline

NEAR = 8.0  # pixels: within them asinh(d / NEAR) is about linear in d


def features(seen: Tensor) -> Tensor:
    """[B, 86] of the last two observations [B, 2, 5]: places and ways of agent and corners, and those again from near.

    That the block is at its goal, and the agent at the block, is a matter of few pixels of 512.
    """
    agent, block, angle = seen[..., :2], seen[..., 2:4], seen[..., 4]
    axes = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    corners = torch.as_tensor(OUTLINE, dtype=seen.dtype) @ axes + block[..., None, :]
    to_goal = (corners - torch.as_tensor(outline(GOAL), dtype=seen.dtype)).flatten(-2)
    to_agent = (corners - agent[..., None, :]).flatten(-2)
    beside = (axes @ (agent - block)[..., None]).squeeze(-1)  # in the block's own axes
    far = torch.cat([agent - 256, beside, to_goal, to_agent], -1)[:, 1] / 128
    near = torch.cat([to_goal, to_agent], -1)[:, 1] / NEAR
    moved = torch.cat([agent, corners.flatten(-2)], -1).diff(dim=1).squeeze(1) / NEAR
    return torch.cat([far, near.asinh(), moved.asinh()], -1)
