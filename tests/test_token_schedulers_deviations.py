"""Where the token schedulers differ from diffusers' on purpose: a test for each row of docs/deviations.md."""

from __future__ import annotations

import diffusers
import pytest
import torch

import fastdiff as fd

B, L, V = 2, 8, 16
MASK = V - 1


def begun(kind: object, name: str, steps: int = 4, **config: object) -> object:
    scheduler = getattr(kind, name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def both(name: str, steps: int = 4, **config: object) -> list:
    return [begun(kind, name, steps, **config) for kind in (fd, diffusers)]


def test_an_eos_in_the_prompt_does_not_hide_the_answers() -> None:
    tokens = torch.tensor([[1, 5, 5, 1, 4]])
    asked = {"eos_token_id": 1, "mask_token_id": 2, "prompt_length": 2}
    drawn, moved = tokens[:, 2:], torch.tensor([[False, True, False]])
    found = [
        s.check_eos_finished(tokens, drawn, moved, torch.zeros(1, dtype=bool), **asked)
        for s in both("BlockRefinementScheduler")
    ]
    assert [bool(f) for f in found] == [True, False]


@pytest.mark.parametrize("editing", [0.0, -1.0])
def test_an_editing_threshold_of_0_edits_nothing_without_a_mask_either(editing: float) -> None:
    x, z = torch.zeros(B, L, dtype=torch.int64), torch.zeros(B, L, V)
    edited = []
    for scheduler in both("BlockRefinementScheduler", steps=1):
        scheduler.step(z, 0, x)  # commits all
        scheduler.num_inference_steps = 2
        z[..., 3] = 5.0
        edited.append(scheduler.step(z, 1, x, editing_threshold=editing).editing_transfer_index.any())
        z[..., 3] = 0.0
    assert [bool(e) for e in edited] == [False, True]


def test_tokens_that_are_equally_sure_are_taken_from_the_left() -> None:
    """diffusers' amused compares with the last one kept, and masks none of those that are equal."""
    z, x = torch.full((B, L, V), -1000.0), torch.full((B, L), V)
    z[..., 3] = 0.0
    found = []
    for scheduler in both("AmusedScheduler", mask_token_id=V):
        scheduler.set_timesteps(4, temperature=(0, 0))
        found.append((scheduler.step(z, 3, x).prev_sample == V).sum(-1).tolist())
    assert found == [[7, 7], [0, 0]]


def test_known_tokens_are_never_masked_again() -> None:
    """diffusers' amused masks one of a sample in which nothing is left to be found."""
    known, z = torch.arange(L).expand(B, L), torch.zeros(B, L, V)
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (s.step(z, 2, known, 1.0, generator).prev_sample for s in both("AmusedScheduler", mask_token_id=V))
    assert torch.equal(ours, known)
    assert ((theirs == V).sum(-1) == 1).all()


def test_known_tokens_stay_in_half_precision() -> None:
    """There diffusers' confidence of a known token, ln 65504, is within the noise."""
    known = torch.arange(64) % 2 == 0
    x = torch.where(known, 7, V).expand(64, 64)
    z = torch.randn(64, 64, V, generator=torch.Generator().manual_seed(1)).mul(0.1).half()
    lost = []
    for scheduler in both("AmusedScheduler", mask_token_id=V):
        scheduler.set_timesteps(8, temperature=(4, 0))
        found = scheduler.step(z, 6, x, generator=torch.Generator().manual_seed(1)).prev_sample
        lost.append(int((found[:, known] == V).sum()))
    assert lost[0] == 0 < lost[1]


def test_half_precision_is_taken_for_what_it_is() -> None:
    """diffusers divides the logits by the temperature, and takes the entropy, in bfloat16."""
    z = (torch.randn(B, 64, 4096, generator=torch.Generator().manual_seed(1)) * 4).bfloat16()
    exact = torch.distributions.Categorical(logits=z.double() / 0.6).entropy()
    theirs = torch.distributions.Categorical(logits=z / 0.6).entropy()
    ours = fd.ops.token_stats(z, temperature=0.6, seeds=torch.zeros(B, dtype=torch.int64)).drawn_entropy
    assert (ours - exact).abs().max() < 1e-5 < 1e-2 < (theirs - exact).abs().max()


def test_a_row_without_a_law_is_committed_last_and_gives_no_error() -> None:
    """diffusers' multinomial raises."""
    z, x = torch.zeros(1, 3, V), torch.full((1, 3), MASK)
    z[..., MASK], z[0, 1] = -1000.0, torch.nan
    ours, theirs = both("BlockRefinementScheduler", steps=3, block_length=3)
    options = {"mask_token_id": MASK, "temperature": 1.0, "threshold": 2.0}
    for step, left in enumerate((2, 1, 0)):
        x = ours.step(z, step, x, **options).prev_sample
        assert (x == MASK).sum() == left
        assert (x[0, 1] == MASK) == (left > 0)
    with pytest.raises(RuntimeError, match="probability"):
        theirs.step(z, 0, x, **options)


def test_a_corrector_after_the_last_step_names_its_argument() -> None:
    z, x = torch.zeros(B, L, V), torch.zeros(B, L, dtype=torch.int64)
    ours, theirs = both("DiscreteDDIMScheduler")
    with pytest.raises(ValueError, match="timestep"):
        ours.step_correct(z, 3, x)
    with pytest.raises(ValueError, match=r"math domain|expected a"):
        theirs.step_correct(z, 3, x)


def test_bad_arguments_are_named() -> None:
    z, x = torch.zeros(B, L, V), torch.full((B, L), MASK)
    block, ddim = begun(fd, "BlockRefinementScheduler"), begun(fd, "DiscreteDDIMScheduler", corrector_selection="best")
    with pytest.raises(ValueError, match="temperature"):
        block.step(z, 0, x, mask_token_id=MASK, temperature=-1.0)
    with pytest.raises(ValueError, match="top_p"):
        block.step(z, 0, x, mask_token_id=MASK, temperature=1.0, top_p=0.0)
    with pytest.raises(ValueError, match="corrector_selection"):
        ddim.step_correct(z, 0, x)
    amused = begun(fd, "AmusedScheduler", mask_token_id=V, masking_schedule="square")
    with pytest.raises(ValueError, match="masking_schedule"):
        amused.step(z, 2, x)
