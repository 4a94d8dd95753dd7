"""diffusers' schedulers of discrete diffusion on fastdiff: the same tokens for the same random numbers."""

from __future__ import annotations

import inspect

import diffusers
import pytest
import torch
from host_reads import HostReads
from token_peers import same_draws
from torch import Tensor

import fastdiff as fd
from fastdiff import token_schedulers

B, L, V, STEPS = 3, 12, 40, 6
MASK = V - 1
OPTIONS = {
    "AmusedScheduler": {"mask_token_id": V},
    "BlockRefinementScheduler": {"block_length": L},
    "DiscreteDDIMScheduler": {"corrector_steps": 1, "corrector_k": 3},
    "EntropyBoundScheduler": {"entropy_bound": 0.7},
    "VQDiffusionScheduler": {"num_vec_classes": V + 1, "num_train_timesteps": STEPS},
}
NAMES = sorted(OPTIONS)


def pair(name: str, **options: object) -> tuple:
    """fastdiff's and diffusers', at the begin of a run."""
    both = tuple(getattr(kind, name)(**{**OPTIONS[name], **options}) for kind in (fd, diffusers))
    for scheduler in both:
        scheduler.set_timesteps(STEPS)
    return both


def logits(seed: int, step: int, sharpness: float = 3.0) -> Tensor:
    """Fixed ones where a token could differ by the rounding of a sum that falls on a random number."""
    z = torch.randn(B, L, V, generator=torch.Generator().manual_seed(1000 * seed + step)) * sharpness
    z[..., MASK] = -60.0
    return z


def outputs_for(name: str, z: Tensor) -> Tensor:
    return z.log_softmax(-1).transpose(1, 2) if name == "VQDiffusionScheduler" else z


def first(name: str) -> Tensor:
    masks = {"AmusedScheduler": V, "VQDiffusionScheduler": V, "BlockRefinementScheduler": MASK}
    return torch.full((B, L), masks[name]) if name in masks else torch.arange(B * L).view(B, L) % V


def assert_same(ours: object, theirs: object) -> None:
    assert type(ours) is type(theirs)
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        torch.testing.assert_close(ours[name], theirs[name], rtol=2e-5, atol=1e-6, msg=name)


def test_every_one_has_diffusers_arguments_and_configuration() -> None:
    assert sorted(token_schedulers.__all__) == NAMES
    for name in NAMES:
        ours, theirs = pair(name)
        assert isinstance(ours, type(theirs))
        assert dict(ours.config) == dict(theirs.config)
        for method in ("step", "set_timesteps", "__init__", "add_noise"):
            if hasattr(theirs, method):
                expected = list(inspect.signature(getattr(type(theirs), method)).parameters)
                assert list(inspect.signature(getattr(type(ours), method)).parameters) == expected


@pytest.mark.parametrize("name", NAMES)
def test_saves_and_loads(name: str, tmp_path: object) -> None:
    ours, theirs = pair(name)
    ours.save_pretrained(tmp_path)
    loaded = (type(ours).from_pretrained(tmp_path), type(theirs).from_pretrained(tmp_path), fd_from(theirs))
    for scheduler in loaded:
        assert {key: scheduler.config[key] for key in OPTIONS[name]} == OPTIONS[name]


def fd_from(theirs: object) -> object:
    return getattr(fd, type(theirs).__name__).from_config(theirs.config)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.95, 2.0])
@pytest.mark.parametrize("editing", [None, 0.4])
def test_greedy_block_refinement_is_the_same(threshold: float, editing: float | None) -> None:
    ours, theirs = pair("BlockRefinementScheduler")
    x = y = first("BlockRefinementScheduler")
    prompt = torch.arange(L) < 3
    x = y = torch.where(prompt, 5, x)
    for step in range(STEPS + 2):
        z = logits(1, step)
        options = {"mask_token_id": MASK, "threshold": threshold, "editing_threshold": editing, "prompt_mask": prompt}
        a, b = ours.step(z, step, x, **options), theirs.step(z, step, y, **options)
        assert_same(a, b)
        assert a.pred_logits is z
        x, y = a.prev_sample, b.prev_sample
    assert (x[:, :3] == 5).all()
    assert (x != MASK).all()


