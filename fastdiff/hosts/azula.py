"""azula's sampler protocol on fastdiff's plans. azula itself is not imported.

from fastdiff.hosts.azula import Sampler

sampler = Sampler(denoiser, steps=8)  # was: azula.sample.DDIMSampler(denoiser, steps=64)
x0 = sampler(sampler.init((16, 3, 64, 64)))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.build import plan as make_plan
from ..plans.plan import Plan
from ..sampling.sample import sample
from .placed import Levels, placed

__all__ = ["Sampler"]
LEAST_GUIDED = 6  # evaluations under measurements (MMPS, JFPS, DiffPIR)


class Sampler:
    """A sampler of azula (Rozet, 0.11) for any plan: `sampler(x)` from x_t at `start` to x at `stop`.

    denoiser: an azula Denoiser, denoiser(x_t, t, **kwargs).mean = E[X | x_t] for x_t [B, ...] and t [], with
        denoiser.schedule(t) = (alpha_t, sigma_t), of any kind. Guided ones too: CFG, DiffPIR, JFPS, MMPS, TMPD.
    solver: None for the default, found by measurement: `steps` is then the number of evaluations, and the times are
        its own. Or a name of `fastdiff.solvers()`, on azula's even times from start to stop. Or a `fastdiff.Plan` on
        whatever schedule, which is placed on the denoiser's by its noise levels; it knows its own steps, and whether
        it ends on clean data.
    start, stop, steps, silent, dtype, device: azula's. A run of the default to stop = 0 ends on clean data, where
        azula's end at sigma_0.
    guided: of the default; whether it takes the lower order that guidance asks for. If None, where the denoiser wraps
        another one, as azula's guided ones do, and steps are not too few. TMPD gets DDIM's: its predictions are too
        rough for any other.
    options: of `fastdiff.plan`, with a name as solver: `grid`, `order`, `eta` ...

    Noise of stochastic plans belongs to torch's generator, as azula's does. Raises TypeError or ValueError naming the
    argument: for samplers that guide by steps of their own (DPS, PGDM, RePaint, TDS), too.
    """

    def __init__(
        self,
        denoiser: Any,
        solver: str | Plan | None = None,
        *,
        start: float = 1.0,
        stop: float = 0.0,
        steps: int = 64,
        silent: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        guided: bool | None = None,
        **options: Any,
    ) -> None:
        if not (callable(denoiser) and callable(getattr(denoiser, "schedule", None))):
            hint = "; this is a sampler with a step of its own" if hasattr(denoiser, "step") else ""
            raise TypeError(f"denoiser: expected an azula Denoiser, got {type(denoiser).__name__}{hint}")
        if options and not isinstance(solver, str):
            raise ValueError(f"{next(iter(options))}: is an option of a named solver, got solver={solver!r}")
        if not 0 <= stop < start <= 1:
            raise ValueError(f"start, stop: expected 0 <= stop < start <= 1, got {start} and {stop}")
        self.denoiser, self.solver, self.options = denoiser, solver, options
        self.start, self.stop, self.steps, self.silent = start, stop, steps, silent
        self.dtype, self.device, self.guided = dtype, device, guided
        self.plan  # noqa: B018 - wrong options are told here

    @property
    def timesteps(self) -> Tensor:
        """[steps + 1] even times from start to stop."""
        return torch.linspace(self.start, self.stop, self.steps + 1, dtype=self.dtype, device=self.device)

    @property
    def plan(self) -> Plan:
        """What a call runs, in the plan's own times. It is made anew, by the attributes as they are."""
        return self._plan(self._levels(self.start, self.stop))

    def init(
        self, shape: Sequence[int], mean: float | Tensor = 0.0, var: float | Tensor = 1.0, **kwargs: Any
    ) -> Tensor:
        """x at `start`, [*shape]: Gaussian, of mean alpha m and variance alpha^2 v + sigma^2 for data of m and v."""
        scales = self.denoiser.schedule(self.timesteps[0])
        alpha, sigma = (torch.as_tensor(v).to(**kwargs) for v in scales)
        center = (alpha * mean).expand(shape)
        return center + (alpha**2 * var + sigma**2).sqrt().expand(shape) * torch.randn_like(center)

    def __call__(self, x: Tensor, **kwargs: Any) -> Tensor:
        """x [B, ...] at `start` to x at `stop`. kwargs: the denoiser's."""
        levels = self._levels(self.start, self.stop)
        return self._run(self._plan(levels), levels, x, kwargs, self.silent)

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, **kwargs: Any) -> Tensor:
        """x_s given x_t: one step of the named solver, of DDIM's if none is named, which knows nothing of others."""
        levels = self._levels(float(t), float(s))
        solver = self.solver if isinstance(self.solver, str) else "ddim"
        return self._run(self._named(solver, levels, np.array([float(t), float(s)])), levels, x_t, kwargs, True)

    def _levels(self, start: float, stop: float) -> Levels:
        def scales(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            alpha, sigma = self.denoiser.schedule(torch.from_numpy(t))
            return alpha.detach().cpu().numpy(), sigma.detach().cpu().numpy()

        return Levels(scales, start, stop)

    def _plan(self, levels: Levels) -> Plan:
        if isinstance(self.solver, Plan):
            return self.solver
        if isinstance(self.solver, str):
            return self._named(self.solver, levels, np.linspace(self.start, self.stop, self.steps + 1))
        end = "zero" if self.stop == 0 else "sigma_min"
        if self.guided is None and _is(self.denoiser, "TMPDenoiser"):
            return make_plan("ddim", levels.as_flow(), self.steps, grid="power", final_sigma=end)
        return make_plan(None, levels.as_flow(), self.steps, guided=self._low_order, final_sigma=end)

    @property
    def _low_order(self) -> bool:
        """Whether the default takes the order for guidance. With measurements few steps do better without it."""
        if self.guided is not None:
            return self.guided
        least = LEAST_GUIDED if hasattr(self.denoiser, "y") else 1
        return isinstance(getattr(self.denoiser, "denoiser", None), torch.nn.Module) and self.steps >= least

    def _named(self, solver: str, levels: Levels, times: np.ndarray) -> Plan:
        if "grid" in self.options:
            return make_plan(solver, levels.as_flow(), self.steps, final_sigma="sigma_min", **self.options)
        points = levels.at(times)
        ratios = points.sigma / (points.alpha + points.sigma)
        return make_plan(solver, levels.as_flow(), sigmas=ratios, **self.options)

    def _run(self, plan: Plan, levels: Levels, x: Tensor, kwargs: dict[str, Any], silent: bool) -> Tensor:
        plan, entry, leave = placed(plan, levels)

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x_t, t[0], **kwargs).mean

        x0 = sample(model, plan, x * (entry / plan.init_scale), progress=not silent)
        assert isinstance(x0, Tensor)
        return x0 * leave


def _is(denoiser: object, name: str) -> bool:
    return name in (kind.__name__ for kind in type(denoiser).__mro__)
