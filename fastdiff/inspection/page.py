"""A trace as one page of HTML that holds all it needs: plotly, pictures, numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from .plots import figure_of, plots_of
from .record import Record
from .samples import Decode, cloud_panels, curve_panels, histogram_panels, picture_panels
from .table import cell, columns_of, says_something, table_of
from .views import view_of

HEADINGS = {
    "t": "time, in the model's units", "sigma": "factor of the noise", "alpha": "factor of the data",
    "log_snr": "log(alpha / sigma)", "step": "step in log-SNR", "accepted": "whether x is a solution, not a stage",
    "calls": "evaluations of the network for each sample", "x": "|x|", "x0": "|x0|", "eps": "|eps|",
    "change": "|x0 - x0 before|", "error": "local error", "angle": "turn of the path in degrees",
    "deviation": "distance from the straight line", "model_ms": "milliseconds of the model",
    "step_ms": "milliseconds of the step", "finite": "share of samples that are finite",
}  # fmt: skip


def write_page(trace: Record, path: Path, decode: Decode | None, title: str, view: str | None) -> None:
    """Write it. Raises ImportError without plotly, ValueError for a view that does not fit."""
    script = plotly_script()
    title = title or f"{trace.plan.solver}, {trace.plan.nfe} evaluations"
    parts = {
        "title": escape(title),
        "summary": escape(_summary(trace)),
        "warning": _warning(trace),
        "plan": escape(trace.plan.explain()),
        "table": _table(trace),
        "last": str(trace.plan.nfe),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "run": _json(_run(trace, decode, view)),
        "plotly": script,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))
    path.write_text(page, encoding="utf-8")


def plotly_script() -> str:
    """plotly's JavaScript. Raises ImportError naming what to install."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(
            "the page of a trace needs plotly: pip install 'fastdiff[trace]'; print, table and save do without"
        ) from error
    return get_plotlyjs()


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON that may stand inside of a script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _run(trace: Record, decode: Decode | None, view: str | None) -> dict[str, Any]:
    """What the page's script reads."""
    plots = plots_of(trace)
    figures = [{"name": p.name, "title": p.title, "words": p.words, "figure": figure_of(p)} for p in plots]
    return {"states": list(_captions(trace)), "figures": figures, "samples": _samples(trace, decode, view)}


def _samples(trace: Record, decode: Decode | None, view: str | None) -> dict[str, Any]:
    """The kept samples in the view that fits them; nothing where none are kept."""
    chosen = view_of(trace.x.shape[2:], view)
    if decode is not None and chosen not in ("image", "channels"):
        raise ValueError(f"decode: it makes images, which samples shown as {chosen!r} have no place for")
    panels: list[dict[str, Any]] = []
    if trace.x.shape[1] and chosen in ("image", "channels"):
        panels = picture_panels(trace, chosen, decode)
    elif trace.x.shape[1]:
        panels = {"curve": curve_panels, "cloud": cloud_panels, "histogram": histogram_panels}[chosen](trace)
    return {"view": "pictures" if chosen in ("image", "channels") else chosen, "panels": panels}


def _captions(trace: Record) -> Iterator[str]:
    """What is said of each state beside the slider."""
    table = table_of(trace)
    for i, row in enumerate(table):
        if i == trace.plan.nfe:
            yield f"result · sigma {row['sigma']:.4g}"
            continue
        stage = "" if row["accepted"] else " · a stage inside a step"
        level = f"sigma {row['sigma']:.4g} · alpha {row['alpha']:.4g} · log-SNR {row['log_snr']:.4g}"
        yield f"t {row['t']:.5g} · {level}{stage}"


def _summary(trace: Record) -> str:
    plan, (model, step) = trace.plan, (1000 * trace.seconds).sum(0).tolist()
    shape = " x ".join(map(str, trace.result.shape[1:])) or "1"
    shown = f"{len(trace.result)} samples of {shape}, {trace.x.shape[1]} of them kept"
    spent = f"model {model:.4g} ms, steps {step:.4g} ms"
    return f"{plan.solver} on {plan.grid} · {plan.nfe} evaluations · {plan.prediction} · {shown} · {spent}"


def _warning(trace: Record) -> str:
    first = trace.first_not_finite
    if first is None:
        return ""
    i, sample = first
    bad = int((~trace.finite).any(0).sum())
    return (
        f'<p class="warning" role="alert">NaN or infinity: first in step {i}, sample {sample}; {bad} of'
        f" {trace.finite.shape[1]} samples in all.</p>"
    )


def _table(trace: Record) -> str:
    """The table's rows, without columns that say nothing."""
    columns = {name: values for name, values in columns_of(trace).items() if says_something(name, values)}
    heads = "".join(f'<th scope="col" title="{escape(HEADINGS.get(n, n))}">{escape(n)}</th>' for n in columns)
    rows = []
    for i, values in enumerate(zip(*columns.values(), strict=True)):
        first, *rest = map(cell, values)
        rows.append(f'<tr data-i="{i}"><th scope="row">{first}</th>' + "".join(f"<td>{v}</td>" for v in rest) + "</tr>")
    return f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
