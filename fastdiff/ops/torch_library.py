"""How the public ops enter torch's dispatcher: schema, implementation, shape function and gradient.

`Library.define` and `Library.impl` instead of `torch.library.custom_op`, which costs four times as much a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("fastdiff", "DEF")


def register(
    schema: str, run: Callable[..., Any], meta: Callable[..., Any], formula: Callable[..., Any]
) -> Callable[..., Any]:
    """Define `fastdiff::<schema>` and return the function that calls it.

    run: the implementation on every device. meta: the same on shapes alone. formula: the same in differentiable torch,
    for the gradient, which is recomputed from the inputs.
    """
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    name = schema.split("(")[0]
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastdiff::{name}", meta, lib=LIBRARY)
    backward = _recompute(formula)
    torch.library.register_autograd(f"fastdiff::{name}", backward, setup_context=_save_inputs, lib=LIBRARY)
    op = getattr(torch.ops.fastdiff, name)

    def call(*arguments: object) -> object:
        return run(*arguments) if _needs_no_dispatch(arguments) else op(*arguments)

    return call


try:
    _modes, _transforms = torch._C._len_torch_dispatch_stack, torch._C._functorch.maybe_current_level
    _functions = torch._C._is_torch_function_mode_enabled
except AttributeError:  # a torch that keeps them elsewhere: every call is dispatched

    def _modes() -> int:
        return 1

    def _functions() -> bool:
        return True


_PLAIN = (Tensor, torch.nn.Parameter)
_NO_TENSORS = frozenset((type(None), bool, int, float, str))


def _needs_no_dispatch(arguments: tuple[object, ...]) -> bool:
    """Whether torch's dispatcher would come straight to the implementation: it takes 9 us to, a small norm takes 20."""
    if torch.compiler.is_compiling() or _modes() or _functions() or _transforms() is not None:
        return False
    return _are_plain(arguments, torch.is_grad_enabled())


def _are_plain(arguments: Iterable[object], grad: bool) -> bool:
    """Whether all tensors, in lists too, are torch's own, real, and need no gradient."""
    for a in arguments:
        kind = type(a)
        if isinstance(a, list):
            if not _are_plain(a, grad):
                return False
            continue
        if kind in _NO_TENSORS or not isinstance(a, Tensor):
            continue
        if kind not in _PLAIN or a.is_meta or (grad and a.requires_grad):
            return False
    return True


def _save_inputs(ctx: Any, inputs: tuple[object, ...], output: object) -> None:
    """Keep the tensors through save_for_backward (lists of tensors flattened) and the rest as they are."""
    tensors: list[Tensor] = []

    def keep(value: object) -> object:
        if isinstance(value, Tensor):
            tensors.append(value)
            return _Saved(len(tensors) - 1)
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return [keep(v) for v in value]
        return value

    ctx.arguments = [keep(value) for value in inputs]
    ctx.save_for_backward(*tensors)


class _Saved(int):
    """A place in ctx.saved_tensors."""


def _recompute(formula: Callable[..., Any]) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[object, ...]:
        leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors]
        inputs = [leaf for leaf in leaves if leaf.requires_grad]

        def restore(value: object) -> object:
            if isinstance(value, _Saved):
                return leaves[value]
            return [restore(v) for v in value] if isinstance(value, list) else value

        def of_formula() -> tuple[Tensor | None, ...]:
            with torch.enable_grad():
                outputs = formula(*(restore(value) for value in ctx.arguments))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
            return torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)

        empty = not any(g.numel() for g in grads if g is not None)  # a result on which no input has an effect
        found = iter([torch.zeros_like(leaf) for leaf in inputs] if empty else of_formula())
        gradients = [next(found) if leaf.requires_grad else None for leaf in leaves]

        def gradient(value: object) -> object:
            if isinstance(value, _Saved):
                return gradients[value]
            return [gradient(v) for v in value] if isinstance(value, list) and _all_saved(value) else None

        return tuple(gradient(value) for value in ctx.arguments)

    return backward


def _all_saved(values: list[object]) -> bool:
    """Whether this was a list of tensors; an empty one has an empty list of gradients."""
    return all(isinstance(v, _Saved) for v in values)
