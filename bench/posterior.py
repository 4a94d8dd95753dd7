"""python -m bench.posterior: samples given an observation, beside deepinv's and azula's, by calls of the network.

Every method has the same exact network, the same measurements and as many calls; gradients through it are counted
apart. Of what is left open (schedule, sampler, strength) the best at 20 calls is taken, for each problem.
Only that is measured which bench/results/posterior.json does not have yet; bench.posterior_report writes the page.
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
MOST = 200  # calls, of particles alone
SAMPLES = 1024
TUNED_AT = 20
REPEATS = 8
MORE_REPEATS = 32  # of the mixture, whose modes get other shares in each run
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


def measure(problem: Problem, method: posterior_ours.Method, calls: int, samples: int, repeats: int = 1) -> dict:
    """The mean error of runs of so many samples; "used": the calls made, "gradients": those through the network."""
    errors = []
    for seed in range(repeats):
        network = Network(problem.mean)
        torch.manual_seed(seed)
        x0 = method(problem, network, posterior_ours.unit_noise(samples, len(problem.covariance), seed), calls)
        errors.append(problem.error(x0) if network.calls <= calls else math.inf)
    return {"error": sum(errors) / repeats, "used": network.calls, "gradients": network.gradients}


def repeats_of(problem: Problem, name: str) -> int:
    """Particles depend on one another, so a run is one draw of a random error."""
    if "particles" not in name:
        return 1
    return MORE_REPEATS if problem.name == "mixture" else REPEATS


def best(problem: Problem, name: str, kinds: list[posterior_ours.Method], samples: int) -> posterior_ours.Method:
    """The setting of the least error at TUNED_AT calls."""
    if len(kinds) == 1:
        return kinds[0]
    return min(
        kinds, key=lambda method: measure(problem, method, TUNED_AT, samples, repeats_of(problem, name))["error"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--calls", type=int, nargs="+", help="instead of those of the page")
    parser.add_argument("--only", default="", help="methods whose name has this")
    parser.add_argument("--store", type=Path, default=STORE)
    given = parser.parse_args()
    store, methods = Store(given.store), settings()
    for problem in problems(given.samples):
        if not store.has({"problem": problem.name, "method": "floor"}):
            store.add({"problem": problem.name, "method": "floor"}, [{"error": problem.floor}])
        for name, kinds in methods.items():
            asked = given.calls or (*CALLS, *([MOST] if "particles" in name else []))
            keys = [{"problem": problem.name, "method": name, "calls": calls} for calls in asked]
            missing = [key for key in keys if not store.has(key)] if given.only in name else []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peers' own
                method = best(problem, name, kinds, given.samples) if missing else None
                for key in missing:
                    row = measure(problem, method, key["calls"], given.samples, repeats_of(problem, name))
                    store.add(key, [row if math.isfinite(row["error"]) else {**row, "error": None}])
                    print(key, row, flush=True)


if __name__ == "__main__":
    main()
