"""The base class of DPM_Solver and UniPC: time steps, the converted and corrected model, and runs of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..ops import dynamic_threshold
from ..ops.reference import compute_dtype, converted_output
from ..plans.plan import Plan
from ..plans.prediction import convert
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.table import empty_table
from ..sampling.run import Evaluate, Run
from ..sampling.times import Times, each_on_device
from .model import WrappedModel
from .noise_schedule import NoiseScheduleVP

SKIP_TYPES = ("logSNR", "time_uniform", "time_quadratic")
XtFn = Callable[[Tensor, Tensor, int], Tensor]


class Sampler:
    """model_fn(x, t [B]) -> noise, from `model_wrapper` or not; see `DPM_Solver` for the arguments."""

    form: str  # what the solver's polynomials are of: "data" or "noise"

    def __init__(
        self,
        model_fn: Callable[[Tensor, Tensor], Tensor],
        noise_schedule: NoiseScheduleVP,
        correcting_x0_fn: str | Callable[..., Tensor] | None,
        correcting_xt_fn: XtFn | None,
        thresholding_max_val: float,
        dynamic_thresholding_ratio: float,
    ) -> None:
        if isinstance(correcting_x0_fn, str) and correcting_x0_fn != "dynamic_thresholding":
            raise ValueError(f"correcting_x0_fn: expected 'dynamic_thresholding' or a function, got {correcting_x0_fn}")
        thresholds = correcting_x0_fn == "dynamic_thresholding"
        self.model, self.noise_schedule = model_fn, noise_schedule
        self.correcting_x0_fn = self.dynamic_thresholding_fn if thresholds else correcting_x0_fn
        self.correcting_xt_fn = correcting_xt_fn
        self.thresholding_max_val = thresholding_max_val
        self.dynamic_thresholding_ratio = dynamic_thresholding_ratio
        self._sees_through = isinstance(model_fn, WrappedModel) and model_fn.noise_schedule is noise_schedule
        self.prediction = model_fn.prediction if self._sees_through else "epsilon"

    def dynamic_thresholding_fn(self, x0: Tensor, t: Tensor | None = None) -> Tensor:
        """x0 clamped to [-s, s] and divided by s, the ratio's quantile of |x0|, at least thresholding_max_val."""
        least = self.thresholding_max_val
        s = least * dynamic_threshold(x0 / least, ratio=self.dynamic_thresholding_ratio, limit=float("inf"))
        s = s.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
        return torch.minimum(torch.maximum(x0, -s), s) / s

    def noise_prediction_fn(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise [B, ...] in x at time t."""
        return self.model(x, t.expand(len(x)))

    def data_prediction_fn(self, x: Tensor, t: Tensor) -> Tensor:
        """The corrected x0 [B, ...] predicted from x at time t."""
        point = self.noise_schedule.vp.at(float(t.reshape(-1)[0]))
        p_x, p_m = convert("epsilon", "data", float(point.alpha), float(point.sigma))
        return self._corrected(p_x * x + p_m * self.noise_prediction_fn(x, t), t)

    def denoise_to_zero_fn(self, x: Tensor, s: Tensor) -> Tensor:
        """The first-order step from time s to clean data: `data_prediction_fn`."""
        return self.data_prediction_fn(x, s)

    def get_time_steps(self, skip_type: str, t_T: float, t_0: float, N: int, device: torch.device | str) -> Tensor:
        """[N + 1] times from t_T to t_0: uniform in lambda ("logSNR"), in t, or in sqrt(t) ("time_quadratic")."""
        return torch.tensor(self._times(skip_type, t_T, t_0, N), dtype=torch.float32).to(device)

    def _times(self, skip_type: str, start: float, end: float, count: int) -> np.ndarray:
        if skip_type not in SKIP_TYPES:
            raise ValueError(f"skip_type: expected one of {', '.join(SKIP_TYPES)}, got {skip_type!r}")
        if skip_type == "logSNR":
            vp = self.noise_schedule.vp
            times = vp.t_of_log_snr(np.linspace(vp.log_snr(start), vp.log_snr(end), count + 1))
        elif skip_type == "time_uniform":
            times = np.linspace(start, end, count + 1)
        else:
            times = np.linspace(start**0.5, end**0.5, count + 1) ** 2
        # Lambda's inverse, and a square of a root, return the ends with rounding.
        times[0], times[-1] = start, end
        return times

    def _interval(self, t_start: float | None, t_end: float | None) -> tuple[float, float]:
        start = self.noise_schedule.T if t_start is None else float(t_start)
        end = 1 / self.noise_schedule.total_N if t_end is None else float(t_end)
        if not (start > 0 and end > 0 and start != end):
            raise ValueError(f"t_start, t_end: expected two different times > 0, got {start} and {end}")
        return start, end

    def _points(self, times: float | Sequence[float] | np.ndarray) -> Points:
        return self.noise_schedule.vp.at(np.asarray(times, dtype=np.float64))

    def _denoising_row(self, end: float) -> Row:
        return Row.at(self._points(end), "data", self.prediction, LinearUpdate(history=(1.0,)))

    def _corrects_x0(self, row: Row) -> bool:
        return self.correcting_x0_fn is not None and row.form == "data"

    def _corrected(self, x0: Tensor, t: Tensor) -> Tensor:
        return x0 if self.correcting_x0_fn is None else self.correcting_x0_fn(x0, t)

    def _outputs(self, row: Row, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """(output, unconditional output or None) of the model at the row's input x [B, ...] and time [B]."""
        if self._sees_through:
            return self.model.evaluate(x, t, row.alpha, row.sigma)
        return self.model(x, t), None

    def _model_times(self, rows: Sequence[Row], x: Tensor) -> Times:
        """What the model is told at each row, [B] like x."""
        told = self.noise_schedule.model_time if self._sees_through else float
        return each_on_device([told(row.t) for row in rows], len(x), x.dtype, x.device)

    def _evaluator(self, run: Run, rows: Sequence[Row]) -> Evaluate:
        """What a run of the rows reads: the model's outputs, or D where the run takes it as `converted` makes it."""

        def evaluate(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            row = rows[run.i]
            outputs = self._outputs(row, x, t)
            return outputs if run.plan.rows[run.i] is row else (self.converted(row, run.x, outputs), None)

        return evaluate

    @property
    def _guidance(self) -> float | None:
        return self.model.guidance_scale if self._sees_through and self.model.guided else None

    def _run(
        self,
        x: Tensor,
        rows: Sequence[Row],
        times: Sequence[float] | np.ndarray,
        *,
        corrects_first: bool = False,
        first_step: int = 0,
        keep: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """x [B, ...] after the rows, and with `keep` after every step. times: where steps end, the start first.

        corrects_first: correcting_xt_fn also gets the start, after the model has been evaluated there. first_step: the
        step number that comes with the first state.
        """
        run = self._start(x, rows, times[-1])
        marks = torch.tensor(np.asarray(times), dtype=x.dtype).to(x.device, non_blocking=True).unbind(0)
        ends = iter(marks if corrects_first else marks[1:])
        numbers = itertools.count(first_step)
        states: list[Tensor] = []

        def arrive() -> None:
            t, step = next(ends), next(numbers)
            if self.correcting_xt_fn is not None:
                run.x.copy_(self.correcting_xt_fn(run.x, t, step))
                run.refresh_input()
            if keep:
                states.append(run.x.to(x.dtype, copy=True))

        outputs_of = self._evaluator(run, rows)

        def evaluate(given: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            outputs = outputs_of(given, t)
            if run.i == 0 and corrects_first:
                arrive()
            return outputs

        for i in run.steps(evaluate, self._model_times(rows, x)):
            if rows[i].accepts:
                arrive()
        return run.x.to(x.dtype), states

    def attempt(self, x: Tensor, rows: Sequence[Row], end: float) -> tuple[Tensor, Tensor]:
        """Both registers after the rows of one step."""
        run = self._start(x, rows, end)
        for _ in run.steps(self._evaluator(run, rows), self._model_times(rows, x)):
            pass
        return run.x.to(x.dtype), run.base.to(x.dtype)

    def _start(self, x: Tensor, rows: Sequence[Row], end: float) -> Run:
        """A run of the rows. With a correction, its rows read D as `converted` makes it."""
        corrects = self.correcting_xt_fn is not None or any(self._corrects_x0(row) for row in rows)
        # The conversion is done before the run, since the correction comes between it and the update.
        used = [replace(row, p_x=0.0, p_m=1.0) for row in rows] if corrects else rows
        point = self._points(end)
        plan = Plan(tuple(used), (float(point.alpha), float(point.sigma)), self.prediction)
        state = x.to(compute_dtype(x.dtype), copy=True)
        return Run(plan, state, model_dtype=x.dtype, guidance=None if corrects else self._guidance)

    def converted(self, row: Row, x: Tensor, outputs: tuple[Tensor, Tensor | None]) -> Tensor:
        """The row's D [B, ...], corrected where it is x0."""
        record = empty_table(1)[0]
        record["p_x"], record["p_m"] = row.p_x, row.p_m
        record["guidance"] = 1.0 if self._guidance is None else self._guidance
        d = converted_output(record, x, *outputs, None)
        return self._corrected(d, torch.tensor(row.t, dtype=x.dtype)) if self._corrects_x0(row) else d
