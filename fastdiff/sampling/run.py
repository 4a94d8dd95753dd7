"""One run of a plan: its buffers and the loop over its rows, watched (`Run.steps`) or not (`Run.drive`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..ops import registry
from ..ops.layout import empty_input
from ..plans.plan import Plan
from ..plans.prediction import convert
from .bounds import Bounds
from .guided import ByRow
from .program import Slots, program_of, with_guidance
from .registers import Moves, noise_as_history
from .sharded import Sharded
from .times import Times, each_on_device
from .weights import Weighted

Evaluate = Callable[[Tensor, Tensor], tuple]  # (model input, t) -> the arguments of `Run.apply` after i
Bound = tuple[Tensor, Tensor, list[Tensor], Tensor, "Tensor | None", "Tensor | None"]  # `Slots` with their tensors


class Run:
    """A run of a plan from x [B, ...], in buffers of its own. Two runs share nothing, and no step allocates memory.

    x: the start, float32 or float64. It becomes the run's first buffer and is overwritten.
    model_dtype: dtype of the model's input. copies: number of copies of x in it (2 for guidance in one batch).
    model_input: the tensor it is written to; if None a new one, or x itself where the two are the same.
    guidance: the scale where there is an unconditional output: a number, an array [rows] or a tensor [B].
    seeds: [B] int64, for the noise; kept as `seeds`.
    given_noise: the caller passes each row's noises as tensors instead. clamp, threshold (ratio, limit): bounds on x0.
    watched: whether to keep D where no row reads it, and what a row reads until the next one. step: runs a row instead
    of the backend chosen for x. cheap_calls: whether `evaluate` makes the plan's cheap calls (`partial.RowCalls`).
    shard: what part of the samples x is, kept as `shard`; the run then draws its noises as tensors.
    Raises ValueError where the plan has cheap calls that are not made.

    `i` is the number of the next row; `x`, `base`, `history` and `model_input` are the registers before it.
    """

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        *,
        model_dtype: torch.dtype,
        copies: int = 1,
        guidance: float | np.ndarray | Tensor | None = None,
        seeds: Tensor | None = None,
        clamp: float | None = None,
        threshold: tuple[float, float] | None = None,
        model_input: Tensor | None = None,
        given_noise: bool = False,
        watched: bool = True,
        step: Callable | None = None,
        cheap_calls: bool = False,
        shard: Sharded | None = None,
    ) -> None:
        self.plan, self.i, self.shard = plan, 0, shard
        self._program = program = program_of(plan)
        if program.partial and not cheap_calls:
            plan.refuse_cheap_calls("which are not made here")
        if step is None:
            step = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
        self._step, self.seeds = step, seeds
        self._guidance: Tensor | None = None  # [B]; one scale for all samples goes into the table
        scale: float | np.ndarray | None = None
        if isinstance(guidance, Tensor):
            self._guidance = guidance.to(x.device, torch.float64, non_blocking=True)
        else:
            scale = guidance
        self._bounds: Bounds | None = None
        if clamp is not None or threshold is not None:
            self._bounds = Bounds(plan, x, clamp, threshold, scale, step, shard)
        self.table = program.table if self._bounds is None else self._bounds.table
        if scale is not None and self._bounds is None:
            self.table = with_guidance(self.table, scale)
        if given_noise or shard is not None:
            self.table = noise_as_history(self.table, program.moves)
        if model_input is None and (copies > 1 or model_dtype != x.dtype or program.scales):
            model_input = empty_input(x, copies, model_dtype)
        self._input = model_input
        self._buffers = {0: x}
        in_place = not watched and x.device.type == "cpu"
        self._assigned = assigned = program.in_place if in_place else program.apart
        bound = [self._bind(call, watched or program.keeps_outputs) for call in assigned.calls]
        self._calls = [bound[k] for k in assigned.order]
        self.refresh_input()

    def _bind(self, call: Slots, stores: bool) -> Bound:
        """The tensors of a row, allocated where there are none yet. stores: whether D is kept."""

        def buffer(number: int) -> Tensor:
            found = self._buffers.get(number)
            if found is None:
                found = self._buffers[number] = torch.empty_like(self._buffers[0])
            return found

        history = [buffer(number) for number in call.history]
        base_out = None if call.base_out is None else buffer(call.base_out)
        d_out = buffer(call.d_out) if stores else None
        return buffer(call.x), buffer(call.base), history, buffer(call.x_out), base_out, d_out

    @property
    def x(self) -> Tensor:
        """[B, ...] where the model is evaluated next, or the result."""
        return self._buffers[self._assigned.states[self.i].x]

    @property
    def base(self) -> Tensor:
        """[B, ...] the last accepted state, often x itself."""
        return self._buffers[self._assigned.states[self.i].base]

    @property
    def history(self) -> list[Tensor]:
        """The outputs that later rows read, newest first."""
        return [self._buffers[number] for number in self._assigned.states[self.i].history]

    @property
    def moves(self) -> tuple[Moves, ...]:
        """What each row does to x, base and the history."""
        return self._program.moves

    @property
    def model_input(self) -> Tensor:
        """[copies * B, ...] what the model reads next: c_in x in the model's dtype."""
        return self.x if self._input is None else self._input

    def refresh_input(self) -> None:
        """Recompute model_input after x was changed from outside."""
        if self._input is not None:
            scaled = self.x * self.plan.rows[min(self.i, self.plan.nfe - 1)].c_in
            for copy in self._input.split(max(len(scaled), 1)):
                copy.copy_(scaled)

    def times(self, values: Sequence[float] | np.ndarray | None = None, dtype: torch.dtype | None = None) -> Times:
        """The model's t at each row, [copies * B] each, copied to the device at once.

        values: one per row; the plan's t if None. dtype: x's if None.
        """
        x = self._buffers[0]
        values = self._program.times if values is None else values
        return each_on_device(values, len(self.model_input), dtype or x.dtype, x.device)

    def apply(
        self,
        i: int,
        m: Tensor,
        m_uncond: Tensor | None = None,
        noises: Sequence[Tensor] = (),
        weighted: Weighted | None = None,
    ) -> None:
        """Run row i on the model's output m [B, ...]. Watched, it may be run again until a later row has run.

        m_uncond: [B, ...] the unconditional output, under guidance. noises: with `given_noise`, the row's noises, each
        [B, ...], in the order of their indices. weighted: further operands, and the weights of all.
        """
        x, base, history, x_out, base_out, d_out = self._calls[i]
        limit = None
        if self._bounds is not None:
            m, m_uncond, limit, weighted = self._bounds.apply(i, x, m, m_uncond, self._guidance, weighted)
        guidance = None if m_uncond is None else self._guidance
        if self.shard is not None:
            noises = self._own_noises(i, x, self.shard)
        self._step(
            self.table, i, x, base, m, m_uncond, [*history, *noises] if noises else history, guidance, limit,
            self.seeds, x_out, base_out, d_out, self._input, *(weighted or ()),
        )  # fmt: skip
        self.i = i + 1

    def _own_noises(self, i: int, x: Tensor, shard: Sharded) -> list[Tensor]:
        """This process's part of the noises of row i: in the step they would be numbered from the part's beginning."""
        if not self.moves[i].noises:
            return []
        assert self.seeds is not None  # a plan that draws noise has them
        return [shard.noise(self.seeds, int(j), x) for j in self._program.table["noise"][i][: self.moves[i].noises]]

    def converted(
        self,
        table: np.ndarray,
        m: Tensor,
        m_uncond: Tensor | None,
        weighted: Weighted | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """A new tensor [B, ...], the D of this row of another table, of rows that only make D. The run stays there."""
        x, d = self.x, torch.empty_like(self.x)
        scales = None if m_uncond is None else guidance
        self._step(
            table, self.i, x, x, m, m_uncond, [], scales, None, None, d, None, None, None, *(weighted or ())
        )  # fmt: skip
        return d

    def steps(self, evaluate: Evaluate, times: Times) -> Iterator[int]:
        """Evaluate the model and run the row, one row at a time, and yield i after row i.

        evaluate: (model_input, t) -> the arguments of `apply` after i. Before it returns the run is still at row i.
        """
        for i, t in enumerate(times):
            with torch.no_grad():
                self.apply(i, *evaluate(self.model_input, t))
            yield i

    def drive(self, evaluate: Evaluate, times: Times | None = None) -> Tensor:
        """Do all `steps` at the least cost to the host and return the last x [B, ...]. `i` stays put until the end.

        The caller has switched gradients off.
        evaluate: (model_input, t) -> (m, m_uncond), or one that is `ByRow`. times: the plan's if None.
        """
        if times is None:
            return self._drive_by_plan(evaluate)
        by_row = self._bounds is not None or self._program.partial or self.shard is not None
        if by_row or isinstance(evaluate, ByRow):
            for _ in self.steps(evaluate, times):
                pass
            return self.x
        step, table, guidance, seeds, given = self._step, self.table, self._guidance, self.seeds, self._input
        for i, ((x, base, history, x_out, base_out, d_out), t) in enumerate(zip(self._calls, times, strict=True)):
            m, m_uncond = evaluate(x if given is None else given, t)
            step(
                table, i, x, base, m, m_uncond, history, guidance, None, seeds, x_out, base_out, d_out, given
            )  # fmt: skip
        self.i = len(self._calls)
        return self.x

    def _drive_by_plan(self, evaluate: Evaluate) -> Tensor:
        x, kept = self._buffers[0], self._program.kept_times
        if type(x) is not Tensor or x.device.type != "cpu":  # a stream may still read what another run writes
            return self.drive(evaluate, self.times())
        lent = kept.borrow(len(self.model_input), x.dtype)
        result = self.drive(evaluate, lent.times)
        kept.give_back(lent)
        return result

    def data_prediction(self, i: int, x_before: Tensor) -> Tensor:
        """[B, ...] x0 as row i saw it: its D, converted to data form. x_before: the x that the row started from."""
        d = self._calls[i][-1]
        assert d is not None, "an unwatched run does not keep what nobody reads"
        return x0_of(self.plan, i, d, x_before)


def x0_of(plan: Plan, i: int, d: Tensor, x: Tensor) -> Tensor:
    """[B, ...] x0 as row i saw it, from its D and the x that it started from: D itself where that is x0.

    Raises ValueError if the row does not read the model.
    """
    row = plan.rows[i]
    if row.form == "data":
        return d
    if row.p_m == 0:
        raise ValueError(f"x0: row {i} of the plan does not read the model, so nothing says what x0 is")
    p_x, p_m = convert(plan.prediction, "data", row.alpha, row.sigma)
    return p_x * x + p_m / row.p_m * (d - row.p_x * x)
