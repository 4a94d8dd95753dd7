"""The model that a plan is fitted to, with its conditions: one set of noises, drawn from in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops import checks
from ..ops.reference import compute_dtype
from ..plans.plan import Plan
from ..sampling.model import Model, ModelCalls, check_guidance, is_guided
from ..sampling.ranks import Ranks
from ..sampling.sample import iter_sample, sample
from ..sampling.start import start_state
from .budget import Budget

Evaluate = Callable[[Tensor, Tensor], Tensor]  # (x [n, ...], t [n]) -> the model's output


class FitTarget:
    """What a plan is fitted to: the model on `noise` [N, ...].

    Conditions and guidance whose first dimension is N are split with it. batch: samples that the model sees at once.
    each: conditions [n, ...] of the first n noises, wherever they lie; no other noise is asked for.
    ranks: the processes that share the model's calls, each with the same noise. cheap: what a cheap call costs, in full
    ones, once that is known. cheap_apart: samples at different places may not share cheap calls.
    """

    def __init__(
        self,
        model: Model,
        noise: Tensor,
        budget: Budget,
        batch: int,
        guidance: float | Tensor | None = None,
        uncond: Mapping[str, object] | None = None,
        guidance_mode: str = "batch",
        model_dtype: torch.dtype | None = None,
        conditions: dict[str, object] | None = None,
        each: dict[str, Tensor] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        checks.require_float("noise", noise)
        check_guidance(guidance, uncond, guidance_mode, len(noise))
        self.model, self.noise, self.budget, self.batch = model, noise, budget, batch
        self.ranks = ranks or Ranks()
        self.guidance, self.uncond, self.mode = guidance, uncond, guidance_mode
        self.model_dtype = model_dtype or noise.dtype
        self.conditions, self.each = conditions or {}, each or {}
        self.cheap, self.cheap_apart = 1.0, False
        self.one_time = bool(getattr(model, "one_time", False))  # it reads one time for all samples of a call

    @property
    def together(self) -> int:
        """Samples that all processes see at once."""
        return self.batch * self.ranks.count

    def parts(self, places: Tensor) -> Iterator[Tensor]:
        """The places in batches of all processes, none of them empty: many models refuse such."""
        return (part for part in places.split(self.together) if len(part))

    def draw(self, plan: Plan, places: Tensor, start: Callable[[Tensor, Plan], Tensor] | None = None) -> Tensor:
        """The samples of the noises at `places` [n], n >= 1. Raises Exhausted between two batches."""
        drawn = []
        for part in self.parts(places):
            self.budget.check()
            own = self.ranks.share(part)
            x = self._run(plan, self._noise(own, plan, start), own)
            drawn.append(self.ranks.whole(x, len(part)))
            self.spend(part, plan.cost(self.cheap), saved=sum(bool(row.uncond) for row in plan.rows))
        return torch.cat(drawn)

    def draw_alone(self, plan: Plan, places: Tensor) -> Tensor:
        """The same for a few places, all of them in every process."""
        self.spend(places, plan.cost(self.cheap))
        return torch.cat([self._run(plan, self.noise[part], part) for part in places.split(self.batch)])

    def _run(self, plan: Plan, noise: Tensor, part: Tensor) -> Tensor:
        x = sample(self.model, plan, noise, model_dtype=self.model_dtype, **self._options(part))
        assert isinstance(x, Tensor)  # not a pair: no trajectory was asked for
        return x

    @torch.no_grad()
    def trace(self, plan: Plan, places: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of a plan of one evaluation a step: its states at its points [M + 1], and the x0 predicted at the first M.

        device: where they are kept. Raises Exhausted between two steps, too.
        """
        self.budget.check()
        own, count = self.ranks.share(places), len(places)
        options = self._options(own) | {"model_dtype": self.model_dtype}
        states, data = [self.started(plan, places, None).to(device)], []
        for step in iter_sample(self.model, plan, self.noise[own], **options):
            states.append(self.ranks.whole(step.x, count).to(device, copy=True))
            data.append(self.ranks.whole(step.x0, count).to(device, copy=True))
            self.spend(places, 1)
            if len(data) < plan.nfe:
                self.budget.check()
        return torch.stack(states), torch.stack(data)

    def traced_bytes(self, plan: Plan, count: int) -> int:
        """What `trace` returns of so many samples."""
        return (2 * plan.nfe + 1) * count * self.noise[0].numel() * compute_dtype(self.noise.dtype).itemsize

    def differentiable(self, plan: Plan) -> bool:
        """Whether a gradient comes back through the model."""
        part = torch.arange(1)
        x = self.started(plan, part, None).requires_grad_()
        t = torch.full((1,), plan.rows[0].t, dtype=x.dtype, device=x.device)
        try:
            m = self.evaluator(part)(x, t)
            return m.requires_grad and torch.autograd.grad(m.sum(), x)[0] is not None
        except RuntimeError:
            return False

    @property
    def evaluations(self) -> int:
        """Of the network, for an output of one sample."""
        return 2 if is_guided(self.guidance) else 1

    def spend(self, part: Tensor, calls: float, saved: int = 0) -> None:
        """Count so many outputs of each sample in the part, a cheap one as its share of a full one.

        saved: unconditional evaluations among them that are not made.
        """
        self.budget.evaluations += len(part) * (calls * self.evaluations - saved)

    def started(self, plan: Plan, part: Tensor, start: Callable[[Tensor, Plan], Tensor] | None) -> Tensor:
        """The first x of a run."""
        return start_state(plan, self._noise(part, plan, start), None)

    def evaluator(self, part: Tensor, model: Model | None = None) -> Evaluate:
        """The function (x [n, ...], t [n]) -> the model's output, guided where it is, for these samples [n].

        model: what is called, if not the model itself.
        """
        options = self._options(part)
        guidance, uncond, mode = (options.pop(name) for name in ("guidance", "uncond", "guidance_mode"))
        calls = ModelCalls(model or self.model, self.noise[part].shape, guidance, uncond, mode, options)
        run = calls.evaluator()

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            given = torch.cat([x.to(self.model_dtype)] * calls.copies)
            m, m_uncond = run(given, torch.cat([t] * calls.copies))
            if m_uncond is None:
                return m
            scale = guidance.to(x).view(-1, *[1] * (x.ndim - 1)) if isinstance(guidance, Tensor) else guidance
            return m_uncond + scale * (m - m_uncond)

        return evaluate

    def output(self, x: Tensor, t: Tensor, part: Tensor) -> Tensor:
        """The model's output, guided where it is, for x [n, ...] and t [n] of the samples at `part` [n].

        With a true `one_time`, which a model may have as its attribute, it is called once for each time.
        """
        share = self.ranks.share
        m = self._own_output(share(x), share(t), share(part), self.evaluator)
        self.spend(part, 1)
        return self.ranks.whole(m, len(part))

    def outputs(self, x: Tensor, t: Tensor, part: Tensor, uncond: bool) -> Tensor:
        """[n, 1, ...] the conditional output, or [n, 2, ...] with the unconditional one after it, by as many calls."""
        share = self.ranks.share
        m = self._own_output(share(x), share(t), share(part), lambda own: self._apart(own, uncond))
        self.spend(part, 1, saved=int(not uncond))
        return self.ranks.whole(m, len(part))

    def output_alone(self, x: Tensor, t: Tensor, part: Tensor) -> Tensor:
        """The same in one call whatever t [n] is, in every process: for a few samples."""
        self.spend(part, 1)
        return self.evaluator(part)(x.to(self.noise.dtype), t.to(self.noise))

    def _own_output(self, x: Tensor, t: Tensor, part: Tensor, evaluator: Callable[[Tensor], Evaluate]) -> Tensor:
        if self.one_time and not bool((t == t[0]).all()):
            found = [(here, self._own_output(x[here], t[here], part[here.cpu()], evaluator)) for here in _equal(t)]
            out = torch.empty((len(x), *found[0][1].shape[1:]), dtype=x.dtype, device=x.device)
            for here, m in found:
                out[here] = m.to(out.dtype)
            return out
        return evaluator(part)(x.to(self.noise.dtype), t.to(self.noise))

    def _apart(self, part: Tensor, uncond: bool) -> Evaluate:
        """As `evaluator`, for `outputs`."""
        options = self._options(part)
        guidance, other, mode = (options.pop(name) for name in ("guidance", "uncond", "guidance_mode"))
        scale, shape = guidance if uncond else None, self.noise[part].shape
        calls = ModelCalls(self.model, shape, scale, other if uncond else None, mode, options)
        run = calls.evaluator()

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            found = run(torch.cat([x.to(self.model_dtype)] * calls.copies), torch.cat([t] * calls.copies))
            return torch.stack([m for m in found if m is not None], dim=1)

        return evaluate

    def _noise(self, part: Tensor, plan: Plan, start: Callable[[Tensor, Plan], Tensor] | None) -> Tensor:
        noise = self.noise[part]
        return noise if start is None else start(noise, plan)

    def _options(self, part: Tensor) -> dict[str, Any]:
        uncond = None if self.uncond is None else {name: self._of(v, part) for name, v in self.uncond.items()}
        guided: dict[str, Any] = {"guidance": self._scale(part), "uncond": uncond, "guidance_mode": self.mode}
        own = {name: value[part.to(value.device)].to(self.noise.device) for name, value in self.each.items()}
        return guided | own | {name: self._of(value, part) for name, value in self.conditions.items()}

    def _scale(self, part: Tensor) -> float | Tensor | None:
        return self.guidance[part] if isinstance(self.guidance, Tensor) else self.guidance

    def _of(self, value: object, part: Tensor) -> object:
        """The part's share of a tensor that has a number for each noise; anything else as it is."""
        if isinstance(value, Tensor) and value.ndim and len(value) == len(self.noise):
            return value[part.to(value.device)]
        return value


def _equal(t: Tensor) -> list[Tensor]:
    """[n] bool for each of the times t [n], where it is."""
    return [t == time for time in t.unique()]
