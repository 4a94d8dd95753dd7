"""What fusing the norms, modulations and rotary embeddings of a diffusion transformer could win at most here.

    python -m bench.dit_fusions                    # into bench/results/dit_fusions.md; a quarter of an hour
    python -m bench.dit_fusions --dtypes float32 bfloat16 --rounds 3

Set MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=100000000000, or glibc asks for fresh memory in every operation.

Blocks of diffusers at the sizes of the published networks, with random weights, in eager PyTorch, under
torch.profiler. Were everything that is no product of matrices, no attention and no activation to cost nothing, the
block would be 1 / (1 - share) times as fast: no fusion can beat that.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import diffusers.models.transformers as transformers
import torch
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from .machine import processor

RESULT = Path(__file__).parent / "results" / "dit_fusions.md"
PRODUCTS, ATTENTION, ACTIVATIONS = "products", "attention", "activations"
TOKENS, HEADS = "norms, modulation, residuals", "norms of queries and keys, rotary"
KINDS = (PRODUCTS, ATTENTION, ACTIVATIONS, TOKENS, HEADS)
Block = tuple[nn.Module, dict[str, object]]


def rotary(tokens: int, size: int) -> tuple[Tensor, Tensor]:
    angles = torch.rand(tokens, size // 2).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


def flux(dtype: torch.dtype, tokens: int = 1024) -> Block:
    block = transformers.transformer_flux.FluxTransformerBlock(3072, 24, 128)
    image, text, temb = (torch.randn(1, n, 3072, dtype=dtype) for n in (tokens, 512, 1))
    given = {"hidden_states": image, "encoder_hidden_states": text, "temb": temb[:, 0]}
    return block, given | {"image_rotary_emb": rotary(tokens + 512, 128)}


def flux_single(dtype: torch.dtype, tokens: int = 1024) -> Block:
    _, arguments = flux(dtype, tokens)
    return transformers.transformer_flux.FluxSingleTransformerBlock(3072, 24, 128), arguments


def sd3(dtype: torch.dtype, tokens: int = 1024) -> Block:
    block = JointTransformerBlock(1536, 24, 64, qk_norm="rms_norm")
    image, text, temb = (torch.randn(1, n, 1536, dtype=dtype) for n in (tokens, 333, 1))
    return block, {"hidden_states": image, "encoder_hidden_states": text, "temb": temb[:, 0]}


def wan(dtype: torch.dtype, tokens: int = 30 * 52) -> Block:
    block = transformers.transformer_wan.WanTransformerBlock(1536, 8960, 12, cross_attn_norm=True)
    video, text = (torch.randn(1, n, 1536, dtype=dtype) for n in (tokens, 512))
    cos, sin = (t[None, :, None] for t in rotary(video.shape[1], 128))
    temb = torch.randn(1, 6, 1536)
    return block, {"hidden_states": video, "encoder_hidden_states": text, "temb": temb, "rotary_emb": (cos, sin)}


BLOCKS: dict[str, Callable[[torch.dtype], Block]] = {
    "Wan 1.3B, one frame of 832 x 480: 1560 x 1536": wan,
    "SD3 medium, 512 x 512: 1357 x 1536": sd3,
    "Flux, both streams, 512 x 512: 1536 x 3072": flux,
    "Flux, single stream, 512 x 512: 1536 x 3072": flux_single,
    "Wan 1.3B, 9 frames of 832 x 480: 4680 x 1536": partial(wan, tokens=4680),
    "SD3 medium, 1024 x 1024: 4429 x 1536": partial(sd3, tokens=4096),
    "Flux, single stream, 1024 x 1024: 4608 x 3072": partial(flux_single, tokens=4096),
    "Flux, both streams, 1024 x 1024: 4608 x 3072": partial(flux, tokens=4096),
}


def kind_of(name: str, shapes: list[list[int]]) -> str:
    """What an operation is for, by its name and by whether it works on tokens or on heads."""
    name = name.removeprefix("aten::")
    if name in ("addmm", "mm", "bmm", "baddbmm", "linear", "matmul") or "mkldnn" in name:
        return PRODUCTS
    if "scaled_dot_product" in name:
        return ATTENTION
    if name in ("gelu", "silu"):
        return ACTIVATIONS
    largest = max(shapes, key=lambda shape: math.prod(shape), default=[])
    return HEADS if len(largest) > 3 else TOKENS


@torch.no_grad()
def spent(block: nn.Module, arguments: dict[str, object], rounds: int) -> Counter[str]:
    """Microseconds by kind, of the quickest of several forwards."""
    runs = []
    for _ in range(rounds + 1):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            block(**arguments)
        found: Counter[str] = Counter()
        for event in profiler.key_averages(group_by_input_shape=True):
            found[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total
        runs.append(found)
    return min(runs[1:], key=lambda run: run.total())  # the first finds memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [f"| block | dtype | seconds | {' | '.join(KINDS)} | bound |", "|---" * (4 + len(KINDS)) + "|"]
    cases = [(name, getattr(torch, dtype)) for dtype in options.dtypes for name in BLOCKS]
    for name, dtype in cases:
        block, arguments = BLOCKS[name](dtype)
        times = spent(block.to(dtype).eval(), arguments, options.rounds)
        shares = {kind: times[kind] / times.total() for kind in KINDS}
        bound = 1 / (1 - shares[TOKENS] - shares[HEADS])
        row = [name, str(dtype).removeprefix("torch."), f"{times.total() / 1e6:.1f}"]
        lines.append(f"| {' | '.join([*row, *(f'{shares[kind]:.1%}' for kind in KINDS), f'{bound:.3f}'])} |")
        options.out.write_text("\n\n".join([HEADER, told(), "\n".join(lines)]) + "\n")


HEADER = "# What fusions could win in a diffusion transformer's block"


def told() -> str:
    return (
        f"`python -m bench.dit_fusions`, torch {torch.__version__}, {processor()}. Shares of an eager forward, batch 1,"
        " by torch.profiler, of the quickest run after a first one; seconds under the profiler, on a machine with other"
        " work; glibc keeps memory that is freed. Bound: how many times as fast the block would be if the last two"
        " kinds cost nothing."
    )


if __name__ == "__main__":
    main()
