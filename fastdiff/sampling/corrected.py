"""A run given an observation: the model's D is made, corrected, and given to rows that read x0 itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops.reference import guided_output, weighted_sum
from ..plans.plan import Plan
from .asking import Asker, Asking, answered, recording, within
from .correction import Correction, Evaluation, Observed
from .guided import ByRow, GuidedCalls
from .model import ModelCalls
from .program import with_guidance
from .rule import See
from .run import Run
from .weights import Weighted


class CorrectedCalls:
    """The calls of a run whose D is corrected: the interface of `ModelCalls`, for a plan that is given x0.

    calls: the model's, with their guidance. plan: the run's own, before any correction; run_plan: what is run.
    observation: what is checked at the first evaluation; None for a user's function alone.
    """

    guidance = None  # it has been applied when D is corrected

    def __init__(
        self, calls: ModelCalls | GuidedCalls, plan: Plan, correction: Correction, observation: Observed | None
    ) -> None:
        self.calls, self.correction, self.observation = calls, correction, observation
        self.copies = calls.copies
        self.plan = plan.given_x0
        changed = correction.plan(plan)
        self.run_plan = self.plan if changed is plan else changed.given_x0
        scale = None if isinstance(calls.guidance, Tensor) else calls.guidance
        self.making = plan.making_x0 if scale is None else with_guidance(plan.making_x0, scale)

    @property
    def model(self) -> Callable:
        """What is called as model(x, t, **kwargs)."""
        return self.calls.model

    @property
    def evaluations(self) -> int:
        """How often the last row evaluated the network for each sample, gradients not counted."""
        return self.calls.evaluations

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Those of the model's calls."""
        return self.calls.arguments

    @arguments.setter
    def arguments(self, values: tuple[Any, ...]) -> None:
        self.calls.arguments = values

    @property
    def see(self) -> See | None:
        """What the model's outputs are shown to, before anything corrects D."""
        return self.calls.see

    @see.setter
    def see(self, value: See | None) -> None:
        self.calls.see = value

    def new_arguments(self, uncond: Mapping[str, object], kwargs: dict[str, object]) -> tuple[Any, ...]:
        """`arguments` for other keyword arguments. Raises ValueError naming one that cannot be batched."""
        return self.calls.new_arguments(uncond, kwargs)

    def evaluator(self, run: Run | None = None) -> CorrectedEvaluator:
        """What evaluates the model and corrects D for this run."""
        assert run is not None
        return CorrectedEvaluator(self, run)

    def asker(self, run: Run) -> Asker:
        """The same as a generator that yields the calls and is sent the model's outputs."""
        return self.evaluator(run).ask


class CorrectedEvaluator(ByRow):
    """A run's evaluations: (model_input, t) -> (D' [B, ...], None)."""

    def __init__(self, calls: CorrectedCalls, run: Run) -> None:
        self._calls, self._run = calls, run
        self._ask: Asker = calls.calls.asker(run)
        guidance = calls.calls.guidance
        self._scales = guidance.to(run.x.device, torch.float64) if isinstance(guidance, Tensor) else None

    def __call__(self, given: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return answered(self.ask(given, t), self._calls.model)

    def ask(self, given: Tensor, t: Tensor) -> Asking:
        """The evaluation as a generator, see `CorrectedCalls.asker`."""
        run, calls = self._run, self._calls
        at = yield from (self._recorded if calls.correction.gradients else self._plain)(given, t)
        if run.i == 0 and calls.observation is not None and not calls.correction.checks and not capturing(run.x):
            calls.observation.check(at.denoised)
        corrected = self._corrected(at)
        if not isinstance(corrected, Tensor) or corrected.shape != run.x.shape:
            found = tuple(corrected.shape) if isinstance(corrected, Tensor) else type(corrected).__name__
            raise ValueError(f"correction: expected D' of shape {tuple(run.x.shape)}, got {found}")
        return corrected.detach().to(run.x.dtype), None

    def _corrected(self, at: Evaluation) -> Tensor:
        """D' [B, ...]."""
        return self._calls.correction(at)

    def _plain(self, given: Tensor, t: Tensor) -> Asking:
        """What the model says at the run's x: D is made in one launch."""
        run, calls = self._run, self._calls
        m, m_uncond, weighted = yield from self._outputs(given, t)
        denoised = run.converted(calls.making, m, m_uncond, weighted, self._scales)
        return Evaluation(run.i, calls.plan, run.x, denoised, _no_gradients)

    def _recorded(self, given: Tensor, t: Tensor) -> Asking:
        """The same with the graph from x to y, the guided output: J^T v = p_x v + p_m (dy/dx)^T v."""
        run, row = self._run, self._calls.making[self._run.i]
        with recording():
            x = run.x.clone().requires_grad_()
            given, t = self._model_input(x, given), t.clone()
        outputs = yield from within(recording, self._outputs(given, t))
        with recording():
            y = self._guided(x, *outputs)
        p_x, p_m = float(row["p_x"]), float(row["p_m"])

        def vjp(v: Tensor) -> Tensor:
            through = torch.autograd.grad(y, x, p_m * v.to(y.dtype), retain_graph=True, allow_unused=True)[0]
            return _no_gradients(v) if through is None else through + p_x * v.to(y.dtype)

        return Evaluation(
            run.i,
            self._calls.plan,
            x.detach(),
            p_x * x.detach() + p_m * y.detach(),
            vjp if y.requires_grad else _no_gradients,
        )

    def _outputs(self, given: Tensor, t: Tensor) -> Asking:
        """(m, m_uncond, weighted). Raises ValueError where the history would get another output than the step."""
        m, m_uncond, *more = yield from self._ask(given, t)
        weighted = more[1] if more else None
        if weighted is not None and weighted.pushes:
            raise ValueError("guidance: one whose history differs from its step does not go with an observation")
        return m, m_uncond, weighted

    def _guided(self, x: Tensor, m: Tensor, m_uncond: Tensor | None, weighted: Weighted | None) -> Tensor:
        """y [B, ...], in x's dtype."""
        if weighted is None:
            row = self._calls.making[self._run.i]
            return m.to(x.dtype) if m_uncond is None else guided_output(row, x, m, m_uncond, self._scales)
        weights, operands = weighted.weights.unbind(1), (x, m, m_uncond, weighted.others, weighted.state)
        if weighted.next_state is not None:
            weighted.next_state.copy_(weighted_sum(weights[2], *operands).detach())
        return weighted_sum(weights[0], *operands)

    def _model_input(self, x: Tensor, given: Tensor) -> Tensor:
        """The model's input, `given`, as a function of x."""
        scaled = (x * self._run.plan.rows[self._run.i].c_in).to(given.dtype)
        copies = len(given) // max(len(x), 1)
        return scaled if copies == 1 else scaled.repeat(copies, *[1] * (x.ndim - 1))


def capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, in which the host cannot look at numbers."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _no_gradients(v: Tensor) -> Tensor:
    """The product with J that does not exist."""
    raise ValueError(
        "correction: it takes gradients through the model, which records none; 'gaussian', 'proximal' and"
        " 'pseudoinverse' do without"
    )
