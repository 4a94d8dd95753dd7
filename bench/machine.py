"""What the machine can do, measured: the ceilings that the tables are read against."""

from __future__ import annotations

import functools
import platform
import time

import torch


@functools.cache
def copy_bandwidth(bytes_moved: int, threads: int) -> float:
    """Bytes a second, read and written, of torch's copy of a buffer half as large as `bytes_moved`: best of many."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    source = torch.zeros(max(bytes_moved // 8, 1024))
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(max(20, min(2000, 2**28 // max(bytes_moved, 1)))):
        began = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(before)
    return 8 * source.numel() / best


@functools.cache
def read_bandwidth(bytes_read: int, threads: int) -> float:
    """Bytes a second of torch's sum of a float32 buffer of that size, best of many; zeros would share one page."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    source = torch.ones(max(bytes_read // 4, 1024))
    best = float("inf")
    for _ in range(max(20, min(2000, 2**30 // max(bytes_read, 1)))):
        began = time.perf_counter()
        source.sum()
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(before)
    return 4 * source.numel() / best


@functools.cache
def matmul_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    """Operations a second of torch's product of two matrices: best of many. On the CPU always that of float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    size, dtype = (8192, dtype) if device == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(40):
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(before)
    return 2 * size**3 / best


def processor() -> str:
    """The processor's name and what torch will use of it."""
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
