"""The plots of a trace's numbers over its steps, by plotly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .record import Record
from .table import mean, table_of

COLOURS = ("#3b82f6", "#e8710a", "#12a06b", "#b25fd1", "#d64550", "#7a8699")
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}, "traceorder": "normal"}
FREE = {"tickmode": "auto", "nticks": 5}  # ticks of a second axis at round numbers, not where the first has its own
FEW = 8  # samples that have a line each; of more there is the range


class Plot(NamedTuple):
    """A plot of the page: what it shows in words, plotly's traces, and the titles and kinds of its axes."""

    name: str
    title: str
    words: str
    data: list[dict[str, Any]]
    y: str
    y2: str = ""
    log: bool = False
    stacked: bool = False


def plots_of(trace: Record) -> list[Plot]:
    """All of them; those of guidance where there is one."""
    first, rest = (_errors, _turns), (_lengths, _changes, _noise, _time)
    return [*(plot(trace) for plot in first), *_guidance(trace), *(plot(trace) for plot in rest)]


def figure_of(plot: Plot) -> dict[str, Any]:
    """plotly's figure, checked by plotly. Colours of text and grid are the page's."""
    from plotly.graph_objects import Figure

    layout = {
        "template": {},
        "height": 270,
        "margin": {"l": 58, "r": 58 if plot.y2 else 14, "t": 8, "b": 40},
        "hovermode": "x unified",
        "legend": LEGEND,
        "xaxis": {"title": {"text": "step", "standoff": 6}, "zeroline": False, "tickformat": "d"},
        "yaxis": _axis(plot.y, plot.log),
        "barmode": "stack" if plot.stacked else "group",
    }
    if plot.y2:
        layout["yaxis2"] = {**_axis(plot.y2, False), "overlaying": "y", "side": "right", "showgrid": False, **FREE}
    return Figure(plot.data, layout).to_plotly_json()


def _axis(title: str, log: bool) -> dict[str, Any]:
    kind = {"type": "log" if log else "linear", "exponentformat": "power"}
    return {"title": {"text": title, "standoff": 8}, "zeroline": False, "automargin": True, **kind}


def _line(name: str, values: np.ndarray, colour: int, **options: Any) -> dict[str, Any]:
    """A line over the steps; what is not finite is left out."""
    shown = {"line": {"color": COLOURS[colour], "width": 2}, "marker": {"size": 5}, **options}
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(range(len(values))), "y": numbers(values),
        "hovertemplate": "%{y:.4g}", "connectgaps": True, **shown,
    }  # fmt: skip


def _samples(values: Tensor, colour: int) -> list[dict[str, Any]]:
    """A thin line for each sample of [S, B], or the range of many."""
    quiet = {"showlegend": False, "hoverinfo": "skip", "mode": "lines"}
    thin = {"line": {"color": COLOURS[colour], "width": 1}, "opacity": 0.35, "hovertemplate": None, **quiet}
    if values.shape[1] <= FEW:
        return [_line(f"sample {k}", values[:, k].numpy(), colour, **thin) for k in range(values.shape[1])]
    known = np.ma.masked_invalid(values.numpy())
    low, high = (bound.filled(np.nan) for bound in (known.min(1), known.max(1)))
    edge = {**thin, "line": {"width": 0, "color": COLOURS[colour]}}
    fill = {**edge, "fill": "tonexty", "fillcolor": COLOURS[colour] + "33", "opacity": 1}
    return [_line("least", low, colour, **edge), _line("most", high, colour, **fill)]


def numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """What JSON can say of them: six digits, and nothing for what is not finite."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]


def _of_samples(values: Tensor, name: str, colour: int) -> list[dict[str, Any]]:
    several = values.shape[1] > 1
    return [*(_samples(values, colour) if several else []), _line(name, mean(values), colour)]


def _errors(trace: Record) -> Plot:
    how = "estimated by the next higher order" if trace.reference == "estimate" else "measured by fine steps"
    words = f"How far each step led from the exact solution of that step, {how}: |x* - x| / (alpha + sigma)."
    return Plot("error", "Local error", words, _of_samples(trace.error, "mean", 4), "error", log=True)


def _turns(trace: Record) -> Plot:
    places = trace.accepted
    deviation = [_line("distance from the straight line", mean(trace.deviation)[places], 1, x=places, yaxis="y2")]
    angles = [{**line, "x": places} for line in _of_samples(trace.angle[places], "turn", 0)]
    words = "The turn of the path at each state, and how far it is from the chord, in x / (alpha + sigma)."
    return Plot("turn", "Curvature", words, [*angles, *deviation], "degrees", "distance")


def _guidance(trace: Record) -> list[Plot]:
    if not trace.output_names:
        return []
    c, *others = trace.output_names
    lengths = [_line(f"|{name}|", mean(trace.outputs[..., k]), k) for k, name in enumerate(trace.output_names)]
    for k, name in enumerate(others, 1):
        lengths.append(_line(f"|{c} - {name}|", mean(trace.differences[..., k]), (k + 2) % len(COLOURS)))
        dotted = {"yaxis": "y2", "line": {"color": COLOURS[(k + 3) % len(COLOURS)], "dash": "dot", "width": 2}}
        lengths.append(_line(f"cos({c}, {name})", mean(trace.cosines[..., k]), k, **dotted))
    labels = ("c - u", "u", "c_2 - u", "c_3 - u", "x", "state")
    weights = [(label, mean(trace.weights[..., k])) for k, label in enumerate(labels)]
    used = [_line(label, value, k) for k, (label, value) in enumerate(weights) if np.nan_to_num(value).any()]
    words = "Lengths of the outputs, of their difference, and the cosine between them."
    return [
        Plot("guidance", "Guidance terms", words, lengths, "length", "cosine"),
        Plot(
            "weights", "Guidance weights", "What each term is multiplied by, the mean over the samples.", used, "weight"
        ),
    ]


def _lengths(trace: Record) -> Plot:
    named = (("|x|", trace.x_rms, 0), ("|x0|", trace.x0_rms, 1), ("|eps|", trace.eps_rms, 2))
    data = [line for name, values, colour in named for line in _of_samples(values, name, colour)]
    return Plot(
        "lengths", "Lengths", "Root mean squares of the state and of the predictions.", data, "length", log=True
    )


def _changes(trace: Record) -> Plot:
    words = "How much the predicted data changed since the evaluation before: |x0 - x0 before|."
    return Plot("change", "Change of x0", words, _of_samples(trace.change, "mean", 1), "change", log=True)


def _noise(trace: Record) -> Plot:
    table = table_of(trace)
    levels = [_line(name, table[name], colour, yaxis="y2") for name, colour in (("alpha", 1), ("sigma", 2))]
    data = [_line("log-SNR", table["log_snr"], 0), *levels]
    return Plot(
        "noise",
        "Noise level",
        "log-SNR = log(alpha / sigma), and alpha and sigma of x = alpha x0 + sigma eps.",
        data,
        "log-SNR",
        "alpha, sigma",
    )


def _time(trace: Record) -> Plot:
    seconds = 1000 * trace.seconds.numpy()
    bars = [
        {
            "type": "bar", "name": name, "x": list(range(len(seconds))), "y": numbers(seconds[:, k]),
            "marker": {"color": COLOURS[k]}, "hovertemplate": "%{y:.4g} ms",
        }
        for k, name in enumerate(("model", "step"))
    ]  # fmt: skip
    words = "Milliseconds of the model and of the step, without what noting all this took."
    return Plot("time", "Time", words, bars, "ms", stacked=True)
