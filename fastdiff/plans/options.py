"""The options of the solvers: what each means, and which values are refused before a solver sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..keywords import meant

# What an option means, whichever solver takes it. `fastdiff.plan` names all of them in its signature.
MEANINGS = {
    "order": "order of the method, from 1 to {max_order}",
    "eta": "fresh noise: 0 is the ODE, 1 the reverse SDE",
    "s_noise": "factor of all fresh noise",
    "s_churn": "noise put back before the steps, over the whole run (Karras et al. 2022, algorithm 2)",
    "s_tmin": "least sigma/alpha at which noise is put back",
    "s_tmax": "largest sigma/alpha at which noise is put back",
    "max_churn": "bound on the relative rise of sigma/alpha in one step",
    "step_scale": "factor of each step's length: x + step_scale (x' - x), above 1 towards the modes",
    "form": "the output that is interpolated: 'data' (x0) or 'noise' (eps)",
    "correction": "weight of the second output: 'midpoint' (as published) or 'heun' (Taylor series)",
    "exact": "weigh the second derivative in full: third order, where the published form is second",
    "lower_order_final": "let the order fall to 1 over the last steps",
    "max_ratio": "steps so many times longer in lambda than the one before are of first order",
    "coordinate": "noise level that is integrated over: 'sigma' or 'flow' (see Schedule.coordinate)",
    "clean_end": "step to or from sigma = 0 with a flow velocity: 'midpoint', 'heun' or 'euler'",
    "equal_steps": "use the weights of equal steps on every grid",
    "variable": "eps is a polynomial in this: 'time', 'rho' or 'log_rho'",
    "variant": "the function B(h) of UniPC: 'bh1', 'bh2' or 'vary'",
    "corrector": "correct each state with the output at the next one, at no extra NFE",
    "uncorrected": "indices of the steps that are not corrected",
    "predictor_order": "outputs that the predictor uses, 1 to 4",
    "corrector_order": "outputs that the corrector uses, 1 to 4; 0 for no corrector",
    "pece": "evaluate the model again at the corrected state",
    "tau": "fresh noise: 0 is the ODE, 1 the reverse SDE; a number or a function of the time",
    "simple": "the authors' simplified weights of two outputs",
    "statistics": "statistics of the model, from fastdiff.estimate_statistics",
    "noise_scaler": "phi(rho) of the extended reverse SDE, a function on arrays of rho = sigma/alpha",
    "gamma": "gradient_estimation: weight of the newest output; tcd: share of the time that is noised again",
    "noise_left": "sigma/alpha that the model's x0 still carries; by default sigma_min on EDM schedules, else 0",
    "timestep_scaling": "mix x0 with x by the boundary condition of latent consistency models",
    "intervals": "(low, high, steps, repeats): ranges of sigma/alpha that are run again",
    "runge_kutta": "begin with three Runge-Kutta steps, else with one improved Euler step",
    "r": "position of the inner evaluation, as a share of the step in lambda",
    "r1": "position of the first inner evaluation, as a share of the step in lambda",
    "r2": "position of the second inner evaluation, as a share of the step in lambda",
}


def check_names(solver: str, given: Mapping[str, object], options: Mapping[str, object], own: tuple[str, ...]) -> None:
    """Raises ValueError for a name that is not among the solver's options, with the one that was meant.

    own: the names that `fastdiff.plan` takes for every solver.
    """
    for name in given:
        if name not in options:
            option = meant(name, (*own, *options))
            hint = f" (did you mean {option}?)" if option else ""
            raise ValueError(f"{name}: {solver} has no such option{hint}; it has {', '.join(options) or 'none'}")


def check_order(order: Any, max_order: int, max_steps: int | None) -> None:
    """Raises ValueError. max_steps: the number of steps for multistep methods, which cannot look further back."""
    if order not in range(1, max_order + 1):
        raise ValueError(f"order: expected a whole number from 1 to {max_order}, got {order!r}")
    if max_steps is not None and order > max_steps:
        raise ValueError(f"order: expected at most the number of steps, {max_steps}; got {order!r}")


def check_values(given: Mapping[str, object]) -> None:
    """Raises ValueError for a value that no solver takes; solvers check the rest themselves."""
    for name, value in given.items():
        expected, holds = _EXPECTED.get(name, _ANYTHING)
        if not holds(value):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")


def _number(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    # Comparisons with NaN are false, so it is refused with the rest.
    return lambda value: isinstance(value, (int, float)) and holds(value)


_ANYTHING = ("", lambda value: True)
_AT_LEAST_0 = ("a number >= 0", _number(lambda value: value >= 0))
_SHARE = ("a number in (0, 1]", _number(lambda value: 0 < value <= 1))
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "eta": _AT_LEAST_0,
    "s_noise": _AT_LEAST_0,
    "max_churn": _AT_LEAST_0,
    "step_scale": ("a number > 0", _number(lambda value: value > 0)),
    "max_ratio": ("a number > 0", _number(lambda value: value > 0)),
    "r": _SHARE,
    "r1": _SHARE,
    "r2": _SHARE,
    "correction": ("midpoint or heun", lambda value: value in ("midpoint", "heun")),
    "form": ("data or noise", lambda value: value in ("data", "noise")),
}
