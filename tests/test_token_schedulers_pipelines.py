"""The token schedulers in diffusers' own pipelines, with tiny random models."""

from __future__ import annotations

import diffusers
import pytest
import tiny_token_pipelines as tiny
import torch
from torch import Tensor

import fastdiff as fd

pytestmark = [
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated"),  # diffusers' word to transformers
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def no_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What begins a step of CUDA graphs takes seconds to import, and there are none here."""
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)


def tokens(make: object, scheduler: object, **options: object) -> Tensor:
    pipe, arguments = make(scheduler)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler is scheduler
    found = pipe(**{**arguments, **options}, generator=torch.Generator().manual_seed(1))
    return torch.as_tensor(next(iter(found.values())))


GREEDY = [  # the model's argmax, and what is drawn besides comes from the generator in the same calls
    (tiny.llada2, "BlockRefinementScheduler", {"threshold": 0.6, "editing_threshold": None}),
    (tiny.llada2, "BlockRefinementScheduler", {"threshold": 0.6, "editing_threshold": 0.3}),
    (tiny.llada2, "BlockRefinementScheduler", {"threshold": 2.0, "eos_early_stop": False}),
    (tiny.diffusion_gemma, "BlockRefinementScheduler", {}),
    (tiny.diffusion_gemma, "BlockRefinementScheduler", {"confidence_threshold": 0.5}),
    (tiny.diffusion_gemma, "DiscreteDDIMScheduler", {}),
]


@pytest.mark.parametrize(("make", "name", "options"), GREEDY)
def test_greedy_runs_give_diffusers_tokens(make: object, name: str, options: dict) -> None:
    ours, theirs = (tokens(make, getattr(kind, name)(), **options) for kind in (fd, diffusers))
    assert torch.equal(ours, theirs)
    assert (ours != tiny.MASK).all()


SAMPLED = [
    (tiny.llada2, "BlockRefinementScheduler", {}, {"temperature": 0.8, "top_p": 0.9}),
    (tiny.diffusion_gemma, "BlockRefinementScheduler", {}, {"temperature": 0.8}),
    (tiny.diffusion_gemma, "EntropyBoundScheduler", {}, {}),
    (tiny.diffusion_gemma, "DiscreteDDIMScheduler", {"corrector_steps": 1, "corrector_k": 2}, {"temperature": 0.8}),
    (tiny.amused, "AmusedScheduler", {"mask_token_id": tiny.CLASSES}, {}),
    (tiny.vq_diffusion, "VQDiffusionScheduler", {"num_vec_classes": tiny.CLASSES + 1, "num_train_timesteps": 6}, {}),
]


@pytest.mark.parametrize(("make", "name", "config", "options"), SAMPLED)
def test_sampled_runs_end_on_tokens_and_repeat(make: object, name: str, config: dict, options: dict) -> None:
    scheduler, theirs = getattr(fd, name)(**config), getattr(diffusers, name)(**config)
    one, two = (tokens(make, scheduler, **options) for _ in range(2))
    assert torch.equal(one, two)
    expected = tokens(make, theirs, **options)
    assert one.shape == expected.shape
    assert one.dtype == expected.dtype
    assert ((one >= 0) & (one < tiny.VOCABULARY)).all()
    scheduler.seeds = [3, 4]
    seeded, again = (tokens(make, scheduler, **options) for _ in range(2))
    assert torch.equal(seeded, again)
    assert not torch.equal(seeded, one)


def test_a_saved_pipeline_loads_with_fastdiffs_class(tmp_path: object) -> None:
    pipe, _ = tiny.llada2(fd.BlockRefinementScheduler(block_length=8))
    pipe.scheduler.save_pretrained(tmp_path)
    assert fd.BlockRefinementScheduler.from_pretrained(tmp_path).config.block_length == 8
    assert type(pipe.scheduler).__module__ == "fastdiff"