@pytest.mark.parametrize("name", ["BlockRefinementScheduler", "DiscreteDDIMScheduler"])
def test_greedy_steps_of_a_uniform_process_are_the_same_for_the_same_generator(name: str) -> None:
    ours, theirs = pair(name)
    one, two = (torch.Generator().manual_seed(1) for _ in range(2))
    x = y = first("DiscreteDDIMScheduler")
    for step in [*range(STEPS), *range(STEPS)]:  # two blocks
        z = logits(1, step)
        a, b = ours.step(z, step, x, generator=one), theirs.step(z, step, y, generator=two)
        assert_same(a, b)
        x, y = a.prev_sample, b.prev_sample


SAMPLED = [
    ("BlockRefinementScheduler", {"temperature": 0.7, "mask_token_id": MASK, "threshold": 0.6}),
    ("BlockRefinementScheduler", {"temperature": 0.7, "top_k": 5, "editing_threshold": 0.5}),
    ("BlockRefinementScheduler", {"temperature": 1.0, "top_p": 0.8, "mask_token_id": MASK}),
    ("BlockRefinementScheduler", {"sampling_method": "multinomial", "temperature": 1.3}),
    ("EntropyBoundScheduler", {}),
    ("EntropyBoundScheduler", {"entropy_bound": 3.0}),
    ("DiscreteDDIMScheduler", {"temperature": 0.8}),
    ("AmusedScheduler", {}),
    ("AmusedScheduler", {"starting_mask_ratio": 0.6}),
]


@pytest.mark.parametrize(("name", "options"), SAMPLED)
def test_sampled_tokens_are_the_same_for_the_same_random_numbers(name: str, options: dict) -> None:
    ours, theirs = pair(name)
    seeds = torch.tensor([3, -4, 2**40])
    ours.seeds = seeds
    x = y = first(name if "mask_token_id" in options or name == "AmusedScheduler" else "DiscreteDDIMScheduler")
    for step in range(STEPS):
        z, t = logits(1, step), STEPS - 1 - step if name == "AmusedScheduler" else step
        a = ours.step(z, t, x, **options)
        with same_draws(seeds, step):
            b = theirs.step(z, t, y, **options)
        assert_same(a, b)
        x, y = a.prev_sample, b.prev_sample


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_amused_masks_as_many_as_diffusers_and_keeps_what_is_known(schedule: str) -> None:
    ours, theirs = pair("AmusedScheduler", masking_schedule=schedule)
    x, generator = torch.where(torch.arange(L) < 4, 7, first("AmusedScheduler")), torch.Generator().manual_seed(1)
    for t in ours.timesteps:
        output = logits(1, int(t)).transpose(1, 2).reshape(B, V, 3, 4)
        a, b = (s.step(output, t, x.view(B, 3, 4), generator=generator).prev_sample for s in (ours, theirs))
        assert torch.equal((a == V).sum((1, 2)), (b == V).sum((1, 2)))
        x = a.view(B, L)
        assert (x[:, :4] == 7).all()
    assert (x != V).all()
    one, two = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(ours.add_noise(x, 2, one), theirs.add_noise(x, 2, two))


