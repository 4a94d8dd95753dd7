"""Capture a program as a CUDA graph, and find the op that prevents it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CaptureError(RuntimeError):
    """The model does something that a CUDA graph cannot capture."""


T = TypeVar("T")


class Recorded(Generic[T]):
    """A captured program; calling it replays the graph. result: what the program returned during capture."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: T) -> None:
        self.graph, self.result = graph, result

    def __call__(self) -> T:
        self.graph.replay()
        return self.result


def record(program: Callable[[], T], warm_up: Callable[[], object]) -> Recorded[T]:
    """Capture `program`, after running `warm_up` on a side stream. Raises CaptureError naming the op."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(2):
            warm_up()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            result = program()
    except RuntimeError as error:
        op = offending_op(warm_up)
        blame = f"; it waits for the device in {op}" if op else ""
        reason = str(error).strip().split("\n")[0]
        raise CaptureError(f"graph: the model cannot be captured{blame} ({reason})") from error
    return Recorded(graph, result)


class _LastOp(TorchDispatchMode):
    name: str | None = None

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        self.name = str(func)
        return func(*args, **(kwargs or {}))


def offending_op(call: Callable[[], object]) -> str | None:
    """The op in `call` at which the host waits for the device, or None if there is none."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with _LastOp() as last:
            call()
    except RuntimeError:
        return last.name
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return None
