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
    """Tokens, the probability that the contestant gives each, and the temperature of that probability's law."""

    tokens: Tensor
    probability: Tensor
    temperature: float = 1.0
    in_half: bool = False  # the logits are divided by the temperature in their own precision


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
            return Result(stats.sample, stats.max_prob)
        return Result(stats.sample, stats.drawn_log_prob.exp(), options["temperature"])

    return run


def block_refinement(z: Tensor, options: dict) -> Callable[[], Result]:
    from diffusers import BlockRefinementScheduler

    scheduler, tokens = _started(BlockRefinementScheduler(block_length=z.shape[1]), z)

    def run() -> Result:
        out = scheduler.step(z, 3, tokens, mask_token_id=z.shape[-1] - 1, **options)
        return Result(out.sampled_tokens, out.sampled_probs, options["temperature"] or 1.0, True)

    return run


def entropy_bound(z: Tensor, options: dict) -> Callable[[], Result]:
    from diffusers import EntropyBoundScheduler

    t = options["temperature"]
    scheduler, tokens = _started(EntropyBoundScheduler(t_min=t, t_max=t), z)

    def run() -> Result:
        out = scheduler.step(z, 3, tokens)
        return Result(out.sampled_tokens, out.sampled_probs, t, True)

    return run


def discrete_ddim(z: Tensor, options: dict) -> Callable[[], Result]:
    from diffusers import DiscreteDDIMScheduler

    scheduler, tokens = _started(DiscreteDDIMScheduler(), z)

    def run() -> Result:
        out = scheduler.step(z, 3, tokens, **options)
        return Result(out.sampled_tokens, out.sampled_probs)

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
        return Result(tokens, p.gather(-1, tokens[..., None])[..., 0])

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
    """The probabilities against float64, under the law that top_k and top_p leave."""
    rows, tokens, given = (t[:, ::8].flatten(0, 1) for t in (z, found.tokens, found.probability))
    scaled = rows / found.temperature if found.in_half else rows.double() / found.temperature
    for token, p, x in zip(tokens.tolist(), given.tolist(), scaled, strict=True):
        ordered, order = x.sort(descending=True, stable=True)
        kept = torch.ones_like(ordered, dtype=torch.bool)
        if "top_k" in options:
            kept &= ordered >= ordered[options["top_k"] - 1]
        law = torch.where(kept, ordered.double(), -torch.inf).softmax(0)
        if "top_p" in options:
            kept &= law.cumsum(0) - law < options["top_p"]
        law = law[kept] / law[kept].sum()
        place = (order[kept] == token).nonzero()
        # diffusers' nucleus ends a little elsewhere, because it sums halves in their own precision.
        right = law[place[0, 0]].item() if len(place) else law[-1].item()
        assert abs(p - right) <= (3e-2 if found.in_half else 1e-4) * right, (p, right)


# Contestants of one group run one after another, so that they meet the same machine.
@pytest.mark.parametrize(("variant", "contestant"), CASES)
@pytest.mark.parametrize(("shape", "dtype"), SETTINGS, ids=str)
def test_token_stats(
    benchmark, threads: None, shape: tuple[int, ...], dtype: torch.dtype, variant: str, contestant: str
) -> None:
    torch.set_num_threads(1)
    z, options = operands(shape, dtype), VARIANTS[variant]
    run = CONTESTANTS[contestant][0](z, options)
    check(run(), z, options)
    benchmark.group = f"{variant}, {shape}, {str(dtype)[6:]}"
    rounds = 40 if contestant == "fastdiff" else 3
    benchmark.pedantic(run, rounds=rounds, iterations=1, warmup_rounds=1)
    if benchmark.stats is not None and contestant == "fastdiff":
        moved = z.numel() * z.element_size()
        rate = moved / benchmark.stats.stats.min
        benchmark.extra_info["of_read_bandwidth"] = round(rate / read_bandwidth(moved, 1), 3)
