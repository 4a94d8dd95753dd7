"""group_norm and attention over the shapes of real networks, beside eager PyTorch, torch.compile and other kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from fastdiff.ops import attention

from .. import bench_attention, bench_group_norm
from ..installed import attention_kernels, group_norm_kernels
from .rows import Calls, Session

BACKENDS = {"cuda": ("triton", "cuda"), "cpu": ("cpu",)}
QUICK_NORM, QUICK_ATTENTION = {"U-Net": [(1, 64, 8, 8)]}, {"text": (1, 2, 64, 77, 40)}
SDPA = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
SDPA |= {"cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}

Kernel = Callable[..., Tensor]
Shape = tuple[int, ...]


def ops(session: Session) -> None:
    """Both ops in half precision (float32 on a CPU), with everything but torch.compile."""
    group_norms(session, _norm_contestants(session.device))
    attentions(session, _attention_contestants(session.device))


def compiled_ops(session: Session) -> None:
    """The same written out and compiled: last, because compiling takes longer than all the rest."""
    backend = "eager" if session.quick else "inductor"
    for measure, formula in ((group_norms, bench_group_norm.eager), (attentions, bench_attention.formula)):
        measure(session, {"compiled formula": torch.compile(formula, backend=backend, dynamic=False)})


def group_norms(session: Session, contestants: dict[str, Kernel]) -> None:
    """Every shape in both layouts, plain and modulated."""
    shapes = QUICK_NORM if session.quick else bench_group_norm.ALL_SHAPES
    cases = [(kind, shape) for kind in shapes for shape in shapes[kind]]
    for (kind, shape), layout, variant in product(cases, bench_group_norm.LAYOUTS, ("silu", "modulated")):
        case, moved = f"{kind} {shape}, {layout}, {variant}", 2 * _dtype(session).itemsize * math.prod(shape)
        for name, kernel in contestants.items():
            make = partial(_norm_calls, session, kernel, name, shape, layout, variant)
            session.measure("group norm", case, name, make, bytes=moved)


def attentions(session: Session, contestants: dict[str, Kernel]) -> None:
    for title, shape in (QUICK_ATTENTION if session.quick else bench_attention.ALL_SHAPES).items():
        batch, heads, queries, keys, size = shape
        for name, kernel in contestants.items():
            too_large = batch * heads * queries * keys > bench_attention.LARGEST_PRODUCT
            if not (too_large and name in ("sdpa math", "compiled formula")):  # which write out queries times keys
                make = partial(_attention_calls, session, kernel, name, shape)
                work = 4 * batch * heads * queries * keys * size
                session.measure("attention", f"{title} {shape}", name, make, flops=work)


def _norm_contestants(device: str) -> dict[str, Kernel]:
    found = {"fastdiff": bench_group_norm.ours}
    found |= {f"fastdiff {name}": bench_group_norm.forced(name) for name in BACKENDS[device]}
    found["eager"] = bench_group_norm.eager
    return found | (group_norm_kernels(bench_group_norm.GROUPS) if device == "cuda" else {})


def _attention_contestants(device: str) -> dict[str, Kernel]:
    found = {"fastdiff": attention}
    found |= {f"fastdiff {name}": bench_attention.forced(name) for name in BACKENDS[device]}
    found["sdpa"] = F.scaled_dot_product_attention
    if device == "cuda":
        found |= {f"sdpa {name}": bench_attention.sdpa_with(backend) for name, backend in SDPA.items()}
        found |= attention_kernels()
    return found


def _norm_calls(session: Session, kernel: Kernel, name: str, shape: Shape, layout: str, variant: str) -> Calls:
    torch.compiler.reset()
    dtype = _dtype(session)
    tolerance = (bench_group_norm.TOLERANCE if name.startswith("fastdiff") else bench_group_norm.OTHERS)[dtype]
    given = bench_group_norm.operands(shape, dtype, layout, variant, session.device)
    bench_group_norm.check(kernel(**given), given, tolerance)
    return [lambda: kernel(**given)]


def _attention_calls(session: Session, kernel: Kernel, name: str, shape: Shape) -> Calls:
    torch.compiler.reset()
    (batch, heads, queries, keys, size), dtype = shape, _dtype(session)
    q, k, v = (torch.randn(batch, heads, n, size, device=session.device, dtype=dtype) for n in (queries, keys, keys))
    tolerance = bench_attention.TOLERANCE[dtype] * (1 if name.startswith("fastdiff") else 2)
    bench_attention.check(kernel(q, k, v), q, k, v, tolerance)
    return [lambda: kernel(q, k, v)]


def _dtype(session: Session) -> torch.dtype:
    return torch.float16 if session.device == "cuda" else torch.float32
