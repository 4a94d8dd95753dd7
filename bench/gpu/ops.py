"""The ops over the shapes of real networks, beside eager PyTorch, torch.compile and other kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from .. import bench_attention, bench_gram, bench_group_norm
from ..backends import forced
from ..installed import attention_kernels, group_norm_kernels
from .session import Calls, Session
from .steps import MORE_SHAPES, solver_steps

BACKENDS = {"cuda": ("triton", "cuda"), "cpu": ("cpu",)}
NORM_SHAPES = {
    "SD1.5": [(2, 320, 64, 64), (2, 640, 32, 32), (2, 1280, 16, 16), (2, 2560, 8, 8)],
    "SDXL": [(2, 320, 128, 128), (2, 640, 64, 64), (2, 1280, 32, 32)],
    "VAE": [(1, 512, 128, 128), (1, 128, 1024, 1024)],
}
ATTENTION_SHAPES = {
    title: bench_attention.ALL_SHAPES[title]
    for title in (
        *("text, U-Net 64x64", "text, U-Net 32x32", "self, U-Net 64x64", "self, U-Net 32x32", "text, SDXL 64x64"),
        *("self, SDXL 64x64", "self, SDXL 32x32", "self, DiT-XL 512 px", "self, DiT-XL 256 px", "joint, Flux"),
    )
}
QUICK_NORM, QUICK_ATTENTION = {"U-Net": [(1, 64, 8, 8)]}, {"text": (1, 2, 64, 77, 40)}
QUICK_GRAM = [(1, 4, 8, 8)]
# The dispatch table of attention asks for both.
HEAD_SIZES, KEYS = (40, 64, 72, 80, 128, 160), (16, 77, 128, 256, 512, 1024, 4096)
SDPA = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
SDPA |= {"cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
WRITES_PRODUCTS = ("sdpa math", "compiled")  # these write out queries times keys

Kernel = Callable[..., Tensor]
Shape = tuple[int, ...]


def grams(session: Session) -> None:
    """Every shape and kind of guidance, outputs in float16 (float32 on a CPU)."""
    shapes = QUICK_GRAM if session.quick else bench_gram.SHAPES
    for shape, variant in product(shapes, bench_gram.VARIANTS):
        tensors = bench_gram.operands(shape, _dtype(session), variant, session.device)
        moved = sum(t.numel() * t.element_size() for t in tensors)
        contestants = {f"fastdiff {name}": partial(bench_gram.ours, backend=name) for name in BACKENDS[session.device]}
        for name, make in (contestants | {"eager": bench_gram.eager}).items():
            make = partial(_gram_calls, session, make, name, shape, variant)
            session.measure("gram", f"{variant} {shape}", name, make, bytes=moved)


def group_norms(
    session: Session, shapes: dict[str, list[Shape]] = NORM_SHAPES, kernels: dict[str, Kernel] | None = None
) -> None:
    """Every shape in both layouts, plain and modulated, in float16 (float32 on a CPU)."""
    shapes = QUICK_NORM if session.quick else shapes
    cases = [(kind, shape) for kind in shapes for shape in shapes[kind]]
    for (kind, shape), layout, variant in product(cases, bench_group_norm.LAYOUTS, ("silu", "modulated")):
        case, moved = f"{kind} {shape}, {layout}, {variant}", 2 * _dtype(session).itemsize * math.prod(shape)
        for name, kernel in (kernels or _norm_contestants(session.device)).items():
            make = partial(_norm_calls, session, kernel, name, shape, layout, variant)
            session.measure("group norm", case, name, make, bytes=moved)


def attentions(
    session: Session,
    shapes: dict[str, Shape] = ATTENTION_SHAPES,
    kernels: dict[str, Kernel] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Every shape, in float16 (float32 on a CPU) where no dtype is given."""
    dtype = dtype or _dtype(session)
    for title, shape in (QUICK_ATTENTION if session.quick else shapes).items():
        batch, heads, queries, keys, size = shape
        for name, kernel in (kernels or _attention_contestants(session.device)).items():
            too_large = batch * heads * queries * keys > bench_attention.LARGEST_PRODUCT
            if not (too_large and name in WRITES_PRODUCTS):
                make = partial(_attention_calls, session, kernel, name, shape, dtype)
                work, case = 4 * batch * heads * queries * keys * size, f"{title} {shape}, {str(dtype)[6:]}"
                session.measure("attention", case, name, make, flops=work, shape=shape)


