"""The noise of a step, drawn as diffusers draws it: the same generator gives the same image."""

from __future__ import annotations

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .run_state import Generators


def output_noise(scheduler: object, run: object, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """In the dtype of the model's output m."""
    return randn_tensor(x.shape, generator=generator, device=m.device, dtype=m.dtype)


def wider_noise(scheduler: object, run: object, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """In the wider dtype of the model's output m and the sample x."""
    dtype = m.dtype if m.dtype == x.dtype else torch.promote_types(m.dtype, x.dtype)
    return randn_tensor(x.shape, generator=generator, device=m.device, dtype=dtype)


def float32_noise(scheduler: object, run: object, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """In float32."""
    return randn_tensor(x.shape, generator=generator, device=x.device, dtype=torch.float32)


def sample_noise(scheduler: object, run: object, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """In the dtype of the sample x."""
    return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
