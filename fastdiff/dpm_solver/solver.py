"""DPM_Solver: DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv 2206.00927, 2211.01095) as their authors call it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..plans.row import Row
from ..plans.solvers.exponential import multistep, singlestep
from .adaptive import follow
from .noise_schedule import NoiseScheduleVP
from .sampler import Sampler, XtFn

CORRECTIONS = {"dpmsolver": "midpoint", "taylor": "heun"}
METHODS = ("multistep", "singlestep", "singlestep_fixed", "adaptive")


class DPM_Solver(Sampler):
    """Samples with a noise prediction model_fn(x [B, ...], t [B]) -> [B, ...], t in (0, T] of noise_schedule.

    algorithm_type: "dpmsolver++" (polynomials in x0) or "dpmsolver" (in the noise). correcting_x0_fn: a function of
    (x0, t), or "dynamic_thresholding" (Saharia et al. 2022), applied to each x0 of dpmsolver++ and of the final
    denoising. correcting_xt_fn: a function of (x, t, step), applied to the state after each step. thresholding_max_val,
    dynamic_thresholding_ratio: see `dynamic_thresholding_fn`. Raises ValueError naming the argument.
    """

    def __init__(
        self,
        model_fn: Callable[[Tensor, Tensor], Tensor],
        noise_schedule: NoiseScheduleVP,
        algorithm_type: str = "dpmsolver++",
        correcting_x0_fn: str | Callable[[Tensor, Tensor], Tensor] | None = None,
        correcting_xt_fn: XtFn | None = None,
        thresholding_max_val: float = 1.0,
        dynamic_thresholding_ratio: float = 0.995,
    ) -> None:
        if algorithm_type not in ("dpmsolver", "dpmsolver++"):
            raise ValueError(f"algorithm_type: expected 'dpmsolver' or 'dpmsolver++', got {algorithm_type!r}")
        super().__init__(
            model_fn, noise_schedule, correcting_x0_fn, correcting_xt_fn, thresholding_max_val,
            dynamic_thresholding_ratio,
        )  # fmt: skip
        self.algorithm_type = algorithm_type
        self.form = "data" if algorithm_type == "dpmsolver++" else "noise"

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
        solver_type: str = "dpmsolver",
        atol: float = 0.0078,
        rtol: float = 0.05,
        return_intermediate: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Take x [B, ...] from t_start (default T) to t_end (default 1 / total_N); returns x [B, ...] there.

        steps: number of model evaluations; denoise_to_zero adds one, and returns the x0 predicted at t_end. method:
        "multistep"; "singlestep", with lower orders at the end so that every evaluation is used; "singlestep_fixed",
        with steps // order steps; "adaptive", of order 2 or 3, controlled by atol and rtol. lower_order_final: lowers
        the order of the last multistep steps if there are fewer than ten. solver_type: "dpmsolver" or "taylor".
        return_intermediate: also return the state after every step, for multistep the start as well.
        Raises ValueError naming the argument.
        """
        start, end = self._interval(t_start, t_end)
        self._check(order, method, solver_type, return_intermediate)
        if method == "adaptive":
            x = follow(self, x, start, end, order, CORRECTIONS[solver_type], atol, rtol)
            return self._run(x, [self._denoising_row(end)], [end, end])[0] if denoise_to_zero else x
        if method == "multistep":
            if steps < order:
                raise ValueError(f"steps: expected at least the order, {order}, got {steps}")
            times = self._times(skip_type, start, end, steps)
            rows = multistep(
                self.noise_schedule.vp, self._points(times), self.prediction, order=order, form=self.form,
                correction=CORRECTIONS[solver_type], lower_order_final=lower_order_final and steps < 10,
            )  # fmt: skip
        else:
            times, rows = self._singlestep(steps, order, skip_type, start, end, method, CORRECTIONS[solver_type])
        if denoise_to_zero:
            rows, times = [*rows, self._denoising_row(end)], np.append(times, end)
        x, states = self._run(x, rows, times, corrects_first=method == "multistep", keep=return_intermediate)
        return (x, states) if return_intermediate else x

    def inverse(
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
        solver_type: str = "dpmsolver",
        atol: float = 0.0078,
        rtol: float = 0.05,
        return_intermediate: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """`sample` in the other direction: from t_start (default 1 / total_N) to t_end (default T)."""
        start = 1 / self.noise_schedule.total_N if t_start is None else t_start
        end = self.noise_schedule.T if t_end is None else t_end
        return self.sample(
            x, steps, start, end, order, skip_type, method, lower_order_final, denoise_to_zero, solver_type, atol,
            rtol, return_intermediate,
        )  # fmt: skip

    def add_noise(self, x: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """alpha(t) x + sigma(t) noise for data x [B, ...] and times t [K]: [K, B, ...], or [B, ...] if K is 1."""
        if noise is None:
            noise = torch.randn((len(t), *x.shape), device=x.device, dtype=x.dtype)
        alpha, sigma = (
            f(t).to(x.dtype).view(-1, *[1] * x.ndim)
            for f in (self.noise_schedule.marginal_alpha, self.noise_schedule.marginal_std)
        )
        noised = alpha * x[None] + sigma * noise
        return noised[0] if len(t) == 1 else noised

    def get_orders_and_timesteps_for_singlestep_solver(
        self, steps: int, order: int, skip_type: str, t_T: float, t_0: float, device: torch.device | str
    ) -> tuple[Tensor, list[int]]:
        """The times where steps begin and end [K + 1], and the K orders of the steps, which sum to `steps`."""
        times, orders = self._outer(steps, order, skip_type, t_T, t_0)
        return torch.tensor(times, dtype=torch.float32).to(device), orders

    def _outer(self, steps: int, order: int, skip_type: str, start: float, end: float) -> tuple[np.ndarray, list[int]]:
        if steps < 1:
            raise ValueError(f"steps: expected a whole number >= 1, got {steps}")
        orders = {
            1: [1] * steps,
            2: [2] * (steps // 2) + [1] * (steps % 2),
            3: [3] * (steps // 3 - 1) + [2, 1] if steps % 3 == 0 else [3] * (steps // 3) + [steps % 3],
        }[order]
        # In lambda the steps are uniform whatever their orders; in time a step of order p takes p intervals of a grid
        # of all evaluations.
        if skip_type == "logSNR":
            return self._times(skip_type, start, end, len(orders)), orders
        return self._times(skip_type, start, end, steps)[np.cumsum([0, *orders])], orders

    def _singlestep(
        self, steps: int, order: int, skip_type: str, start: float, end: float, method: str, correction: str
    ) -> tuple[np.ndarray, list[Row]]:
        if method == "singlestep":
            times, orders = self._outer(steps, order, skip_type, start, end)
        else:
            if steps < order:
                raise ValueError(f"steps: expected at least the order, {order}, got {steps}")
            orders = [order] * (steps // order)
            times = self._times(skip_type, start, end, len(orders))
        vp = self.noise_schedule.vp
        rows: list[Row] = []
        for i, p in enumerate(orders):
            log_snr = vp.log_snr(self._times(skip_type, times[i], times[i + 1], p))
            # The inner points lie within the step as skip_type lays them out; the solver wants their places in lambda.
            share = (log_snr - log_snr[0]) / (log_snr[-1] - log_snr[0])
            places = dict(zip(("r1", "r2"), share[1:-1].tolist(), strict=False))
            rows += singlestep(
                vp, self._points(times[i : i + 2]), self.prediction, order=p, form=self.form, correction=correction,
                **places,
            )  # fmt: skip
        return times, rows

    def _check(self, order: int, method: str, solver_type: str, return_intermediate: bool) -> None:
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if order not in ((2, 3) if method == "adaptive" else (1, 2, 3)):
            raise ValueError(f"order: expected 1, 2 or 3 (2 or 3 for adaptive), got {order!r}")
        if solver_type not in CORRECTIONS:
            raise ValueError(f"solver_type: expected 'dpmsolver' or 'taylor', got {solver_type!r}")
        if method == "adaptive" and return_intermediate:
            raise ValueError("return_intermediate: the adaptive method keeps no intermediate states")
        if method == "adaptive" and self.correcting_xt_fn is not None:
            raise ValueError("correcting_xt_fn: the adaptive method takes none")
