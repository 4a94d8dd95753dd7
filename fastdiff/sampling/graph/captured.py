"""capture and Captured: a run captured as a CUDA graph, and the call that fills its buffers and replays it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...keywords import check_keywords, options_of
from ...ops import registry
from ...plans.plan import Plan
from ..correcting import corrected_calls
from ..correction import Correction, Observed, is_corrected
from ..guided import GuidedCalls, calls_of, plain_scale
from ..model import Model, ModelCalls, check_mode, is_guided
from ..request import Calls
from ..rule import Guidance
from ..start import OPTIONS, check_sample, start_state
from .buffers import Buffers, check_like
from .replay import FixedProgram, TableProgram

OUTSIDE = "which a graph cannot hold"  # what one call keeps for another lies outside of its memory


@torch.no_grad()
def capture(
    model: Model,
    plan: Plan,
    example: Tensor,
    *,
    guidance: float | Tensor | Guidance | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    observation: Observed | None = None,
    correction: str | Correction | Callable | None = None,
    whole: bool = True,
    **kwargs: object,
) -> Captured:
    """Capture the whole run as a CUDA graph: `run = fd.capture(model, plan, noise)`, then `x0 = run(noise)`.

    example: [B, ...] noise with the shape, dtype and device of later calls. guidance, uncond, guidance_mode, clamp,
    threshold, threshold_limit, model_dtype, kwargs: as for `fastdiff.sample`. observation, correction: too, but for
    corrections that take gradients; the scale of guidance is then as captured. whole: False captures one step and
    replays it for every row. Raises fastdiff.CaptureError where the model cannot be captured, ValueError or TypeError
    naming the argument.
    """
    check_sample(plan, example, None, None, clamp, threshold, threshold_limit, model_dtype)
    plan.refuse_cheap_calls(OUTSIDE)
    plan.refuse_reuse("which a captured run does not follow")
    check_mode(guidance_mode)
    if kwargs:
        check_keywords(model, kwargs, (*OPTIONS, *options_of(capture)))
    uncorrected = calls_of(model, plan, example.shape, guidance, uncond, guidance_mode, kwargs)
    calls: Calls = uncorrected
    if isinstance(calls, GuidedCalls) and any(rule.stop for rule in calls.rules):
        raise ValueError(f"guidance: {calls.of!r} decides during the run whether to go on; a captured run cannot")
    if example.numel() == 0:
        raise ValueError(f"example: expected at least one element, got shape {tuple(example.shape)}")
    if is_corrected(observation, correction):
        x = start_state(plan, example, None)
        calls = corrected_calls(uncorrected, plan, x, observation, correction, 1, False)
        if calls.correction.gradients:
            raise ValueError(f"correction: {correction or 'moment'!r} takes gradients, which a graph cannot hold")
    buffers = Buffers(plan, example, calls, clamp, (threshold, threshold_limit), model_dtype or example.dtype)
    x = buffers.x
    case = registry.CallSpec(x.device.type, x.dtype, tuple(x.shape))
    by_table = (
        registry.chosen("solver_step", case) == "cuda"
        and buffers.one_launch_a_row(plan)
        and isinstance(calls, ModelCalls)
    )
    program = TableProgram if by_table else FixedProgram
    return Captured(torch.empty_like(example), buffers, program(buffers, plan, whole))


class Captured:
    """A captured run: `captured(noise)` draws samples, for other noise, seeds, guidance, arguments and plans.

    Made by `fastdiff.capture`. A replay reads its inputs from buffers of its own. It sees weights that were changed in
    place, but not weights that were replaced. Results equal those of `fastdiff.sample` bit for bit.
    """

    def __init__(self, example: Tensor, buffers: Buffers, program: FixedProgram | TableProgram) -> None:
        self._example, self._buffers, self._program = example, buffers, program

    @torch.no_grad()
    def __call__(
        self,
        noise: Tensor,
        *,
        plan: Plan | None = None,
        guidance: float | Tensor | Guidance | None = None,
        uncond: Mapping[str, object] | None = None,
        seeds: Sequence[int] | Tensor | None = None,
        image: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """x0 [B, ...] for noise [B, ...] of the example's shape, dtype and device.

        plan: another plan with as many rows. guidance: another scale, a number or [B], or the one captured.
        kwargs, uncond: other arguments
        of the same structure, shapes and dtypes. What is left out stays as it was. seeds, image: as for
        `fastdiff.sample`. Raises TypeError or ValueError naming the argument.
        """
        check_like("noise", noise, self._example)
        if plan is not None:
            plan.refuse_cheap_calls(OUTSIDE)
            plan.refuse_reuse("which a captured run does not follow")
        plan = self._program.use(plan)
        if isinstance(guidance, Guidance):
            scale = plain_scale(plan, guidance)
            if scale is None:
                self._buffers.check_guidance(guidance)
            else:
                guidance = scale
        if not isinstance(guidance, Guidance) and is_guided(guidance) and not self._buffers.guided:
            raise ValueError(f"guidance: captured without guidance, got {guidance}")
        self._buffers.check(plan, noise, image)
        if kwargs or uncond:
            self._buffers.set_arguments(uncond or {}, kwargs)
        self._buffers.fill(plan, noise, guidance, seeds, image)
        return self._program.replay().to(noise.dtype, copy=True)

    def serves(self, plan: Plan) -> bool:
        """Whether this graph can run the plan."""
        return self._program.serves(plan)
