"""Axial slices of the MNI152 average brain, and those that a network is trained on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

SIZE, FINE = 48, 4  # points of a slice, and mm between them, from slices of 1 mm
KEPT, MARGIN = (44, 68, 92, 116), 5  # no slice nearer than so many mm to these is trained on; 72 is MNI's z = 0


def volume() -> Tensor:
    """[189, 1, 192, 192] in [-1, 1], axial slices of 1 mm from below, 0 mm at the 72nd, with the nose up."""
    import nibabel

    nilearn = importlib.util.find_spec("nilearn").submodule_search_locations[0]  # not imported: that takes seconds
    path = Path(nilearn, "datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    volume = torch.tensor(nibabel.load(path).get_fdata(dtype="float32")) / 127.5 - 1
    return volume[2:194, 20:212].permute(2, 1, 0).flip(1)[:, None].contiguous()


def coarse(slices: Tensor) -> Tensor:
    return avg_pool2d(slices, FINE)


def trained_on(slices: Tensor) -> Tensor:
    """Those that show enough of the brain and are far from those that are kept."""
    far = [min(abs(z - kept) for kept in KEPT) > MARGIN for z in range(len(slices))]
    return slices[torch.tensor(far) & ((slices > -0.5).flatten(1).float().mean(1) > 0.1)]


def moved(slices: Tensor, count: int) -> Tensor:
    """[count, 1, 48, 48] of them, mirrored, turned, shifted and scaled a little, with another gain of the coil."""
    turn, scale = 0.12 * torch.randn(count), 1 + 0.06 * torch.randn(count)
    mirror = torch.randint(2, (count,)) * 2.0 - 1
    rows = [scale * mirror * turn.cos(), -scale * turn.sin(), scale * mirror * turn.sin(), scale * turn.cos()]
    matrix = torch.cat([torch.stack(rows, 1).view(-1, 2, 2), 0.04 * torch.randn(count, 2, 1)], 2)
    chosen = slices[torch.randint(len(slices), (count,))] + 1
    grid = affine_grid(matrix, list(chosen.shape), align_corners=False)
    gain = 1 + 0.05 * torch.randn(count, 1, 1, 1)
    return coarse(gain * grid_sample(chosen, grid, align_corners=False)) - 1
