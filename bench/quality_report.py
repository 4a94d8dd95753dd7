"""The tables and the plot of bench/quality.py."""

from __future__ import annotations

from pathlib import Path

import torch

from .machine import processor

TITLES = {
    "digits": "the shipped digits network, conditional, no guidance",
    "mixture": "a Gaussian mixture in 32 dimensions, exact score (EDM, sigma 80 to 0.002)",
}


PLOTTED = ("ddim", "heun, flow", "dpm_solver_3m_exact", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "unipc", "unipc, order 3")


def write(result: dict, out: Path) -> None:
    """quality.md and quality.png from the numbers in quality.json."""
    parts = [
        "# Error by number of model evaluations",
        f"`python -m bench.quality`, torch {torch.__version__}, {processor()}; {result['samples']} samples."
        " Each cell is the median (or RMSE) over samples of the root mean square distance from the converged solution,"
        " and the grid that gave the least: t time, q quadratic, l log-SNR, k Karras. Bold: the least in its column.",
    ]
    for problem in dict.fromkeys(row["problem"] for row in result["errors"]):
        rows = [row for row in result["errors"] if row["problem"] == problem]
        parts += [f"## {problem}: {TITLES[problem]}", *(_errors(rows, key) for key in ("median", "rmse"))]
    parts += ["## digits: what a classifier and Frechet distances say", _scores(result, "digits", result["floor"])]
    parts += ["## mixture: Frechet distance from the data's own mean and covariance", _scores(result, "mixture", None)]
    (out / "quality.md").write_text("\n\n".join(parts) + "\n")
    _plot(result, out / "quality.png")


def best(rows: list[dict], solver: str, nfe: int, key: str) -> dict | None:
    """The row of the grid with the least error."""
    fitting = [r for r in rows if r["solver"] == solver and r["nfe"] == nfe]
    return min(fitting, key=lambda r: r[key]) if fitting else None


def _errors(rows: list[dict], key: str) -> str:
    counts = sorted({r["nfe"] for r in rows})
    names = list(dict.fromkeys(r["solver"] for r in rows))
    cells = {(n, c): best(rows, n, c, key) for n in names for c in counts}
    least = {c: min(r[key] for (_, k), r in cells.items() if k == c and r) for c in counts}
    lines = [f"| {key}, NFE | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
    for name in names:
        texts = [_cell(cells[name, c], key, least[c]) for c in counts]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _cell(row: dict | None, key: str, least: float) -> str:
    if row is None:
        return "-"
    text = f"{row[key]:.4f}" if row[key] >= 1e-4 else f"{row[key]:.1e}"
    return f"**{text}** {row['grid'][0]}" if row[key] == least else f"{text} {row['grid'][0]}"


def _scores(result: dict, problem: str, floor: dict | None) -> str:
    rows = [row for row in result["scores"] if row["problem"] == problem]
    keys = [k for k in rows[0] if f"{k}_spread" in rows[0]]
    lines = ["| solver | NFE | grid | " + " | ".join(keys) + " |", "|---" * (len(keys) + 3) + "|"]
    if floor is not None:
        lines.append("| one half of the real digits | | | " + " | ".join(f"{floor[k]:.3f}" for k in keys) + " |")
    for row in rows:
        values = " | ".join(f"{row[k]:.3f} ± {row[k + '_spread']:.3f}" for k in keys)
        lines.append(f"| {row['solver']} | {row['nfe']} | {row['grid']} | {values} |")
    return "\n".join(lines)


def _plot(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    problems = list(dict.fromkeys(row["problem"] for row in result["errors"]))
    figure, axes = pyplot.subplots(1, len(problems), figsize=(6 * len(problems), 4.5), squeeze=False)
    for axis, problem in zip(axes[0], problems, strict=True):
        rows = [row for row in result["errors"] if row["problem"] == problem]
        for name in PLOTTED:
            found = [r for c in sorted({r["nfe"] for r in rows}) if (r := best(rows, name, c, "median"))]
            axis.loglog([r["spent"] for r in found], [r["median"] for r in found], marker=".", label=name)
        axis.set(title=problem, xlabel="model evaluations", ylabel="median distance from the converged solution")
        axis.set_ylim(top=1)
        axis.set_xticks(ticks := [4, 5, 6, 8, 10, 15, 20, 50], labels=ticks)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
