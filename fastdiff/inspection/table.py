"""A trace as a table: one record for each state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .record import Record

WHOLE_NUMBERS = {"i": "i4", "calls": "i4", "accepted": "?"}


def table_of(trace: Record) -> np.ndarray:
    """The structured array of `Trace.table`."""
    columns = columns_of(trace)
    table = np.empty(trace.plan.nfe + 1, [(name, WHOLE_NUMBERS.get(name, "f8")) for name in columns])
    for name, values in columns.items():
        table[name] = values
    return table


def columns_of(trace: Record) -> dict[str, np.ndarray]:
    """The columns, by name, each with a number for every state."""
    plan = trace.plan
    accepted = np.isin(np.arange(plan.nfe + 1), trace.accepted)
    seconds = 1000 * trace.seconds
    return {
        "i": np.arange(plan.nfe + 1),
        **_levels(trace),
        "accepted": accepted,
        "calls": _padded(trace.evaluations, 0),
        "x": mean(trace.x_rms),
        **{name: _padded(mean(getattr(trace, f"{name}_rms"))) for name in ("x0", "eps")},
        "change": _padded(mean(trace.change)),
        "error": _padded(mean(trace.error)),
        "angle": mean(trace.angle),
        "deviation": mean(trace.deviation),
        **_guidance(trace),
        "model_ms": _padded(seconds[:, 0]),
        "step_ms": _padded(seconds[:, 1]),
        "finite": mean(trace.finite.double()),
    }


def mean(values: Tensor) -> np.ndarray:
    """The mean over the samples, dimension 1, of what is known of them."""
    return torch.nanmean(values.double(), 1).numpy()


def _levels(trace: Record) -> Mapping[str, np.ndarray]:
    rows, (alpha, sigma) = trace.plan.rows, trace.plan.end
    alphas = np.array([*(row.alpha for row in rows), alpha])
    sigmas = np.array([*(row.sigma for row in rows), sigma])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_snr = np.log(alphas) - np.log(sigmas)
        step = _padded(np.diff(log_snr))
    t = np.array([*(row.t for row in rows), np.nan])
    return {"t": t, "sigma": sigmas, "alpha": alphas, "log_snr": log_snr, "step": step}


def _guidance(trace: Record) -> Mapping[str, np.ndarray]:
    if not trace.output_names:
        return {}
    c, *others = trace.output_names
    columns = {name: _padded(mean(trace.outputs[..., k])) for k, name in enumerate(trace.output_names)}
    for k, name in enumerate(others, 1):
        columns[f"{c}-{name}"] = _padded(mean(trace.differences[..., k]))
        columns[f"cos({c},{name})"] = _padded(mean(trace.cosines[..., k]))
    weights = {f"w_{name}": _padded(mean(trace.weights[..., k])) for k, name in enumerate(("c", "u"))}
    return {**columns, **weights}


def _padded(values: Tensor | np.ndarray, end: float = np.nan) -> np.ndarray:
    """With what stands at the result, where no evaluation is made."""
    return np.append(np.asarray(values), end)


def text_of(trace: Record) -> str:
    """The table to read, without columns that say nothing."""
    columns = {name: values for name, values in columns_of(trace).items() if says_something(name, values)}
    cells = [[name, *map(cell, values)] for name, values in columns.items()]
    widths = [max(map(len, column)) for column in cells]
    rows = zip(*cells, strict=True)
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    first = trace.first_not_finite
    warning = [] if first is None else [f"not finite: first in step {first[0]}, sample {first[1]}"]
    return "\n".join([repr(trace), *warning, *lines])


def says_something(name: str, values: np.ndarray) -> bool:
    """Whether a column has more than what goes without saying."""
    if name in ("accepted", "finite"):
        return not bool(np.all(values == 1))
    return not bool(np.isnan(values.astype(float)).all())


def cell(value: float) -> str:
    """A number to four digits; nothing known is a dash."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return "-" if np.isnan(value) else f"{value:.4g}"