def step_of(scheduler: object, name: str, x: Tensor, t: int | Tensor) -> Tensor:
    options = {"temperature": 0.7} if "temperature" in inspect.signature(scheduler.step).parameters else {}
    if name == "BlockRefinementScheduler":
        options["mask_token_id"] = MASK
    return scheduler.step(outputs_for(name, logits(1, 0, 1.0)[: len(x)]), t, x, **options).prev_sample


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seeded", [True, False])
def test_a_step_reads_no_value(name: str, seeded: bool) -> None:
    scheduler = pair(name)[0]
    scheduler.seeds = [1, 2, 3] if seeded else None
    with HostReads() as reads:
        for t in (torch.tensor(2), 2, torch.tensor(0), 0):
            step_of(scheduler, name, first(name), t)
        if name == "DiscreteDDIMScheduler":
            scheduler.step_correct(logits(0, 0), torch.tensor(2), first(name))
    assert reads.seen == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_a_gpu_does_not_wait(name: str) -> None:
    scheduler = pair(name)[0]
    scheduler.set_timesteps(STEPS, device="cuda")
    z, x, t = outputs_for(name, logits(0, 0)).cuda(), first(name).cuda(), torch.tensor(2, device="cuda")
    for mode in ("default", "error"):  # the first time compiles what has to be compiled
        torch.cuda.set_sync_debug_mode(mode)
        try:
            scheduler.step(z, t, x)
            scheduler.step(z, 2, x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_times_may_be_tensors(name: str) -> None:
    for t in range(STEPS):
        one, two = pair(name)[0], pair(name)[0]
        one.seeds = two.seeds = [1, 2, 3]
        assert torch.equal(step_of(one, name, first(name), t), step_of(two, name, first(name), torch.tensor(t)))


@pytest.mark.parametrize("name", NAMES)
def test_with_seeds_a_sample_does_not_depend_on_the_batch(name: str) -> None:
    """Nor on the generator; a run after set_timesteps gives the same again, and later steps other numbers."""
    together, alone = pair(name)[0], pair(name)[0]
    together.seeds, alone.seeds = [5, 6, 7], [5]
    x, one, runs = first(name), first(name)[:1], []
    for t in (4, 3, 3):
        x, one = step_of(together, name, x, t), step_of(alone, name, one, t)
        assert torch.equal(x[:1], one)
        runs.append(x)
    together.set_timesteps(STEPS)
    assert torch.equal(step_of(together, name, first(name), 4), runs[0])
    assert not torch.equal(step_of(together, name, first(name), 4), runs[0])


def test_a_corrector_step_with_seeds_does_not_depend_on_the_batch() -> None:
    together, alone = pair("DiscreteDDIMScheduler")[0], pair("DiscreteDDIMScheduler")[0]
    together.seeds, alone.seeds = [5, 6, 7], [5]
    x, z = first("DiscreteDDIMScheduler"), logits(0, 0)
    a, b = together.step_correct(z, 2, x), alone.step_correct(z[:1], 2, x[:1])
    assert torch.equal(a.prev_sample[:1], b.prev_sample)
    assert ((a.prev_sample != x).sum(-1) <= 3).all()
    torch.testing.assert_close(a.sampled_probs[:1], b.sampled_probs)


@pytest.mark.parametrize("seeds", [[1, 2], 3 * [1.5]])
def test_seeds_must_be_one_whole_number_a_sample(seeds: list) -> None:
    scheduler = pair("EntropyBoundScheduler")[0]
    scheduler.seeds = seeds
    with pytest.raises((TypeError, ValueError), match="seeds"):
        scheduler.step(logits(0, 0), 0, first("EntropyBoundScheduler"))


def test_the_rest_of_a_run_is_decided_as_in_diffusers(seed: int) -> None:
    ours, theirs = pair("BlockRefinementScheduler")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        flags = torch.randint(0, 2, (6,), generator=generator).bool()
        rest = (bool(flags[1]), flags[2].expand(B, L), int(flags[3]), int(flags[4]), flags[5].expand(B))
        step = STEPS - int(flags[0])
        expected = theirs.check_block_should_continue(step, flags[0], *rest)
        assert ours.check_block_should_continue(step, flags[0], *rest) is bool(expected)
        tokens = torch.randint(0, 4, (B, 2 * L), generator=generator)
        tokens[:, :3] = 0  # a prompt without the EOS
        drawn, moved = tokens[:, -L:], torch.rand(B, L, generator=generator) < 0.5
        done = torch.rand(B, generator=generator) < 0.3
        asked = {"eos_token_id": 1, "mask_token_id": 2, "prompt_length": 3}
        a = ours.check_eos_finished(tokens, drawn, moved, done.clone(), **asked)
        assert torch.equal(a, theirs.check_eos_finished(tokens, drawn, moved, done.clone(), **asked))
