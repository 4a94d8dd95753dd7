"""Captured: the buffers a graph reads and writes, and the call that fills them and replays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...keywords import check_keywords, options_of
from ...ops import registry
from ...plans.plan import Plan
from ..model import Model, check_guidance, evaluator, input_copies, is_guided, kwargs_per_call
from ..run import Run
from ..sample import check_sample, iter_sample, sample, sample_seeds, start_state
from .replay import FixedProgram, TableProgram


def capture(model: Model, plan: Plan, example: Tensor, **options: object) -> Captured:
    """Capture the whole run as a CUDA graph: `run = fd.capture(model, plan, noise)`, then `x0 = run(noise)`.

    example: noise of the shape, dtype and device that will come. options: guidance, uncond, guidance_mode, clamp,
    threshold, threshold_limit, model_dtype and the model's keyword arguments, as for `fastdiff.sample`; whole=False
    captures one step and replays it for every row. Raises fastdiff.CaptureError where the model cannot be captured.
    """
    return Captured(model, plan, example, **options)


class Captured:
    """A captured run: `captured(noise)` draws samples, for other noise, seeds, guidance, arguments and plans.

    Made by `fastdiff.capture`. Every replay reads the inputs given to it from buffers of its own; a weight changed in
    place is seen, one that was replaced is not. Results equal those of `fastdiff.sample` bit for bit.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Model,
        plan: Plan,
        example: Tensor,
        *,
        guidance: float | Tensor | None = None,
        uncond: dict[str, object] | None = None,
        guidance_mode: str = "batch",
        clamp: float | None = None,
        threshold: float | None = None,
        threshold_limit: float = 1.0,
        model_dtype: torch.dtype | None = None,
        whole: bool = True,
        **kwargs: object,
    ) -> None:
        check_sample(plan, example, None, None, clamp, threshold, threshold_limit, model_dtype)
        check_guidance(guidance, uncond, guidance_mode, len(example))
        check_keywords(model, kwargs, options_of(sample, iter_sample, Captured.__init__))
        if example.numel() == 0:
            raise ValueError(f"example: expected at least one element, got shape {tuple(example.shape)}")
        self._example = torch.empty_like(example)
        self._guided, self._mode, self._clamp = is_guided(guidance), guidance_mode, clamp
        self._model_dtype = model_dtype or example.dtype
        self._threshold_options = threshold, threshold_limit
        copies = input_copies(guidance, guidance_mode)
        self._x = start_state(plan, example, None)
        batch, device = len(example), example.device
        self._input = torch.empty((copies * batch, *example.shape[1:]), dtype=self._model_dtype, device=device)
        self._seeds = torch.zeros(batch, dtype=torch.int64, device=device)
        self._guidance = torch.empty(batch, dtype=torch.float64, device=device) if self._guided else None
        self._calls = pytree.tree_map_only(
            Tensor, torch.clone, kwargs_per_call(guidance, uncond, guidance_mode, kwargs, batch)
        )
        self._set_inputs(plan, example, guidance, [0] * batch, None)
        evaluate = evaluator(model, example, self._calls, copies)
        case = registry.CallSpec(device.type, self._x.dtype, tuple(self._x.shape))
        by_table = registry.chosen("solver_step", case) == "cuda" and self.one_launch_a_row(plan)
        program = TableProgram if by_table else FixedProgram
        self._program = program(self, plan, evaluate, whole)

    @torch.no_grad()
    def __call__(
        self,
        noise: Tensor,
        *,
        plan: Plan | None = None,
        guidance: float | Tensor | None = None,
        uncond: dict[str, object] | None = None,
        seeds: Sequence[int] | Tensor | None = None,
        image: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """x0 [B, ...] for noise [B, ...] of the example's shape, dtype and device.

        plan: another plan with as many rows. guidance: another scale, a number or [B]. kwargs, uncond: other arguments
        of the same structure, shapes and dtypes. seeds, image: as for `fastdiff.sample`. What is left out stays.
        """
        _check_like("noise", noise, self._example)
        if is_guided(guidance) and not self._guided:
            raise ValueError(f"guidance: captured without guidance, got {guidance}")
        plan = self._program.use(plan)
        check_sample(plan, noise, image, None, self._clamp, *self._threshold_options, None)
        if kwargs or uncond:
            self._set_arguments(guidance, uncond, kwargs, len(noise))
        self._set_inputs(plan, noise, guidance, seeds, image)
        return self._program.replay().to(noise.dtype, copy=True)

    def start_run(self, plan: Plan) -> Run:
        """A run on the captured buffers; its own buffers are those between its first and its last x."""
        return Run(
            plan, self._x, model_dtype=self._model_dtype, copies=len(self._input) // len(self._x),
            guidance=self._guidance, seeds=self._seeds if plan.stochastic else None, clamp=self._clamp,
            threshold=None if self._threshold_options[0] is None else self._threshold_options, model_input=self._input,
        )  # fmt: skip

    @property
    def model_input(self) -> Tensor:
        """[copies * B, ...] what the model reads, in every replay."""
        return self._input

    def serves(self, plan: Plan) -> bool:
        """Whether this graph can run the plan."""
        return self._program.serves(plan)

    def one_launch_a_row(self, plan: Plan) -> bool:
        """Whether a table on the device can hold the plan's rows: no limit on x0 asks for more than the row itself."""
        threshold, _ = self._threshold_options
        return threshold is None and (self._clamp is None or not any(plan.limited.splits))

    def new_t(self) -> Tensor:
        """[copies * B] what the model is told."""
        return torch.empty(len(self._input), dtype=self._x.dtype, device=self._x.device)

    def _set_inputs(
        self,
        plan: Plan,
        noise: Tensor,
        guidance: float | Tensor | None,
        seeds: Sequence[int] | Tensor | None,
        image: Tensor | None,
    ) -> None:
        self._x.copy_(start_state(plan, noise, image))
        for copy in self._input.split(len(self._x)):
            copy.copy_(self._x * plan.rows[0].c_in)
        if isinstance(guidance, Tensor):
            self._guidance.copy_(guidance, non_blocking=True)
        elif self._guided and guidance is not None:
            self._guidance.fill_(guidance)
        drawn = sample_seeds(plan, noise, seeds)
        if drawn is not None:
            self._seeds.copy_(drawn)

    def _set_arguments(self, guidance: object, uncond: dict | None, kwargs: dict, batch: int) -> None:
        guided = 2.0 if self._guided else None
        fresh = kwargs_per_call(guided, uncond or {}, self._mode, kwargs, batch)
        ours, layout = pytree.tree_flatten(self._calls)
        theirs, other = pytree.tree_flatten(fresh)
        if layout != other:
            raise ValueError("arguments: expected those that were captured, all of them; got another structure")
        for mine, given in zip(ours, theirs, strict=True):
            if isinstance(mine, Tensor):
                _check_like("arguments", given, mine)
                mine.copy_(given)
            elif mine is not given and mine != given:
                raise ValueError(f"arguments: {mine!r} was captured and is no tensor, so it cannot become {given!r}")


def _check_like(name: str, given: object, like: Tensor) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(given).__name__}")
    found, expected = ((tuple(t.shape), t.dtype, t.device) for t in (given, like))
    if found != expected:
        raise ValueError(f"{name}: expected {expected} as captured, got {found}")
