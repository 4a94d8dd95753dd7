"""The compiled kernels, whose source is csrc/. Functions for CUDA tensors are there where nvcc was at build time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

def bind(
    tensor: type,
    dtypes: dict[Any, int],
    threads: Callable[[], int],
    stream: Callable[[int], int],
    workspace: Callable[[int, int], Tensor],
    plain_values: Callable[..., None],
    plain_layout: Callable[..., None],
    use_exchange: bool,
    /,
) -> None: ...
def build_info() -> dict[str, Any]: ...
def usable_isas() -> list[str]: ...
def set_isa(name: str, /) -> None: ...
def solver_step_cpu(
    table: np.ndarray,
    i: int,
    x: Tensor,
    base: Tensor | None,
    m: Tensor | None,
    m_uncond: Tensor | None,
    history: Sequence[Tensor | None],
    guidance: Tensor | None,
    threshold: Tensor | None,
    seeds: Tensor | None,
    out_x: Tensor,
    out_base: Tensor | None,
    out_d: Tensor | None,
    out_input: Tensor | None,
    others: Sequence[Tensor | None] = (),
    state: Tensor | None = None,
    weights: Tensor | None = None,
    out_state: Tensor | None = None,
    /,
) -> None: ...
def solver_step_rows_cpu(*call: Any) -> int: ...
def solver_step_pack(*call: Any) -> tuple[bytes, int, int, int, int, int]: ...
def solver_step_table(
    steps: Tensor, counter: Tensor, times: Tensor, t: Tensor, a: int, b: int, c: int, d: int, e: int, /
) -> None: ...
def gram_cpu(basis: Tensor, tensors: Sequence[Tensor | None], out: Tensor, /) -> None: ...
def group_norm_cpu(
    x: Tensor,
    out: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: int,
    /,
) -> bool: ...
def token_stats_cpu(
    logits: Tensor,
    logits_uncond: Tensor | None,
    current: Tensor | None,
    positions: Tensor | None,
    seeds: Tensor | None,
    index: Tensor | None,
    temperature: Tensor | None,
    guidance: Tensor | None,
    current_shift: Tensor | None,
    top_k: int,
    top_p: float,
    exclude: Sequence[int] | None,
    numbers: Tensor,
    tokens: Tensor,
    /,
) -> None: ...
def attention_cpu(q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float, /) -> None: ...
