"""ComfyUI's ModelPatcher: its clones share their modules, so that nothing of them may be changed where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .attention_functions import attend_where_it_pays
from .handle import Handle

OVERRIDE = "optimized_attention_override"  # ComfyUI's name for a function that is called in place of its attention


def is_patcher(model: object) -> bool:
    """A ModelPatcher, by what it has."""
    parts = ("model_options", "clone", "add_object_patch")
    return all(hasattr(model, name) for name in parts) and isinstance(getattr(model, "model", None), nn.Module)


class PatcherHandle(Handle):
    """Changes as object patches and options of a clone, `model`; the patcher that was given stays as it is.

    A module's twin is of another class and shares everything that hangs on the module. ComfyUI puts it in the module's
    place while it runs the clone.
    """

    def __init__(self, patcher: Any) -> None:
        super().__init__(patcher.clone())
        self._names = {module: name for name, module in self.model.model.named_modules()}
        self._taken = dict(self.model.object_patches)
        self._overridden = OVERRIDE in self.model.model_options.get("transformer_options", {})
        self._twins: dict[str, nn.Module] = {}

    def set_class(self, thing: Any, new: Any, what: str, **added: object) -> None:
        """Have a twin of class `new`, which shares all that the module holds, put in its place in the clone."""
        name = self._names[thing]
        if not name or any(name == taken or name.startswith(f"{taken}.") for taken in self._taken):
            return  # what another patch put there runs, and not this module
        twin = new.__new__(new)
        object.__setattr__(twin, "__dict__", vars(thing))  # what ComfyUI writes on one of the two is on both
        self.model.add_object_patch(name, twin)
        self._twins[name] = twin
        self.changes[what] += 1

    def override_attention(self) -> None:
        """Have ComfyUI's attentions ask `attention_override`, unless another override is set."""
        options = self.model.model_options.setdefault("transformer_options", {})
        if options.setdefault(OVERRIDE, attention_override) is not attention_override:
            self.left[f"{OVERRIDE}: another one is set"] += 1
        elif not self._overridden:
            self.changes[f"{OVERRIDE}, for every attention that asks it"] += 1

    def has_changed(self, thing: Any) -> bool:
        """Whether the module, or what the clone has in its place, is fastdiff's."""
        patch = self.model.object_patches.get(self._names.get(thing))
        return super().has_changed(thing) or super().has_changed(patch)

    def undo(self) -> None:
        """Take the patches and options from the clone, which is then like the patcher that was given."""
        for name, twin in self._twins.items():
            if self.model.object_patches.get(name) is twin:
                del self.model.object_patches[name]
        if not self._overridden:
            self.model.model_options.get("transformer_options", {}).pop(OVERRIDE, None)
        self._twins = {}
        super().undo()


def attention_override(
    func: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: object = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: object,
) -> Tensor:
    """Attention as ComfyUI asks for it: [B, N, H D] of such, of [B, N, H, D], or of [B, H, N, D] where skip_reshape.

    Calls that fastdiff's op does not serve, or no better than PyTorch's, go to `func`, ComfyUI's own.
    """
    each = (q, k, v) if skip_reshape else [t.reshape(len(t), t.shape[1], heads, -1).transpose(1, 2) for t in (q, k, v)]
    out = attend_where_it_pays(*each, mask if mask is None or mask.ndim != 3 else mask[:, None])
    if out is None:
        named = {"attn_precision": attn_precision, "skip_reshape": skip_reshape}
        return func(q, k, v, heads, mask=mask, skip_output_reshape=skip_output_reshape, **named, **kwargs)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
