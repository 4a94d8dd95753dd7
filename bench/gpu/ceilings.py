"""What the machine can do, measured first: copy bandwidth, matrix products, an empty launch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .session import Session


def ceilings(session: Session) -> None:
    """copy: bytes read and written; matmul: bf16 (float32 on a CPU) operations; launch: one op on one number."""
    device, quick = session.device, session.quick
    count = 2**18 if quick else 2**28
    n = 256 if quick else 8192 if device == "cuda" else 1024

    def copy() -> list[Callable]:
        source = torch.randn(count, device=device)
        target = torch.empty_like(source)
        return [lambda: target.copy_(source)]

    def matmul() -> list[Callable]:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        return [lambda: a @ b]

    def launch() -> list[Callable]:
        tiny = torch.zeros(1, device=device)
        return [lambda: tiny.add_(1)]

    session.measure("ceilings", "copy", "torch", copy, bytes=8 * count)
    session.measure("ceilings", "matmul", "torch", matmul, flops=2 * n**3)
    session.measure("ceilings", "launch", "torch", launch, host=50)
