"""diffusers' formulas without diffusers' rounding: its schedulers, and fastdiff's, made and run in float64."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from fastdiff import schedulers

PACKAGES = ("diffusers.schedulers.scheduling_", "diffusers.schedulers.deprecated.scheduling_", "fastdiff.schedulers.")


class Wide:
    """torch or NumPy with float64 in place of float32."""

    def __init__(self, library: ModuleType) -> None:
        self.library, self.float32 = library, library.float64

    def __getattr__(self, name: str) -> object:
        return getattr(self.library, name)


@functools.cache
def scheduler_modules() -> list[ModuleType]:
    """diffusers' of the classes that fastdiff has, and fastdiff's own."""
    for name in schedulers.__all__:
        getattr(diffusers, name, None)  # imported when asked for
    return [module for name, module in sys.modules.items() if name.startswith(PACKAGES)]


def wide_noise(
    shape: tuple, generator: object = None, device: object = None, dtype: object = None, layout: object = None
) -> Tensor:
    """The same numbers as in float32."""
    return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32).double()


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """In here betas, sigmas and noises of new schedulers are float64, and so is all that diffusers does with them."""
    stand_ins = {"torch": (torch, Wide(torch)), "np": (np, Wide(np)), "randn_tensor": (randn_tensor, wide_noise)}
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for module in scheduler_modules():
                for name, (usual, wide) in stand_ins.items():
                    if getattr(module, name, None) is usual:
                        patch.setattr(module, name, wide)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            yield
    finally:
        torch.set_default_dtype(torch.float32)
