"""The command: fastdiff sample | fit | info | bench | comfyui."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import __version__
from .commands import bench, comfyui, compare, fit, info, job, sample, sample_tokens

INTERRUPTED, NOBODY_READS = 130, 141  # 128 and the number of the signal, as a shell would say


def parser() -> argparse.ArgumentParser:
    """The whole command line; each command's arguments stand beside its code."""
    top = argparse.ArgumentParser(prog="fastdiff", description="Samples from diffusion models in few, cheap steps.")
    top.add_argument("--version", action="version", version=f"fastdiff {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    for module, name, text in (
        (sample, "sample", "draw handwritten digits, or text, with the shipped models"),
        (fit, "fit", "fit a plan to a shipped network or a pipeline: fewer steps for the same error"),
        (info, "info", "versions, devices, and which kernel serves which op"),
        (bench, "bench", "measure the solver step and the sampler here, in about a minute"),
        (comfyui, "comfyui", "install the nodes into ComfyUI, or list them"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        module.add_arguments(command)
        if module is sample:
            sample_tokens.add_arguments(command)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. What goes wrong is one line on standard error."""
    arguments = parser().parse_args(argv)
    commands = {"sample": sample, "fit": fit, "info": info, "bench": bench, "comfyui": comfyui}
    run = commands[arguments.command].run
    if arguments.command == "sample" and arguments.model != sample.DIGITS:
        run = sample_tokens.run
    elif arguments.command == "sample" and arguments.compare:
        run = compare.run
    elif arguments.command == "sample" and job.is_wanted(arguments):
        run = job.run
    try:
        status, words = run(arguments), None
        sys.stdout.flush()
    except KeyboardInterrupt:
        status, words = INTERRUPTED, "interrupted"
    except BrokenPipeError:
        status, words = NOBODY_READS, None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        status, words = 2, str(error)
    if words is not None:  # here, where the error is gone and with it a bar that was on the line
        print(f"fastdiff {arguments.command}: {words}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
