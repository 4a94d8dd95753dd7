"""A step of diffusers' token schedulers beside fastdiff's class of that name, at vocabularies as models have them.

Operations are those that pass torch's dispatcher. Traffic is what they read and write of tensors with a vocabulary's
size, over the bytes of the logits. Waits are values that the host reads: items, masks used as indices, and the check
that torch.multinomial makes of its weights. Both classes are checked to take the same greedy tokens before they are
timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastdiff as fd

diffusers = pytest.importorskip("diffusers")

TEXT, IMAGE = ((2, 32, 126_464), torch.bfloat16), ((2, 256, 8192), torch.float32)
BLOCK, DDIM = "BlockRefinementScheduler", "DiscreteDDIMScheduler"
MASKED = {"mask_token_id": 126_463}
CASES: dict[str, tuple[str, tuple, dict, dict]] = {  # what: class, setting, its configuration, options of the step
    "block refinement, greedy": (BLOCK, TEXT, {}, MASKED),
    "block refinement, drawn": (BLOCK, TEXT, {}, MASKED | {"temperature": 0.7}),
    "block refinement, top-k": (BLOCK, TEXT, {}, MASKED | {"temperature": 0.7, "top_k": 50}),
    "block refinement, top-p": (BLOCK, TEXT, {}, MASKED | {"temperature": 0.7, "top_p": 0.9}),
    "block refinement, uniform": (BLOCK, TEXT, {}, {}),
    "entropy bound": ("EntropyBoundScheduler", TEXT, {}, {}),
    "DDIM, greedy": (DDIM, TEXT, {}, {}),
    "DDIM, drawn": (DDIM, TEXT, {}, {"temperature": 0.7}),
    "DDIM, corrector": (DDIM, TEXT, {"corrector_steps": 1, "corrector_k": 4}, {}),
    "amused": ("AmusedScheduler", IMAGE, {"mask_token_id": 8192}, {}),
    "VQ-Diffusion": ("VQDiffusionScheduler", IMAGE, {"num_vec_classes": 8193}, {}),
}
READERS = ("_local_scalar_dense", "nonzero", "multinomial")
GATHERS = ("gather", "index", "index_select")  # which read as much as they give


def readings(logits: Tensor, *rest: object) -> int:
    """Of the logits by the op: once, once more for top-k or top-p, twice more to bring the vocabulary to the end."""
    top_k, top_p = rest[8:10]
    return 1 + (top_k > 0 or top_p < 1) + 2 * (logits.stride(-1) != 1)


class Witness(TorchDispatchMode):
    """Counts operations, waits and vocabulary-sized bytes."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.size, self.operations, self.waits, self.bytes = logits.numel(), 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        masks = any(x.dtype == torch.bool for x in tree_leaves(args[1:2]) if isinstance(x, Tensor))
        self.waits += name in READERS or (name in ("index", "index_put_") and masks)
        pointers = {x.untyped_storage().data_ptr() for x in given}
        if name.endswith("_") or not any(x.untyped_storage().data_ptr() in pointers for x in made):  # no view
            self.operations += 1
            read = made if name in GATHERS else given
            moved = sum(x.numel() * x.element_size() for x in chain(read, made) if x.numel() > self.size // 2)
            self.bytes += moved * (readings(*args) if name == "token_stats" else 1)
        return out


@lru_cache(maxsize=1)
def logits_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    sharpness = torch.linspace(0.5, 4, shape[1])[None, :, None]
    return (torch.randn(shape) * sharpness).to(dtype)


def step_of(kind: object, what: str) -> tuple[Tensor, Callable[[], object]]:
    """The logits, and a step in the middle of a run."""
    name, setting, config, options = CASES[what]
    z, steps = logits_of(*setting), 8
    scheduler = getattr(kind, name)(**config)
    scheduler.set_timesteps(steps)
    tokens = torch.full(z.shape[:2], z.shape[-1] - 1 if setting is TEXT else z.shape[-1])
    if setting is IMAGE:  # as the networks give it, the vocabulary on the second axis
        z = z.log_softmax(-1).transpose(1, 2).contiguous()
    if name == "AmusedScheduler":
        z, tokens = z.unflatten(2, (16, 16)), tokens.unflatten(1, (16, 16))
    if "corrector" in what:
        return z, lambda: scheduler.step_correct(z, 3, tokens)
    return z, lambda: scheduler.step(z, 3, tokens, **options)


@pytest.mark.parametrize("contestant", ["fastdiff", "diffusers"])
@pytest.mark.parametrize("what", CASES)
def test_step(benchmark, threads: None, what: str, contestant: str) -> None:
    torch.set_num_threads(1)
    kind = fd if contestant == "fastdiff" else diffusers
    z, step = step_of(kind, what)
    if "greedy" in what:
        other = step_of(diffusers if kind is fd else fd, what)[1]
        assert torch.equal(step().sampled_tokens, other().sampled_tokens)
    with Witness(z) as seen:
        step()
    shape, dtype = CASES[what][1]
    benchmark.group = f"{what}, {shape}, {str(dtype)[6:]}"
    counts = {"operations": seen.operations, "waits": seen.waits}
    benchmark.extra_info |= counts | {"traffic": round(seen.bytes / (z.numel() * z.element_size()), 1)}
    benchmark.pedantic(step, rounds=40 if contestant == "fastdiff" else 5, iterations=1, warmup_rounds=1)
