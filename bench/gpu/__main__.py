"""python -m bench.gpu --out DIR: build, test on the device, time everything; JSON and markdown after each stage.

Stages run in order of worth, each with a share of the minutes left. Run again with the same --out, it goes on where it
was cut off, if the source, the machine and the versions are the same; with --minutes 0 it writes the tables only.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from fastdiff.files import write

from .identity import file_name, identity
from .process import DONE, forks_reach_gpu, load
from .report import markdown, summary, table_to_paste
from .results import Results
from .stages import STAGES, run_stage

LEAST = 3.0  # seconds that a stage is begun with


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small case of everything, for checking the script")
    parser.add_argument("--minutes", type=float, default=9, help="time for everything (default: %(default)s)")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--only", choices=names, action="append", metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--skip", choices=names, action="append", metavar="STAGE", default=[], help="leave stages out")
    parser.add_argument("--again", action="store_true", help="forget what the folder has of this source and machine")
    chosen = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * chosen.minutes
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --quick exercises this script without one")
    if chosen.device == "cpu":
        load("diffusers")  # which might touch a GPU
    described = identity(chosen.device, chosen.quick)
    results = Results(chosen.out / f"{file_name(described)}.json", described, again=chosen.again)
    fresh = chosen.device == "cuda" and not forks_reach_gpu(results)
    for stage in STAGES:
        left = deadline - time.monotonic()
        unwanted = stage.name in chosen.skip or (chosen.only and stage.name not in chosen.only)
        if unwanted or left < LEAST or results.stages.get(stage.name, {}).get("state") == DONE:
            continue
        began = time.monotonic()
        state = run_stage(stage, chosen.device, chosen.quick, results, stage.share * left, fresh=fresh)
        results.end_stage(stage.name, state, time.monotonic() - began)
        write_page(results)
        print(f"{stage.name}: {state}", flush=True)
    print(f"\n{summary(results)}\n\n{table_to_paste(results)}\n\n{write_page(results)}")
    return 0


def write_page(results: Results) -> Path:
    """The tables, beside the JSON."""
    page = results.path.with_suffix(".md")
    write(page, lambda partial: partial.write_text(markdown(results)))
    return page


if __name__ == "__main__":
    sys.exit(main())
