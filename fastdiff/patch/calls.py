"""What a call asks for besides its result, which a module's own code gives: gradients, hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def wants_gradient(module: nn.Module, *inputs: Tensor | None) -> bool:
    """Whether autograd records this call: PyTorch's own op has the faster backward."""
    if not torch.is_grad_enabled():
        return False
    return any(t is not None and t.requires_grad for t in (*inputs, *module.parameters()))


def computes(module: object, base: type[nn.Module]) -> bool:
    """Whether the module is a torch.nn class's, or of a subclass with no forward of its own."""
    cls: Any = type(module)
    return isinstance(module, base) and cls.forward is base.forward and cls.__call__ is base.__call__


def hooked(module: nn.Module) -> bool:
    """Whether calling the module runs more than its class's forward; so do modules that are moved when called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
