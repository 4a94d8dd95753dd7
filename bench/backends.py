"""An op by one of its backends, as a contestant."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import fastdiff as fd


def forced(op: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    def run(*operands: Tensor, **options: Tensor) -> Tensor:
        with fd.backend(backend):
            return op(*operands, **options)

    return run
