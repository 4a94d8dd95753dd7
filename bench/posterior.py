"""python -m bench.posterior: samples given an observation, beside deepinv's and azula's, by calls of the network.

Every method has the same exact network, the same measurements and as many calls; gradients through it are counted
apart. Of what a peer leaves open (schedule, sampler, strength) the best is taken, for each problem and number of calls.
Measured again only what bench/results/posterior.json does not have; bench.posterior_report writes the page.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import warnings
from pathlib import Path

import torch

from . import posterior_azula, posterior_deepinv, posterior_ours
from .posterior_problems import Network, Problem, problems
from .store import Store

STORE = Path(__file__).parent / "results" / "posterior.json"
CALLS = (10, 20, 50, 100)
SAMPLES = 1024
PEERS = {"azula": posterior_azula, "deepinv": posterior_deepinv}


def settings() -> dict[str, list[posterior_ours.Method]]:
    """By name, the settings of which the best counts; of the peers that are installed."""
    found = posterior_ours.methods()
    for name, module in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: its rows are left out")
        else:
            found |= module.methods()
    return found


def measure(problem: Problem, kinds: list[posterior_ours.Method], calls: int, samples: int) -> dict:
    """The least error of all settings, with the calls and gradients of that one."""
    noise = posterior_ours.unit_noise(samples, len(problem.covariance))
    rows = []
    for method in kinds:
        network = Network(problem.mean)
        torch.manual_seed(0)
        x0 = method(problem, network, noise, calls)
        row = {"error": problem.error(x0), "used": network.calls, "gradients": network.gradients}
        if network.calls <= calls:
            rows.append(row)
    best = min(rows, key=lambda row: row["error"], default={"error": math.inf, "used": calls, "gradients": 0})
    return best if math.isfinite(best["error"]) else {**best, "error": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--only", default="", help="methods whose name has this")
    parser.add_argument("--store", type=Path, default=STORE)
    given = parser.parse_args()
    store, methods = Store(given.store), settings()
    for problem in problems(given.samples):
        if not store.has({"problem": problem.name, "method": "floor"}):
            store.add({"problem": problem.name, "method": "floor"}, [{"error": problem.floor}])
        for name, kinds in methods.items():
            for calls in given.calls:
                key = {"problem": problem.name, "method": name, "calls": calls}
                if given.only in name and not store.has(key):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # peers' own
                        store.add(key, [measure(problem, kinds, calls, given.samples)])
                    print(key, store.select(**key), flush=True)


if __name__ == "__main__":
    main()
