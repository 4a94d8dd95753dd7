"""The checks every public op makes once, before any launch. Messages say what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def require_tensor(name: str, value: object) -> None:
    """Raises TypeError where it is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def require_float(name: str, value: Tensor) -> None:
    """Raises TypeError where it is no tensor of a floating-point type that the ops take."""
    require_tensor(name, value)
    if value.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {value.dtype}")


def require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError where it has another shape."""
    require_tensor(name, value)
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(value.shape)}")


def require_device(name: str, value: Tensor, like: Tensor) -> None:
    """Raises ValueError where the two are on different devices."""
    if value.device != like.device:
        raise ValueError(f"{name}: expected device {like.device}, got {value.device}")


def require_dtype(name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raises TypeError where it has another dtype."""
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
