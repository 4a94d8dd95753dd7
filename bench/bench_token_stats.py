"""What a step of a token sampler asks of the logits, beside what users run for it today.

"fastdiff" is `fastdiff.ops.token_stats`. The diffusers contestants are the `step` of their schedulers, which besides go
over the [B, L] tokens; "llada" is LLaDA's reference sampler by its published formula: Gumbel noise and a softmax in
float64. Contestants are checked against float64 before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastdiff.ops import token_stats

from .machine import read_bandwidth

SETTINGS = [((2, 32, 126_464), torch.bfloat16), ((1, 1024, 32_000), torch.float32)]
VARIANTS = {  # of diffusers' arguments
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.7},
    "top_k": {"temperature": 0.7, "top_k": 50},
    "top_p": {"temperature": 0.7, "top_p": 0.9},
}


class Result(NamedTuple):
    """Tokens and the probability that the contestant gives each, under the plain law or the drawn one."""

    tokens: Tensor
    probability: Tensor
    plain: bool


@lru_cache(maxsize=1)  # one draw for all contestants
def operands(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Logits of rows from sure to unsure, as a model's are half-way."""
    sharpness = torch.linspace(0.5, 4, shape[1])[None, :, None]
    return (torch.randn(shape) * sharpness).to(dtype)


def ours(z: Tensor, options: dict) -> Callable[[], Result]:
    seeds = torch.arange(len(z))

    def run() -> Result:
        stats = token_stats(z, seeds=seeds, index=1, **options)
        if options["temperature"] == 0:
            return Result(stats.sample, stats.max_prob, True)
        return Result(stats.sample, stats.drawn_log_prob.exp(), False)

    return run


def block_refinement(z: Tensor, options: dict) -> Callable[[], Result]:
    from diffusers import BlockRefinementScheduler

    scheduler, tokens = _started(BlockRefinementScheduler(block_length=z.shape[1]), z)

    def run() -> Result:
        out = scheduler.step(z, 3, tokens, mask_token_id=z.shape[-1] - 1, **options)
        return Result(out.sampled_tokens, out.sampled_probs, options["temperature"] == 0)

    return run


def entropy_bound(z: Tensor, options: dict) -> Callable[[], Result]:
    from diffusers import EntropyBoundScheduler

    t = options["temperature"]
    scheduler, tokens = _started(EntropyBoundScheduler(t_min=t, t_max=t), z)

    def run() -> Result:
        out = scheduler.step(z, 3, tokens)
        return Result(out.sampled_tokens, out.sampled_probs, False)

    return run


def discrete_ddim(z: Tensor, options: dict) -> Callable[[], Result]:
    from diffusers import DiscreteDDIMScheduler

    scheduler, tokens = _started(DiscreteDDIMScheduler(), z)

    def run() -> Result:
        out = scheduler.step(z, 3, tokens, **options)
        return Result(out.sampled_tokens, out.sampled_probs, True)

    return run


def _started(scheduler: object, z: Tensor) -> tuple:
    scheduler.set_timesteps(32)
    return scheduler, torch.full(z.shape[:2], z.shape[-1] - 1)


def llada(z: Tensor, options: dict) -> Callable[[], Result]:
    """arXiv:2502.09992, appendix A: exp(z) / (-ln u)^T in float64 is largest at the token, ranked by softmax(z)."""
    t = options["temperature"]

    def run() -> Result:
        noisy = z
        if t > 0:
            wide = z.to(torch.float64)
            noisy = wide.exp() / (-torch.log(torch.rand_like(wide))) ** t
        tokens = noisy.argmax(-1)
        p = torch.softmax(z.to(torch.float64), dim=-1)
        return Result(tokens, p.gather(-1, tokens[..., None])[..., 0], True)

    return run


CONTESTANTS = {
    "fastdiff": (ours, VARIANTS),
    "block_refinement": (block_refinement, VARIANTS),
    "entropy_bound": (entropy_bound, ("drawn",)),
    "discrete_ddim": (discrete_ddim, ("greedy", "drawn")),
    "llada": (llada, ("greedy", "drawn")),
}
CASES = [(variant, name) for variant in VARIANTS for name, (_, serves) in CONTESTANTS.items() if variant in serves]


def check(found: Result, z: Tensor, options: dict) -> None:
    """The probabilities against float64, and that tokens are ones that may be drawn."""
    for b, row in enumerate(z[:, ::8].double().unbind(0)):
        tokens, given = found.tokens[b, ::8], found.probability[b, ::8].double()
        law = row if found.plain else row / options["temperature"]
        for token, p, logits, x in zip(tokens.tolist(), given.tolist(), row, law, strict=True):
            ordered = x.softmax(0).sort(descending=True, stable=True)
            kept = torch.ones_like(ordered.values, dtype=torch.bool)
            if "top_k" in options:
                kept &= logits[ordered.indices] >= logits.topk(options["top_k"]).values[-1]
            if "top_p" in options:
                kept &= ordered.values.cumsum(0) - ordered.values < options["top_p"] + 1e-6
            right = (x[token] - x[ordered.indices[kept]].logsumexp(0)).exp().item()
            # diffusers divides halves by the temperature in their own precision.
            assert abs(p - right) <= (1e-5 if z.dtype == torch.float32 else 5e-2) * max(right, 1e-6) + 1e-12, (p, right)


# Contestants of one group run one after another, so that they meet the same machine.
@pytest.mark.parametrize(("variant", "contestant"), CASES)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("shape", "dtype"), SETTINGS, ids=str)
def test_token_stats(
    benchmark, threads: None, shape: tuple[int, ...], dtype: torch.dtype, count: int, variant: str, contestant: str
) -> None:
    torch.set_num_threads(count)
    z, options = operands(shape, dtype), VARIANTS[variant]
    run = CONTESTANTS[contestant][0](z, options)
    check(run(), z, options)
    benchmark.group = f"{variant}, {shape}, {str(dtype)[6:]}, {count} thread{'s' * (count > 1)}"
    rounds = 40 if contestant == "fastdiff" else 4
    benchmark.pedantic(run, rounds=rounds, iterations=1, warmup_rounds=1)
    if benchmark.stats is not None and contestant == "fastdiff":
        moved = z.numel() * z.element_size()
        rate = moved / benchmark.stats.stats.min
        benchmark.extra_info["of_read_bandwidth"] = round(rate / read_bandwidth(moved, count), 3)
