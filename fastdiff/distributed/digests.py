"""What a job was begun with, in words and numbers that JSON can hold: contents by their sha256."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ADDRESS = " at 0x"  # in the representation of what has none of its own


def weights_digest(model: Callable) -> str:
    """The sha256 of a module's parameters and buffers: their names, types, shapes and bytes.

    Of a functools.partial, those of what it calls. Raises ValueError naming `model` for other functions.
    """
    network = model
    while isinstance(network, functools.partial):
        network = network.func
    if not isinstance(network, nn.Module):
        raise ValueError("model: a job has to know a network again, and this is no torch module; name it by name=")
    found = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in network.state_dict().items():
        found.update(name.encode())
        if isinstance(value, Tensor):
            _add(found, value)
    return found.hexdigest()


def described(value: Any) -> Any:
    """The value as JSON has it: numbers and texts as they are, tensors by shape and sha256, others by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        found = hashlib.sha256()
        _add(found, value)
        return f"{list(value.shape)} sha256 {found.hexdigest()}"
    if isinstance(value, Mapping):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} sha256 {weights_digest(value)}"
    text = repr(value)
    return text if ADDRESS not in text else getattr(value, "__qualname__", type(value).__qualname__)


def digest(value: object) -> str:
    """The sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _add(found: Any, value: Tensor) -> None:
    flat = value.detach().cpu().contiguous().reshape(-1)
    found.update(f"{tuple(value.shape)}{value.dtype}".encode())
    found.update(flat.view(torch.uint8).numpy().data)
