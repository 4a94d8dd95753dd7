"""The scores of members as a table of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bench import markdown

from . import scores
from .methods import Members
from .problem import Problem

IMAGES = ("PSNR, one", "PSNR, mean", "SSIM, one", "SSIM, mean")
ALL = ("CRPS", "in 90 %", "misfit", "passes", "seconds")


def table(problem: Problem, found: Sequence[Members]) -> str:
    head = ("method", *(IMAGES if problem.images else ()), *ALL)
    start = Members(problem.start_name, problem.start[None], 0, 0.0)
    return markdown.table(head, (row(problem, members) for members in (start, *found)))


def row(problem: Problem, found: Members) -> list[str]:
    """Scores of single members are means over the members."""
    x, truth, several = found.x, problem.truth, len(found.x) > 1
    cells = [found.name]
    if problem.images:
        for score, digits in ((scores.psnr, 2), (scores.ssim, 3)):
            one = [score(member, truth, problem.low, problem.high) for member in x]
            mean = score(x.mean(0), truth, problem.low, problem.high)
            cells += [f"{sum(one) / len(one):.{digits}f}", f"{mean:.{digits}f}" if several else ""]
    cells += [f"{scores.crps(x, truth, problem.where):.4f}"]
    cells += [f"{scores.coverage(x, truth, problem.where):.2f}" if several else "", f"{misfit(problem, x):.2f}"]
    return cells + ([f"{found.passes:.0f}", f"{found.seconds:.1f}"] if several else ["", ""])


def misfit(problem: Problem, x: Tensor) -> float:
    """The mean over measurements of ((y - A x) / noise)^2; 1 is expected of the truth."""
    return float(problem.observation(len(x)).misfit(x.flatten(0, 1)).mean())
