"""What a job draws: samples by their seeds, from a model and a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks, registry
from ..ops.call_spec import CallSpec
from ..plans.plan import Plan
from ..sampling.model import Model
from ..sampling.noise import randn
from ..sampling.sample import sample
from .digests import described, digest, weights_digest
from .micro_batches import MicroBatched

NOT_HERE = ("seeds", "callback", "progress", "return_trajectory", "particles")


class Draw:
    """The samples of a model by a plan, each from its own seed: `draw(seeds)` -> x0 [B, ...].

    model, plan: those of `fastdiff.sample`. shape: of one sample.
    conditions: a function of seeds, a list of B, that returns the model's keyword arguments for them, and options of
        `fastdiff.sample` that are another for each, such as image or guidance.
    name: of the model, for the manifest; of a torch module, if None, the sha256 of its weights.
    dtype, device: of the samples.
    options: those of `fastdiff.sample`, such as guidance and uncond, and the model's own arguments. Not what concerns a
        run as a whole: callback, progress, return_trajectory, particles.
    Raises TypeError or ValueError naming the argument.

    >>> velocity = lambda x, t: (2 * t - 1).view(-1, 1) * x / ((1 - t) ** 2 + t**2).view(-1, 1)  # of unit Gaussian data
    >>> draw = Draw(velocity, fd.plan("unipc", fd.Schedule.flow(), steps=8), (3,), name="unit Gaussian")
    >>> draw([5, 7]).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        shape: Sequence[int],
        *,
        conditions: Callable[[list[int]], Mapping[str, Tensor]] | None = None,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        for option in NOT_HERE:
            if option in options:
                raise ValueError(f"{option}: a job has none, since its runs come in batches of its own")
        known = options_of(sample)
        check_keywords(model, [option for option in options if option not in known], (*options_of(Draw), *known))
        if dtype not in checks.FLOATS:
            raise ValueError(f"dtype: expected a floating-point dtype, got {dtype}")
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self.model, self.plan, self.options, self.name = model, plan, options, name
        self.conditions = conditions or (lambda seeds: {})

    @torch.no_grad()
    def __call__(self, seeds: Sequence[int], micro_batch: int | None = None) -> Tensor:
        """[B, ...]. micro_batch: how many the network is called on at a time, a divisor of B; all at once if None."""
        size = len(seeds) if micro_batch is None else micro_batch
        model = self.model if size == len(seeds) else MicroBatched(self.model, len(seeds), size)
        seeds = list(seeds)
        noise = randn((len(seeds), *self.shape), seeds, dtype=self.dtype, device=self.device)
        given: dict[str, Any] = {**self.conditions(seeds), **self.options}
        x = sample(model, self.plan, noise, seeds=seeds, **given)
        assert isinstance(x, Tensor)  # not a pair: no trajectory and no particles
        return x

    @property
    def _device(self) -> torch.device:
        return torch.device(self.device or "cpu")

    def told(self, seeds: list[int]) -> dict[str, object]:
        """What the manifest says of it. seeds: some, whose conditions stand for those of all."""
        plan = self.plan.to_dict()
        return {
            "model": self.name or f"{type(self.model).__qualname__} sha256 {weights_digest(self.model)}",
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self._device.type,
            "kernels": registry.chosen(
                "solver_step", CallSpec(self._device.type, self.dtype, (len(seeds), *self.shape))
            ),
            "conditions": described(self.conditions(seeds)),
            "options": described(self.options),
            "plan": {"solver": self.plan.solver, "evaluations": self.plan.nfe, "sha256": digest(plan), "table": plan},
        }
