"""`accelerate`: which module is replaced by what."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from torch import nn

from ..nn.cross_attention import CrossAttentionCache
from .attention import FastMultiheadAttention, is_multihead
from .attention_classes import with_fast_attention
from .calls import computes
from .comfyui import PatcherHandle, is_patcher
from .fast import subclass
from .handle import Handle
from .ldm import FastCrossAttention, fast_attention, fast_block
from .left import why_left
from .norms import FastGroupNormSiLU, FastSequential, SiLUDone, fast_norm, has_pair, is_norm, is_silu


def accelerate(
    model: Any,
    *,
    attention: bool = True,
    group_norm: bool = True,
    scheduler: bool = True,
    cross_attention_cache: bool = True,
) -> Handle:
    """Patch a model in place so that it runs on fastdiff's ops. The handle says what changed and undoes it.

    model: a torch.nn.Module; a diffusers pipeline, whose modules are all patched; or a ComfyUI ModelPatcher.
    group_norm: torch.nn.GroupNorm and subclasses known to compute the same. Fused with the SiLU after it, in
        torch.nn.Sequential and in diffusers' models, and with the time embedding, in the residual blocks of diffusers,
        LDM and ComfyUI.
    attention: of every module or diffusers processor that asks for it by torch.nn.functional's
        scaled_dot_product_attention or by diffusers' dispatch_attention_fn; diffusers' Attention with its default
        processor; LDM's and guided-diffusion's attentions; torch.nn.MultiheadAttention and its subclasses.
    scheduler: the pipeline's, if fastdiff has the class of the same name.
    cross_attention_cache: project the keys and values of a context once, not at every step (`CrossAttentionCache`).

    `print(handle)` also lists the normalisations and attentions that were left alone, and why. `handle.undo()` restores
    the model.

    Modules keep their identity and read their weights when they are called, so weight updates, LoRA and saving work as
    before. Calls recorded by autograd, attention with a mask that does more than leave out keys, a backend that was
    chosen in diffusers, and norms with hooks or of unknown classes run their own code. The kernel is chosen at every
    call; it can be PyTorch's own op. Masks are read on the CPU alone, where that stops nothing: keys left out are not
    computed.

    A ModelPatcher shares its modules with its clones, so it is not changed: `handle.model` is a clone with object
    patches and ComfyUI's `optimized_attention_override`.
    Raises TypeError for any other model.
    """
    handle = PatcherHandle(model) if is_patcher(model) else Handle(model)
    every = _modules(model.model if isinstance(handle, PatcherHandle) else model)
    # Offloading, for one, replaces the forward of an object, which would run in place of another class's.
    modules = [module for module in every if "forward" not in vars(module)]
    cache = CrossAttentionCache() if cross_attention_cache else None
    for module in modules:
        if group_norm:
            _fuse(module, handle)
        if attention and not isinstance(handle, PatcherHandle):
            _attend(module, handle, cache)
    if group_norm:
        for module in modules:
            if is_norm(module) and not handle.has_changed(module):
                handle.set_class(module, fast_norm(module), type(module).__name__)
    if isinstance(handle, PatcherHandle):
        if attention:
            handle.override_attention()
        attention = False  # ComfyUI's attentions ask the override
    elif scheduler and not isinstance(model, nn.Module):
        _swap_scheduler(model, handle)
    for module in every:
        if not handle.has_changed(module) and (why := why_left(module, group_norm, attention)) is not None:
            handle.left[why] += 1
    return handle


def _modules(model: object) -> list[nn.Module]:
    """All modules once."""
    parts = {"": model} if isinstance(model, nn.Module) else getattr(model, "components", None)
    if not isinstance(parts, dict):
        wanted = "a torch.nn.Module, a diffusers pipeline or a ComfyUI ModelPatcher"
        raise TypeError(f"model: expected {wanted}, got {type(model).__name__}")
    return list(dict.fromkeys(m for part in parts.values() if isinstance(part, nn.Module) for m in part.modules()))


def _diffusers_blocks() -> Any:
    """Our versions of diffusers' blocks, where the program uses diffusers' models."""
    return importlib.import_module("fastdiff.patch.diffusers_blocks") if "diffusers.models" in sys.modules else None


def _fuse(module: nn.Module, handle: Handle) -> None:
    """Group normalisations together with what stands around them."""
    blocks = _diffusers_blocks()
    if blocks is not None and blocks.is_resnet_block(module):
        handle.set_class(module, blocks.FastResnetBlock2D, "ResnetBlock2D with GroupNorm + embedding + SiLU")
    elif (fast := fast_block(module)) is not None:
        handle.set_class(module, fast, f"{type(module).__name__} with GroupNorm + embedding + SiLU")
    elif computes(module, nn.Sequential) and has_pair(module):
        fast = subclass(FastSequential, type(module))
        handle.set_class(module, fast, f"{type(module).__name__} with GroupNorm + SiLU")
    elif type(module).__module__.startswith("diffusers."):
        norm, act = getattr(module, "conv_norm_out", None), getattr(module, "conv_act", None)
        if type(norm) is nn.GroupNorm and is_norm(norm) and is_silu(act):
            handle.set_class(norm, FastGroupNormSiLU, "GroupNorm + SiLU")
            handle.set_class(act, SiLUDone, "SiLU inside the GroupNorm before it")


def _attend(module: nn.Module, handle: Handle, cache: CrossAttentionCache | None) -> None:
    blocks = _diffusers_blocks()
    if blocks is not None and blocks.is_attention(module):
        processor = blocks.FastAttnProcessor(module.processor, cache)
        handle.set_attribute(module, "processor", processor, "attention processor")
    elif (fast := fast_attention(module)) is not None:
        added = {"fastdiff_cache": cache} if issubclass(fast, FastCrossAttention) else {}
        handle.set_class(module, fast, type(module).__name__, **added)
    elif is_multihead(module):
        handle.set_class(module, subclass(FastMultiheadAttention, type(module)), type(module).__name__)
    else:
        for part in (module, getattr(module, "processor", None)):
            cls: Any = type(part)
            if (fast := with_fast_attention(cls)) is not None:
                handle.set_class(part, fast, f"attention in {cls.__name__}")


def _swap_scheduler(pipe: Any, handle: Handle) -> None:
    """The pipeline's scheduler as fastdiff's class of the same name."""
    before: Any = getattr(pipe, "scheduler", None)
    if not type(before).__module__.startswith("diffusers."):
        return
    ours = getattr(importlib.import_module("fastdiff.schedulers"), type(before).__name__, None)
    if ours is not None:
        # from_config would reset what this key lists, although pipelines correct some of it, DDIM's clip_sample for one
        config = {key: value for key, value in before.config.items() if key != "_use_default_values"}
        handle.set_attribute(pipe, "scheduler", ours.from_config(config), f"scheduler {ours.__name__}")
    else:
        handle.left[f"{type(before).__name__}: fastdiff has no scheduler of that name"] += 1
