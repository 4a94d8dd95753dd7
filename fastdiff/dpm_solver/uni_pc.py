"""UniPC (Zhao et al. 2023, arXiv 2302.04867) with the arguments of its authors' class."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..ops import make_row, solver_step
from ..ops.reference import compute_dtype
from ..plans.row import LinearUpdate
from ..plans.solvers.exponential import step_orders
from ..plans.solvers.unipc import corrected_line, predictor, unipc
from .noise_schedule import NoiseScheduleVP
from .sampler import Sampler, XtFn

VARIANTS = {"bh1": "bh1", "bh2": "bh2", "vary_coeff": "vary"}
FORMS = {"data_prediction": "data", "noise_prediction": "noise"}


class UniPC(Sampler):
    """Samples with a noise prediction model_fn(x [B, ...], t [B]) -> [B, ...], t in (0, T] of noise_schedule.

    algorithm_type: "data_prediction" or "noise_prediction". variant: "bh1", "bh2" or "vary_coeff". correcting_x0_fn is
    called with x0 alone. The rest is as in `DPM_Solver`. With vary_coeff at orders 2 and 3 the authors' code omits
    terms of the corrector's sum; here they are included. Raises ValueError naming the argument.
    """

    def __init__(
        self,
        model_fn: Callable[[Tensor, Tensor], Tensor],
        noise_schedule: NoiseScheduleVP,
        algorithm_type: str = "data_prediction",
        correcting_x0_fn: str | Callable[[Tensor], Tensor] | None = None,
        correcting_xt_fn: XtFn | None = None,
        thresholding_max_val: float = 1.0,
        dynamic_thresholding_ratio: float = 0.995,
        variant: str = "bh1",
    ) -> None:
        if algorithm_type not in FORMS:
            raise ValueError(f"algorithm_type: expected one of {', '.join(FORMS)}, got {algorithm_type!r}")
        if variant not in VARIANTS:
            raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
        super().__init__(
            model_fn, noise_schedule, correcting_x0_fn, correcting_xt_fn, thresholding_max_val,
            dynamic_thresholding_ratio,
        )  # fmt: skip
        self.variant, self.form = variant, FORMS[algorithm_type]
        self.predict_x0 = self.form == "data"

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        steps: int = 20,
        t_start: float | None = None,
        t_end: float | None = None,
        order: int = 2,
        skip_type: str = "time_uniform",
        method: str = "multistep",
        lower_order_final: bool = True,
        denoise_to_zero: bool = False,
        atol: float = 0.0078,
        rtol: float = 0.05,
        return_intermediate: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Take x [B, ...] from t_start (default T) to t_end (default 1 / total_N), as `DPM_Solver.sample` does.

        method: "multistep" only. lower_order_final: lowers the order of the last steps, however many there are.
        atol, rtol: ignored.
        Raises ValueError naming the argument.
        """
        start, end = self._interval(t_start, t_end)
        if method != "multistep":
            raise ValueError(f"method: expected 'multistep', got {method!r}")
        if order not in (1, 2, 3):
            raise ValueError(f"order: expected 1, 2 or 3, got {order!r}")
        if steps < order:
            raise ValueError(f"steps: expected at least the order, {order}, got {steps}")
        times = self._times(skip_type, start, end, steps)
        if self.correcting_xt_fn is not None or return_intermediate:
            x, states = self._stepwise(x, times, order, lower_order_final)
        else:
            rows = unipc(
                self.noise_schedule.vp, self._points(times), self.prediction, order=order, form=self.form,
                variant=VARIANTS[self.variant], lower_order_final=lower_order_final,
            )  # fmt: skip
            x, states = self._run(x, rows, times)
        if denoise_to_zero:
            x, last = self._run(x, [self._denoising_row(end)], [end, end], first_step=steps + 1, keep=True)
            states += last
        return (x, states) if return_intermediate else x

    def _stepwise(
        self, x: Tensor, times: np.ndarray, order: int, lower_order_final: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Makes the corrected state at every step, not folded into the next row, since correcting_xt_fn needs it."""
        variant = VARIANTS[self.variant]
        points, vp = self._points(times), self.noise_schedule.vp
        orders = step_orders(points, order, lower_order_final, math.inf)
        # Where and in which form the model is asked; of these rows nothing else is used.
        asked = unipc(vp, points, self.prediction, order=order, form=self.form, corrector=False)
        told = self._model_times(asked, x)
        marks = torch.tensor(times, dtype=x.dtype).to(x.device, non_blocking=True).unbind(0)
        dtype, base = x.dtype, x.to(compute_dtype(x.dtype))
        now = base
        history: list[Tensor] = []
        states: list[Tensor] = []
        for i, p in enumerate(orders):
            d = self.converted(asked[i], now, self._outputs(asked[i], now.to(dtype), told[i]))
            # The corrector of order 3 reads four outputs.
            history = [d, *history[:3]]
            now = base
            if i:
                now = _apply(corrected_line(points, i - 1, orders[i - 1], self.form, variant), base, history)
            base = self._seen(now, marks[i], i, states)
            ratio, weights = predictor(points, i, p, self.form, variant)
            now = _apply(LinearUpdate(base=ratio, history=weights), base, history)
        now = self._seen(now, marks[-1], len(orders), states)
        return now.to(dtype), [state.to(dtype) for state in states]

    def _seen(self, x: Tensor, t: Tensor, step: int, states: list[Tensor]) -> Tensor:
        x = x if self.correcting_xt_fn is None else self.correcting_xt_fn(x, t, step)
        states.append(x)
        return x

    def _corrected(self, x0: Tensor, t: Tensor) -> Tensor:
        return x0 if self.correcting_x0_fn is None else self.correcting_x0_fn(x0)


def _apply(line: LinearUpdate, base: Tensor, history: list[Tensor]) -> Tensor:
    """The update as one step of the op, with the newest output in the model output's place."""
    row = make_row(p_m=1.0, a_base=line.base, A=line.history)
    return solver_step(base, history[0], row, base=base, history=history[1:]).x
