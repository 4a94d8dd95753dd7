"""Which tokens the rules of counts and bounds commit, against their definitions; what LLaDA does."""

from __future__ import annotations

import torch
from token_models import MASK, SIZE, draw, model
from torch import Tensor

from fastdiff import tokens as ft


def test_the_sizes_are_how_many_are_committed() -> None:
    tokens = torch.full((2, 14), MASK)
    tokens[1, :7] = 1
    left = [s.left.tolist() for s in ft.iter_sample(model, ft.plan("random", sizes=[1, 2, 4, 7]), tokens, MASK)]
    assert left == [[13, 6], [11, 5], [7, 3], [0, 0]]  # 14 exactly; of 7 the half, rounded up
    steps = list(ft.iter_sample(model, ft.plan("random", 40), tokens[:1], MASK))
    assert len(steps) == 14  # more steps than tokens are no more calls
    assert [s.finished for s in steps] == [False] * 13 + [True]
    changed = [int(s.changed.sum()) for s in ft.iter_sample(model, ft.plan("margin", 4), tokens[:1], MASK)]
    assert changed == [4, 3, 4, 3]


def test_confidence_in_blocks_is_what_llada_does() -> None:
    """Its `generate` (arXiv:2502.09992): blocks, greedy tokens, guidance by masked prompts."""
    prompt, made, block, steps, g = torch.randint(SIZE, (2, 5)), 12, 6, 3, 1.5
    given = torch.cat([prompt, torch.full((2, made), MASK)], 1)
    x, known = given.clone(), given != MASK
    for begin in range(5, 5 + made, block):
        for _ in range(steps):
            uncond = model(x.masked_fill(known, MASK))
            logits = uncond + g * (model(x) - uncond)
            confidence, token = logits.softmax(-1).max(-1)
            confidence = confidence.masked_fill(x != MASK, -1)
            confidence[:, begin + block :] = -1
            chosen = confidence.topk(block // steps, 1).indices
            x = x.scatter(1, chosen, token.gather(1, chosen))
    plan = ft.plan("confidence", steps, block=block)
    options = {"block_start": 5, "temperature": 0.0, "guidance": g, "uncond": "masked"}
    assert torch.equal(draw(plan, given, **options), x)


def test_adaptive_rules_commit_what_their_bounds_say() -> None:
    tokens = torch.full((4, 12), MASK)
    for rule in (ft.Threshold((0.6, 0.3)), ft.Factor(1.5), ft.EntropyBound(1.0), ft.EntropyBound(2.0, "confidence")):
        before = tokens
        for step in ft.iter_sample(model, ft.plan(rule), tokens, MASK):
            prob, entropy = step.stats.log_prob.exp(), step.stats.entropy
            for b in range(4):
                places = [i for i in range(12) if before[b, i] == MASK]
                p = {i: float(prob[b, i]) for i in places}
                sure = sorted(places, key=lambda i: -p[i])
                if isinstance(rule, ft.Threshold):
                    right = [i for i in sure if p[i] > (0.6 if step.i == 0 else 0.3)]
                elif isinstance(rule, ft.Factor):
                    fits = [n for n in range(1, len(sure) + 1) if (n + 1) * (1 - p[sure[n - 1]]) < 1.5]
                    right = sure[: max(fits, default=0)]
                else:
                    h = {i: float(entropy[b, i]) for i in places}
                    order = sorted(places, key=h.get) if rule.by == "entropy" else sure
                    sums = [[h[i] for i in order[:k]] for k in range(1, len(order) + 1)]
                    right = order[: sum(sum(each) - max(each) <= rule.gamma for each in sums)]
                    sure = order
                assert set(step.changed[b].nonzero()[:, 0].tolist()) == set(right or sure[:1])
            before = step.tokens


def test_ranked_rules_commit_the_largest_scores() -> None:
    tokens = torch.full((3, 9), MASK)
    for name in ("confidence", "margin", "entropy"):
        step = next(ft.iter_sample(model, ft.plan(name, 3), tokens, MASK, temperature=0.0))
        score = {"confidence": step.stats.max_prob, "margin": step.stats.margin, "entropy": -step.stats.entropy}[name]
        right = torch.zeros_like(step.changed).scatter(1, score.topk(3, 1).indices, True)
        assert torch.equal(step.changed, right)
        assert torch.equal(step.tokens[right], step.stats.argmax[right])


def test_an_adaptive_run_ends_when_all_is_done_and_never_after_its_steps() -> None:
    tokens = torch.full((2, 30), MASK)
    counts = {}
    for tau in (0.0, 0.4, 1.0):
        counts[tau] = draw(ft.plan(ft.Threshold(tau)), tokens, temperature=0.0, return_evaluations=True)[1]
    assert counts[0.0] == 1 < counts[0.4] < counts[1.0] == 30
    assert draw(ft.plan(ft.Threshold(1.0), 5), tokens, return_evaluations=True)[1] == 5


def test_editing_replaces_what_the_model_has_come_to_doubt() -> None:
    def after_all(tokens: Tensor) -> Tensor:
        """1 while there are masks, 2 once there are none."""
        token = torch.where((tokens == MASK).any(1, keepdim=True), 1, 2).expand_as(tokens)
        return 20.0 * torch.nn.functional.one_hot(token, SIZE)

    tokens = torch.full((1, 6), MASK)
    tokens[0, 2] = 5
    drawn = draw(ft.plan(ft.Editing()), tokens, model=after_all)
    assert drawn.tolist() == [[2, 2, 5, 2, 2, 2]]
    assert draw(ft.plan(ft.Editing(edit=1.0)), tokens, model=after_all).tolist() == [[1, 1, 5, 1, 1, 1]]