def keys_and_head_sizes(session: Session) -> None:
    """What the dispatch table of attention is made from: its backends in bfloat16, PyTorch's own op among them."""
    shapes = {f"{keys} keys, head size {size}": (2, 16, 1024, keys, size) for keys, size in product(KEYS, HEAD_SIZES)}
    attentions(session, shapes, _fastdiff_attention(session.device), torch.bfloat16)


def compiled_ops(session: Session) -> None:
    """Both ops written out and compiled, at the shapes that come first."""
    backend = "eager" if session.quick else "inductor"
    for measure, formula in ((group_norms, bench_group_norm.eager), (attentions, bench_attention.formula)):
        measure(session, kernels={"compiled": torch.compile(formula, backend=backend, dynamic=False)})


def all_shapes(session: Session) -> None:
    """The shapes that did not come first."""
    solver_steps(session, MORE_SHAPES)
    group_norms(session, bench_group_norm.ALL_SHAPES)
    attentions(session, bench_attention.ALL_SHAPES)


def _norm_contestants(device: str) -> dict[str, Kernel]:
    found = {f"fastdiff {name}": forced(bench_group_norm.ours, name) for name in BACKENDS[device]}
    found["eager"] = bench_group_norm.eager
    return found | (group_norm_kernels(bench_group_norm.GROUPS) if device == "cuda" else {})


def _attention_contestants(device: str) -> dict[str, Kernel]:
    found = _fastdiff_attention(device) | {"sdpa": F.scaled_dot_product_attention}
    if device == "cuda":
        found |= {f"sdpa {name}": bench_attention.sdpa_with(backend) for name, backend in SDPA.items()}
        found |= attention_kernels()
    return found


def _fastdiff_attention(device: str) -> dict[str, Kernel]:
    return {f"fastdiff {name}": forced(bench_attention.attention, name) for name in (*BACKENDS[device], "torch")}


def _forget_compiled(name: str) -> None:
    """torch.compile stops after a few shapes of one function."""
    if name == "compiled":
        torch.compiler.reset()


def _gram_calls(session: Session, contestant: Callable, name: str, shape: Shape, variant: str) -> Calls:
    tensors = bench_gram.operands(shape, _dtype(session), variant, session.device)
    call = contestant(tensors, variant)
    bench_gram.check(call(), tensors, variant, bench_gram.TOLERANCE[name.split()[0]])
    return [call]


def _norm_calls(session: Session, kernel: Kernel, name: str, shape: Shape, layout: str, variant: str) -> Calls:
    _forget_compiled(name)
    dtype = _dtype(session)
    tolerance = (bench_group_norm.TOLERANCE if name.startswith("fastdiff") else bench_group_norm.OTHERS)[dtype]
    given = bench_group_norm.operands(shape, dtype, layout, variant, session.device)
    bench_group_norm.check(kernel(**given), given, tolerance)
    return [lambda: kernel(**given)]


def _attention_calls(session: Session, kernel: Kernel, name: str, shape: Shape, dtype: torch.dtype) -> Calls:
    _forget_compiled(name)
    batch, heads, queries, keys, size = shape
    q, k, v = (torch.randn(batch, heads, n, size, device=session.device, dtype=dtype) for n in (queries, keys, keys))
    tolerance = bench_attention.TOLERANCE[dtype] * (1 if name.startswith("fastdiff") else 2)
    bench_attention.check(kernel(q, k, v), q, k, v, tolerance)
    return [lambda: kernel(q, k, v)]


def _dtype(session: Session) -> torch.dtype:
    return torch.float16 if session.device == "cuda" else torch.float32
