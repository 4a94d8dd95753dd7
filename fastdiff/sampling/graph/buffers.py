"""The tensors that a captured run reads: they stay in place and are filled before each replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...plans.plan import Plan
from ..corrected import CorrectedCalls
from ..guided import GuidedCalls
from ..model import ModelCalls
from ..request import Calls
from ..rule import Guidance
from ..run import Evaluate, Run
from ..start import check_sample, sample_seeds, start_state


class Buffers:
    """Buffers for x, the model's input, seeds, guidance and arguments of runs on noise like the example's.

    clamp, threshold (ratio or None, limit): the bounds on x0 in every run.
    """

    def __init__(
        self,
        plan: Plan,
        example: Tensor,
        calls: Calls,
        clamp: float | None,
        threshold: tuple[float | None, float],
        model_dtype: torch.dtype,
    ) -> None:
        self.calls, self._clamp, self._threshold, self._model_dtype = calls, clamp, threshold, model_dtype
        self.x = start_state(plan, example, None)
        batch, device = len(example), example.device
        self.model_input = torch.empty((calls.copies * batch, *example.shape[1:]), dtype=model_dtype, device=device)
        self._seeds = torch.zeros(batch, dtype=torch.int64, device=device)
        guided = isinstance(calls, ModelCalls) and calls.guidance is not None
        self._guidance = torch.empty(batch, dtype=torch.float64, device=device) if guided else None
        self._scales = self._guidance if isinstance(calls, ModelCalls) else calls.guidance
        calls.arguments = pytree.tree_map_only(Tensor, torch.clone, calls.arguments)
        self.fill(plan, example, calls.guidance if isinstance(calls, ModelCalls) else None, [0] * batch, None)

    @property
    def guided(self) -> bool:
        """Whether runs are guided."""
        return self._guidance is not None

    def check_guidance(self, guidance: Guidance) -> None:
        """Raises ValueError where another guidance was captured."""
        captured = self.calls.of if isinstance(self.calls, GuidedCalls) else None
        if guidance is not captured:
            raise ValueError(f"guidance: {captured!r} was captured, got {guidance!r}")

    def check(self, plan: Plan, noise: Tensor, image: Tensor | None) -> None:
        """Raises TypeError or ValueError naming the argument."""
        check_sample(plan, noise, image, None, self._clamp, *self._threshold, None)

    def fill(
        self,
        plan: Plan,
        noise: Tensor,
        guidance: float | Tensor | Guidance | None,
        seeds: Sequence[int] | Tensor | None,
        image: Tensor | None,
    ) -> None:
        """Set the inputs of the next replay. guidance: None leaves the scale as it is."""
        self.x.copy_(start_state(plan, noise, image))
        for copy in self.model_input.split(len(self.x)):
            copy.copy_(self.x * plan.rows[0].c_in)
        if self._guidance is not None and isinstance(guidance, Tensor):
            self._guidance.copy_(guidance, non_blocking=True)
        elif self._guidance is not None and isinstance(guidance, (int, float)):
            self._guidance.fill_(guidance)
        drawn = sample_seeds(plan, noise, seeds)
        if drawn is not None:
            self._seeds.copy_(drawn)

    def set_arguments(self, uncond: Mapping[str, object], kwargs: dict[str, object]) -> None:
        """Other keyword arguments of the same structure, shapes and dtypes. Raises ValueError where they are not."""
        ours, layout = pytree.tree_flatten(self.calls.arguments)
        theirs, other = pytree.tree_flatten(self.calls.new_arguments(uncond, kwargs))
        if layout != other:
            raise ValueError("arguments: expected those that were captured, all of them; got another structure")
        for mine, given in zip(ours, theirs, strict=True):
            if isinstance(mine, Tensor):
                check_like("arguments", given, mine)
                mine.copy_(given)
            elif mine is not given and mine != given:
                raise ValueError(f"arguments: {mine!r} was captured and is no tensor, so it cannot become {given!r}")

    def start_run(self, plan: Plan, step: Callable | None = None) -> Run:
        """A run that starts in these buffers and allocates the rest. step: as for `Run`."""
        ratio, limit = self._threshold
        if isinstance(self.calls, CorrectedCalls):
            plan = self.calls.run_plan
        return Run(
            plan, self.x, model_dtype=self._model_dtype, copies=self.calls.copies, guidance=self._scales,
            seeds=self._seeds if plan.stochastic else None, clamp=self._clamp,
            threshold=None if ratio is None else (ratio, limit), model_input=self.model_input, step=step,
        )  # fmt: skip

    def evaluator(self, run: Run | None = None) -> Evaluate:
        """The function (model_input, t) -> (m, m_uncond) with the arguments as they are here. run: whose it is."""
        return self.calls.evaluator(run)

    def one_launch_a_row(self, plan: Plan) -> bool:
        """Whether a table on the device can hold the plan's rows: no bound on x0 needs a launch of its own."""
        return self._threshold[0] is None and (self._clamp is None or not any(plan.limited.splits))

    def new_t(self) -> Tensor:
        """A new tensor [copies * B] for the model's t."""
        return torch.empty(len(self.model_input), dtype=self.x.dtype, device=self.x.device)


def check_like(name: str, given: object, like: Tensor) -> None:
    """Raises TypeError or ValueError where a tensor is not of the captured shape, dtype and device."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(given).__name__}")
    found, expected = ((tuple(t.shape), t.dtype, t.device) for t in (given, like))
    if found != expected:
        raise ValueError(f"{name}: expected {expected} as captured, got {found}")
