"""Other people's kernels, where they are installed: name -> function of the same operands as the benchmarks' own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec

import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[..., Tensor]


def attention_kernels() -> dict[str, Kernel]:
    """Functions of q, k, v [batch, heads, tokens, size]."""
    return _installed({"flash_attn": _flash, "xformers": _xformers, "sageattention": _sage})


def group_norm_kernels(groups: int) -> dict[str, Kernel]:
    """silu(GN(x)) as functions of x, weight, bias."""

    def liger(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        run = importlib.import_module("liger_kernel.ops.group_norm").LigerGroupNormFunction
        return F.silu(run.apply(x, weight, bias, x.shape[1], groups, 1e-5))

    def apex(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        run = importlib.import_module("apex.contrib.group_norm.group_norm").cuda_group_norm_nhwc_one_pass
        return run(x, groups, weight, bias, 1e-5, "silu")

    return _installed({"liger_kernel": liger, "apex": apex})


def _installed(kernels: dict[str, Kernel]) -> dict[str, Kernel]:
    return {name: kernel for name, kernel in kernels.items() if find_spec(name)}


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    run = importlib.import_module("flash_attn").flash_attn_func
    return run(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    run = importlib.import_module("xformers.ops").memory_efficient_attention
    return run(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)


def _sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return importlib.import_module("sageattention").sageattn(q, k, v, tensor_layout="HND")
