"""The processes of torchrun, for the commands that share their work among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from ..sampling.ranks import Ranks

LONGEST = timedelta(days=7)  # that a process waits for the others, which may have more to do


def are_several() -> bool:
    """Whether torchrun has started more than this one."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def processes() -> Iterator[Ranks]:
    """Those that torchrun has started, connected; this one alone without it."""
    starts = are_several() and not dist.is_initialized()
    if starts:
        dist.init_process_group("gloo", timeout=LONGEST)
    try:
        yield Ranks()
    finally:
        if starts:
            dist.destroy_process_group()
