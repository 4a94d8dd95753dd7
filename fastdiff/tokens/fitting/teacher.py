"""Texts, and what a model makes of them along the runs of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..rules.base import Rule
from ..rules.ranked import RandomOrder
from ..run import Run
from ..sampling import Request
from ..token_plan import Plan
from .curve import Curve
from .taught import Taught

Value = TypeVar("Value")
MOST_ORDERS = 1000  # of a text


class Lesson(NamedTuple):
    """What the runs of a plan came to, for each text: nll [N] float64, -ln q(text) in nats, and passes [N], the model's
    calls with a mask left. steps: their mean for a block."""

    nll: Tensor
    passes: Tensor
    blocks: int

    @property
    def steps(self) -> float:
        return float(self.passes.double().mean()) / self.blocks


class Teacher(NamedTuple):
    """A model, texts [N, ...] int64 and where they are generated, [N, ...] bool; how the model is called.

    first: the seed of the first text, by which its tokens are ordered; those of the others follow.
    """

    model: Callable
    texts: Tensor
    open: Tensor
    mask_id: int
    request: Request
    kwargs: dict[str, Any]
    batch: int
    first: int

    def part(self, rows: slice) -> Teacher:
        """The same with a part of the texts, and what belongs to them."""
        count = len(self.texts)
        request = self.request._replace(
            **{name: rows_of(value, rows, count) for name, value in self.request._asdict().items()}
        )
        kwargs = {name: rows_of(value, rows, count) for name, value in self.kwargs.items()}
        first = self.first + (rows.start or 0)
        return self._replace(texts=self.texts[rows], open=self.open[rows], request=request, kwargs=kwargs, first=first)

    @torch.no_grad()
    def lesson(self, plan: Plan, orders: int = 1) -> Lesson:
        """Run the plan on all texts, in as many orders where the order is random."""
        random = isinstance(plan.rule, RandomOrder)
        nll, passes, blocks = [], [], 1
        for batch in self.batches():
            runs = [batch.taught(plan, order) for order in range(orders if random else 1)]
            nll.append(torch.stack([taken.nll for taught, _ in runs for taken in taught.taken]).sum(0) / len(runs))
            passes.append(torch.stack([taken.busy for taken in runs[0][0].taken]).sum(0))
            blocks = runs[0][1]
        return Lesson(torch.cat(nll).cpu(), torch.cat(passes).cpu(), blocks)

    @torch.no_grad()
    def curve(self, sizes: tuple[int, ...], block: int | None, orders: int) -> Curve:
        """The information curve at the numbers of tokens that random order reaches with these sizes, of all blocks."""
        plan = Plan(RandomOrder(), sizes, block)
        rows = []
        for batch in self.batches():
            runs = [batch.taught(plan, order)[0].taken for order in range(orders)]
            means = torch.stack([torch.stack([taken.mean for taken in run]) for run in runs])
            rows.append(means.view(-1, len(sizes), means.shape[-1]).mean(0).T.cpu().numpy())
        if not all(np.isfinite(row).all() for row in rows):
            raise ValueError("texts: one has a token that the model forbids, of probability 0")
        return Curve(sum(sizes), np.cumsum((0, *sizes[:-1])), np.concatenate(rows))

    def taught(self, plan: Plan, order: int) -> tuple[Taught, int]:
        """The rule with what it took in a run of the plan on all texts at once, and how many blocks there were."""
        seeds = self.seeds(order)
        rule = Taught(plan.rule, self.texts.flatten(1), seeds)
        run = self.begin(rule, plan, seeds)
        for _ in run.steps():
            pass
        return rule, len(run.windows)

    def batches(self) -> Iterator[Teacher]:
        """The texts in parts of `batch`."""
        for first in range(0, len(self.texts), self.batch):
            yield self.part(slice(first, first + self.batch))

    def seeds(self, order: int) -> Tensor:
        """[N] a seed for each text and order."""
        return self.first + torch.arange(len(self.texts), device=self.texts.device) + (order << 50)

    def begin(self, rule: Rule, plan: Plan, seeds: Tensor) -> Run:
        """A run on all texts, before its first step."""
        request = self.request._replace(seeds=seeds, open=self.open)
        plan = Plan(rule, plan.sizes, plan.block)
        return request.begin(self.model, plan, self.texts, self.mask_id, self.kwargs)


def rows_of(value: Value, rows: slice, count: int) -> Value:
    """The rows of tensors whose first dimension is `count`, also in a mapping; else the value."""
    if isinstance(value, Mapping):
        return {name: rows_of(each, rows, count) for name, each in value.items()}  # type: ignore[return-value]
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return value[rows]  # type: ignore[return-value]
    return value
