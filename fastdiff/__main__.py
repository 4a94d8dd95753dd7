"""The command: fastdiff sample | fit | info | bench."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .commands import bench, compare, fit, info, sample


def parser() -> argparse.ArgumentParser:
    """The whole command line; each command's arguments stand beside its code."""
    top = argparse.ArgumentParser(prog="fastdiff", description="Samples from diffusion models in few, cheap steps.")
    commands = top.add_subparsers(dest="command", required=True)
    for module, name, text in (
        (sample, "sample", "draw handwritten digits with the shipped model"),
        (fit, "fit", "fit a plan to the shipped model: fewer steps for the same error"),
        (info, "info", "versions, devices, and which kernel serves which op"),
        (bench, "bench", "measure the solver step and the sampler here, in about a minute"),
    ):
        module.add_arguments(commands.add_parser(name, help=text, description=text))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Bad arguments print one line and return 2."""
    arguments = parser().parse_args(argv)
    run = {"sample": sample.run, "fit": fit.run, "info": info.run, "bench": bench.run}[arguments.command]
    if arguments.command == "sample" and arguments.compare:
        run = compare.run
    try:
        return run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"fastdiff {arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
