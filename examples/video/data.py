"""Handwritten digits (scikit-learn's) that move at constant speed and bounce off the walls."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

FRAMES, SIZE, DIGIT = 8, 16, 8
ROOM = SIZE - DIGIT  # pixels between a digit's places at opposite walls
SPEED = (0.5, 1.5)  # pixels a frame, in each direction


class Videos(NamedTuple):
    """x [B, 1, T, H, W] in [-1, 1]. place [B, T, 2]: of the digit's middle, row and column, in pixels."""

    x: Tensor
    place: Tensor


@cache
def digits() -> Tensor:
    """[1797, 8, 8] in [0, 1]."""
    return torch.from_numpy(load_digits().images).float() / 16


def videos(count: int, generator: torch.Generator | None = None) -> Videos:
    """Fresh ones: a digit, a place and a velocity at random each."""
    which = torch.randint(len(digits()), (count,), generator=generator)
    start, speed, sign = (torch.rand(count, 1, 2, generator=generator) for _ in range(3))
    velocity = torch.where(sign < 0.5, -1, 1) * (SPEED[0] + (SPEED[1] - SPEED[0]) * speed)
    free = ROOM * start + velocity * torch.arange(FRAMES).view(1, -1, 1)
    corner = ROOM - (free.remainder(2 * ROOM) - ROOM).abs()  # reflected at 0 and at ROOM
    place = corner + (DIGIT - 1) / 2
    # Between pixels the digit is interpolated: frame pixel p shows the digit's pixel p - corner.
    shift = (2 * (place - (SIZE - 1) / 2) / DIGIT).flatten(0, 1)
    scale = SIZE / DIGIT
    theta = torch.zeros(count * FRAMES, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = -shift.flip(1)
    images = digits()[which].repeat_interleave(FRAMES, 0)[:, None]
    grid = affine_grid(theta, [len(images), 1, SIZE, SIZE], align_corners=False)
    frames = grid_sample(images, grid, align_corners=False)
    return Videos(2 * frames.view(count, FRAMES, 1, SIZE, SIZE).transpose(1, 2) - 1, place)
