"""What the configuration of a diffusers scheduler says of the noise schedule: the constructor of `Schedule` to call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Config = Mapping[str, Any]


class Described(NamedTuple):
    """A constructor of `Schedule` and its arguments; whether alpha is brought to 0; what the model predicts."""

    constructor: str
    arguments: dict[str, Any]
    prediction: str
    zero_snr: bool = False


def describe(scheduler: object, mu: float | None, tokens: int | None) -> Described:
    """What a scheduler, or its configuration, describes. Raises TypeError or ValueError naming what is not understood.

    mu, tokens: as for `Schedule.from_scheduler`.
    """
    config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise TypeError(f"scheduler: expected a diffusers scheduler or its configuration, got {scheduler!r}")
    if config.get("invert_sigmas"):
        raise ValueError("scheduler: with invert_sigmas noise rises with the time the model is told; no schedule does")
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return _flow(config, mu, tokens)
    if config.get("timestep_type") == "continuous":
        return _edm(config, data=1.0)
    if config.get("trained_betas") is not None or config.get("beta_schedule"):
        return Described(
            "from_alphas_cumprod",
            {"alphas_cumprod": _alphas_cumprod(config)},
            _prediction(config, ("epsilon", "sample", "v_prediction")),
            bool(config.get("rescale_betas_zero_snr")),
        )
    if "shift" in config:
        return _flow(config, mu, tokens)
    if "sigma_data" in config and "prediction_type" in config and "sigma_max" in config:
        cosine = "solver_order" in config and "algorithm_type" not in config
        return _cosine(config) if cosine else _edm(config, config["sigma_data"])
    raise ValueError(f"scheduler: {_unknown(scheduler, config)}")


def _unknown(scheduler: object, config: Config) -> str:
    name = config.get("_class_name") or type(scheduler).__name__
    if "mask_token_id" in config or "num_vec_classes" in config:
        return f"{name} draws tokens, which have no alpha and sigma"
    return (
        f"expected betas, a flow's shift, or sigma_data with sigma_max in the configuration, got {name} with"
        f" {', '.join(key for key in config if not key.startswith('_')) or 'nothing'}; make the schedule by its"
        " constructor, such as fastdiff.Schedule.from_betas"
    )


def _prediction(config: Config, known: tuple[str, ...]) -> str:
    named = config.get("prediction_type", "epsilon")
    prediction = "sample" if named == "original_sample" else named
    if prediction not in known:
        raise ValueError(f"scheduler: expected a prediction_type of {', '.join(known)}, got {named!r}")
    return prediction


# Variance preserving.


def _alphas_cumprod(config: Config) -> np.ndarray:
    """prod(1 - beta) in float64, its signal-to-noise ratio divided by `snr_shift_scale` (CogVideoX)."""
    alphas_cumprod = np.cumprod(1 - _betas(config))
    scale = config.get("snr_shift_scale", 1.0)
    return alphas_cumprod if scale == 1 else alphas_cumprod / (scale + (1 - scale) * alphas_cumprod)


def _betas(config: Config) -> np.ndarray:
    name, total = config.get("beta_schedule"), config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    if name == "linear":
        return np.linspace(start, end, total)
    if name == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, total) ** 2
    if name == "sigmoid":
        return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, total)))
    if name not in _ALPHA_BAR:
        known = ", ".join(("linear", "scaled_linear", "sigmoid", *_ALPHA_BAR))
        raise ValueError(f"config: expected beta_schedule {known}, got {name!r}")
    edges = _ALPHA_BAR[name](np.arange(total + 1) / total)
    return np.minimum(1 - edges[1:] / edges[:-1], 0.999)


def _laplace(t: np.ndarray) -> np.ndarray:
    # alpha rather than alpha^2 is what diffusers makes betas of; its models were trained so.
    snr = np.exp(-0.5 * np.copysign(1, 0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6))
    return np.sqrt(snr / (1 + snr))


_ALPHA_BAR = {
    "squaredcos_cap_v2": lambda t: np.cos((t + 0.008) / 1.008 * (np.pi / 2)) ** 2,
    "laplace": _laplace,
}


# Flow.


def _flow(config: Config, mu: float | None, tokens: int | None) -> Described:
    arguments = {"shift": _shift(config, mu, tokens), "terminal": config.get("shift_terminal") or None}
    return Described("flow", arguments, "flow_prediction")


def _shift(config: Config, mu: float | None, tokens: int | None) -> float:
    """The factor of the shift: the configuration's own, or the one that follows from mu."""
    if not config.get("use_dynamic_shifting"):
        return float(config.get("flow_shift" if config.get("use_flow_sigmas") else "shift", 1.0))
    if mu is None and tokens is None:
        raise ValueError(
            "mu: the scheduler's shift depends on the resolution; pass mu as the pipeline computes it, or tokens, the"
            " length of the image's sequence"
        )
    if mu is None:
        assert tokens is not None
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = least + (most - least) * (tokens - low) / (high - low)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else float(mu)


# Karras et al. 2022 (arXiv 2206.00364), table 1: the network is preconditioned.


def _edm(config: Config, data: float) -> Described:
    ends = {name: config.get(name) for name in ("sigma_min", "sigma_max")}
    missing = [name for name, value in ends.items() if value is None]
    if missing:
        raise ValueError(f"scheduler: expected {' and '.join(missing)} in the configuration, got None")
    _prediction(config, ("v_prediction",) if config.get("timestep_type") else ("epsilon", "v_prediction"))
    return Described("edm", ends, "sample")


def _cosine(config: Config) -> Described:
    """Of Stable Audio: its t = 2 atan(sigma) / pi is the time of the cosine schedule, alpha = cos(pi t / 2)."""
    if config["sigma_data"] != 1:
        raise ValueError(f"scheduler: expected sigma_data 1 for the cosine schedule, got {config['sigma_data']}")
    low, high = (2 / math.pi * math.atan(config[name]) for name in ("sigma_min", "sigma_max"))
    arguments = {"num_train_timesteps": None, "offset": 0.0, "t_min": low, "t_max": high}
    return Described("cosine", arguments, _prediction(config, ("v_prediction",)))
