"""What the examples print and draw."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from fastdiff.demo import DemoNetwork

from . import peers
from .methods import Draw, Members, drawn, ours
from .picture import draw_picture
from .problem import Problem, prior
from .scores import psnr
from .table import table


def run(
    argv: Sequence[str] | None,
    about: str | None,
    net: DemoNetwork,
    problems: Sequence[Callable[[DemoNetwork, Tensor], Problem]],
    spread: float,
) -> None:
    """Every method on every problem: a table, and with --out a picture.

    problems: of the network and of data that it has not seen. spread: the data's standard deviation.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few members and steps")
    parser.add_argument("--out", type=Path, help="folder for a picture of each problem")
    parser.add_argument("--peers", action="store_true", help="also deepinv and azula, where installed")
    parser.add_argument("--data", type=int, help="how many are measured, 16 at most")
    parser.add_argument("--members", type=int, help="of each measurement")
    parser.add_argument("--passes", type=int, help="through the network, for each member")
    asked = parser.parse_args(argv)
    members, passes = asked.members or (3 if asked.quick else 19), asked.passes or (12 if asked.quick else 60)
    truth = net.examples[:: len(net.examples) // (asked.data or (2 if asked.quick else 4))]
    gaussian = prior(net, *((32, 16, 4) if asked.quick else (512, 150, 16)))
    for make in problems:
        problem = make(net, truth)
        methods = ours(problem, gaussian, spread) | (peers.installed(problem) if asked.peers else {})
        found = [best(name, tried, problem, members, passes) for name, tried in methods.items()]
        print(f"\n### {problem.name}\n\n{table(problem, found)}", flush=True)
        if asked.out is not None:
            draw_picture(problem, found, asked.out)


def best(name: str, tried: dict[str, Draw], problem: Problem, members: int, passes: int) -> Members:
    """The members of the strength whose first two have the best PSNR."""

    def quality(strength: str) -> float:
        few = drawn(name, tried[strength], problem, 2, passes).x
        return psnr(few.mean(0).nan_to_num(1e3), problem.truth, problem.low, problem.high)

    chosen = max(tried, key=quality) if len(tried) > 1 else next(iter(tried))
    return drawn(f"{name}, {chosen}" if chosen else name, tried[chosen], problem, members, passes)
