"""What the machine can do, measured first: copy bandwidth, matrix products, an empty launch."""

from __future__ import annotations

import torch

from .timing import Clock


def ceilings(clock: Clock, quick: bool) -> dict[str, float]:
    """copy: bytes read and written a second; matmul: bf16 (float32 on a CPU) operations a second; launch: seconds."""
    count = 2**18 if quick else 2**28
    source = torch.randn(count, device=clock.device)
    target = torch.empty_like(source)
    copy = 8 * count / clock.time([lambda: target.copy_(source)]).best
    n = 256 if quick else 8192 if clock.device == "cuda" else 1024
    dtype = torch.bfloat16 if clock.device == "cuda" else torch.float32
    a, b = (torch.randn(n, n, device=clock.device, dtype=dtype) for _ in range(2))
    matmul = 2 * n**3 / clock.time([lambda: a @ b]).best
    tiny = torch.zeros(1, device=clock.device)
    launch = clock.time([lambda: tiny.add_(1)]).median
    return {"copy": copy, "matmul": matmul, "launch": launch}
