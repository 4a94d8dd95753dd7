"""The demo's language model by every rule: what an n-gram judge says of its text, against calls of the network.

python -m bench.text [--samples 64]: bench/results/text.md and text.png. Needs the extra `demo` and matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

from .markdown import table
from .text_judge import ORDER, TextJudge

RESULTS = Path(__file__).parent / "results"
STEPS = (8, 16, 32, 64)
SCORES = ("perplexity", "distinct_2", "distinct_4", "style")
SHOWN = 230  # signs of an example


class Row(NamedTuple):
    """A rule, its network calls a sample (the mean), scores and the first sample."""

    rule: str
    calls: float
    scores: dict[str, float]
    text: str


class Contest:
    """Samples of all styles in turn, the same seeds for every plan."""

    def __init__(self, count: int) -> None:
        net = demo.token_network("text")
        assert isinstance(net, demo.TextNetwork)
        self.net, self.judge, self.count = net, TextJudge(net.vocabulary), count
        self.labels = torch.arange(count) % len(net.classes)

    def model(self, x: Tensor, y: Tensor) -> Tensor:
        """The network in bfloat16, which the CPU has fast."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.net.model(x, y)

    def run(self, name: str, plan: fd.tokens.Plan, temperature: float = 1.0, guidance: float | None = None) -> Row:
        """Draw and judge."""
        busy = torch.zeros(self.count)

        def count(step: fd.tokens.Step) -> None:
            nonlocal busy
            busy = busy + (step.left > 0)

        uncond = None if guidance is None else self.net.uncond()
        options = {"temperature": temperature, "guidance": guidance, "uncond": uncond, "callback": count}
        start = self.net.blank(self.count)
        x = fd.tokens.sample(
            self.model, plan, start, self.net.mask_id, seeds=range(self.count), y=self.labels, **options
        )
        calls = float(busy.mean()) + 1 if plan.rule.adaptive else float(plan.steps)
        calls *= 1 if guidance is None else 2
        text = self.net.write(x)[4]  # a gospel
        row = Row(name, calls, self.judge.measure(x, self.labels), text)
        print(f"{name:34s} {calls:6.1f} " + " ".join(f"{row.scores[key]:.3f}" for key in SCORES), flush=True)
        return row


def by_steps(contest: Contest, steps: Iterable[int]) -> list[Row]:
    """Rules that are told the number of steps."""
    rules: dict[str, Callable[[int], fd.tokens.Plan]] = {
        "random, uniform sizes": lambda n: fd.tokens.plan("random", n),
        "random, cosine sizes": lambda n: fd.tokens.plan("random", n, sizes="cosine"),
        "confidence": lambda n: fd.tokens.plan("confidence", n, sizes="cosine"),
        "margin": lambda n: fd.tokens.plan("margin", n, sizes="cosine"),
        "entropy": lambda n: fd.tokens.plan("entropy", n, sizes="cosine"),
        "remdm, eta 0.02": lambda n: fd.tokens.plan(fd.tokens.ReMDM(0.02), n),
    }
    return [contest.run(name, plan(n)) for name, plan in rules.items() for n in steps]


def fitted(contest: Contest, steps: Iterable[int]) -> list[Row]:
    """Random order with the sizes that were fitted to the network."""
    return [contest.run("random, fitted sizes", contest.net.plan(n)) for n in steps]


def by_bounds(contest: Contest) -> list[Row]:
    """Rules that decide how many steps they need."""
    rows = [contest.run(f"threshold {tau}", fd.tokens.plan(fd.tokens.Threshold(tau))) for tau in (0.2, 0.5)]
    for gamma in (1.0, 4.0, 16.0):
        rows.append(contest.run(f"entropy bound {gamma:g}", fd.tokens.plan(fd.tokens.EntropyBound(gamma))))
    return rows


def variations(contest: Contest, steps: int = 32) -> list[Row]:
    """Temperature and guidance."""
    plan = fd.tokens.plan("random", steps, sizes="cosine")
    rows = [contest.run(f"random, cosine, temperature {t}", plan, temperature=t) for t in (0.9, 0.7)]
    rows += [contest.run(f"random, cosine, guidance {g:g}", plan, guidance=g) for g in (2.0, 4.0)]
    half = fd.tokens.plan("confidence", steps, sizes="cosine")
    return [*rows, contest.run("confidence, temperature 0.7", half, temperature=0.7)]


def rendered(rows: list[Row], real: dict[str, float], count: int) -> str:
    """The tables and some samples as they came."""
    head = ["rule", "calls", "perplexity", "distinct-2", "distinct-4", "style found"]
    lines = [[row.rule, f"{row.calls:.1f}", *_cells(row.scores)] for row in rows]
    lines.append(["held-out text", "", *_cells(real)])
    shown = [row for row in rows if 24 <= row.calls <= 72 or "bound" in row.rule]
    examples = "\n".join(f"- {row.rule}, {row.calls:.0f} calls: {row.text[:SHOWN]}" for row in shown)
    return f"""# The demo's language model by every rule

`python -m bench.text`, {count} samples of 128 tokens, all six styles in turn, the same seeds for every plan,
temperature 1 unless said. The judge is an n-gram model ({ORDER} tokens, Witten-Bell) of the chapters that the network
learns too; perplexity is per token. distinct-n is the share of different ones among all n tokens in a row. A low
perplexity with a low distinct-n is text that repeats itself. "style found": how often a naive Bayes classifier names
the style that was asked for. Calls are means over samples; guidance makes two a step.

{table(head, lines)}

## Samples

The first gospel of each, not chosen.

{examples}
"""


def _cells(scores: dict[str, float]) -> list[str]:
    return [f"{scores['perplexity']:.1f}", *(f"{scores[key]:.2f}" for key in SCORES[1:])]


def draw(rows: list[Row], real: dict[str, float], path: Path) -> None:
    """Perplexity and distinct-2 against calls."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    named: dict[str, list[Row]] = {}
    for row in rows:
        if "temperature" not in row.rule and "guidance" not in row.rule:
            named.setdefault(row.rule.rstrip("0123456789. "), []).append(row)
    for panel, key in zip(panels, ("perplexity", "distinct_2"), strict=True):
        for name, members in named.items():
            members = sorted(members, key=lambda row: row.calls)
            label = name.replace(", eta", "")
            panel.plot([r.calls for r in members], [r.scores[key] for r in members], "o-", ms=3, lw=1, label=label)
        panel.axhline(real[key], color="black", lw=0.8, ls=":", label="held-out text")
        panel.set(xscale="log", xlabel="calls of the network", title=key.replace("_", "-"))
    panels[0].set_yscale("log")
    panels[1].legend(fontsize=6)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    contest = Contest(arguments.samples)
    real = contest.judge.held_out(128, arguments.samples)
    rows = by_steps(contest, STEPS) + fitted(contest, STEPS) + by_bounds(contest) + variations(contest)
    (arguments.out / "text.md").write_text(rendered(rows, real, arguments.samples))
    draw(rows, real, arguments.out / "text.png")


if __name__ == "__main__":
    main()
