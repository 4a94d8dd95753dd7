"""SA-Solver (Xue et al. 2023, arXiv 2309.05019) as ComfyUI runs it: noise in the middle of the run, orders 3 and 4.

Its noise level tau is a function of the sigma that a step ends at, and the orders fall earlier than in
`fastdiff.plan("sa_solver")`: the last step before sigma = 0 is predicted from one output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..plans.row import BASE_UNCHANGED, Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.sa_solver import sa_rows
from .flow import model_sampling
from .loop import Denoiser, solve
from .noise import Extra, NoiseSampler, independent
from .samplers import Callback

Tau = Callable[[Tensor], float]

NOISY_SHARE = (0.2, 0.8)  # of the run, in a host's model: steps that end there draw noise
NOISY_SIGMAS = (1.0, 0.05)  # of models outside a host: the authors' interval


@torch.no_grad()
def sample_sa_solver(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    tau_func: Tau | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Tensor:
    """SA-Solver (Xue et al. 2023), predictor and corrector, order 1 to 4; corrector_order 0 leaves it out.

    tau_func: the noise level, 0 the ODE and 1 the reverse SDE, of the sigma that a step ends at. If None, 1 between a
    fifth and four fifths of a host's run, or for sigma from 0.05 to 1 without a host. use_pece: evaluate again at the
    corrected state. simple_order_2: the authors' weights of two outputs.
    """
    high, low = _noisy_sigmas(model)
    build = sa_comfyui if tau_func is None else partial(sa_comfyui, tau_func=tau_func)
    return solve(
        model, x, sigmas, build, extra_args=extra_args, callback=callback, disable=disable, log_snr=True,
        draw=independent(x, extra_args, noise_sampler, sigmas), rise=float(s_noise > 0), s_noise=s_noise,
        high=high, low=low, predictor=predictor_order, corrector=corrector_order, pece=use_pece, simple=simple_order_2,
    )  # fmt: skip


@torch.no_grad()
def sample_sa_solver_pece(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    tau_func: Tau | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
) -> Tensor:
    """`sample_sa_solver` with two evaluations a step, the second one at the corrected state."""
    return sample_sa_solver(
        model, x, sigmas, extra_args, callback, disable, tau_func, s_noise, noise_sampler, predictor_order,
        corrector_order, True, simple_order_2,
    )  # fmt: skip


def sa_comfyui(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    high: float,
    low: float,
    predictor: int,
    corrector: int,
    pece: bool,
    simple: bool,
    s_noise: float,
    tau_func: Tau | None = None,
) -> list[Row]:
    """The rows. high, low: noise level 1 for steps that end between these sigmas, unless tau_func is given."""
    for name, value, least in (("predictor_order", predictor, 1), ("corrector_order", corrector, 0)):
        if value not in range(least, 5):
            raise ValueError(f"{name}: expected a whole number from {least} to 4, got {value!r}")
    ends = points.sigma[1:].tolist()
    taus = [float(low <= end <= high) if tau_func is None else float(tau_func(torch.tensor(end))) for end in ends]
    count = len(ends)
    left = [count - i if ends[-1] == 0 else 4 for i in range(count)]  # steps, the one to 0 included
    most = [(max(1, min(predictor, n - 1)), min(corrector, n)) for n in left]
    rows = sa_rows(points, prediction, most, taus, pece=pece, simple=simple, s_noise=s_noise)
    # A corrected state is no end of a step here: callbacks come before it.
    return [replace(row, base=BASE_UNCHANGED) if row.drop_history else row for row in rows]


def _noisy_sigmas(model: Denoiser) -> tuple[float, float]:
    at = getattr(model_sampling(model), "percent_to_sigma", None)
    return NOISY_SIGMAS if at is None else (float(at(NOISY_SHARE[0])), float(at(NOISY_SHARE[1])))
