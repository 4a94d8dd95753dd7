"""python -m bench.scheduler_parity [name ...]: diffusers' schedulers beside fastdiff's, bench/results/schedulers.md.

Each option of a class is set to each of its values, one at a time, and runs of 1, 2 and 10 steps are made in float64
with the same noise on both sides. What a step costs the host is measured on a latent of 180 numbers, without the model.
"""

from __future__ import annotations

import inspect
import sys
import time
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers.schedulers
import torch

import fastdiff.schedulers

from .machine import processor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from direct_loops import LOOPS, image
from in_double import in_double
from scheduler_loops import LMSFromAnyStep, loop
from scheduler_protocols import PROTOCOLS, walk

RESULTS = Path(__file__).parent / "results" / "schedulers.md"
STEPS, TIMED_STEPS, RUNS = (1, 2, 10), 20, 15
SAME = 1e-9  # relative to the largest value of the run
TOKENS = ("Amused", "BlockRefinement", "DiscreteDDIM", "EntropyBound", "VQDiffusion")
METHODS = ("scale_model_input", "step", "step_pred", "step_correct", "add_noise_to_input", "undo_step")
FIXED = {
    **{name: protocol.options or {} for name, protocol in PROTOCOLS.items()},
    "PNDMScheduler": {"skip_prk_steps": True},
    "DPMSolverSDEScheduler": {"noise_sampler_seed": 4},
}
VALUES = {
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "algorithm_type": (
        "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "data_prediction", "noise_prediction"
    ),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("linear", "log_linear"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "solver_order": (1, 2, 3), "predictor_order": (1, 3, 4), "corrector_order": (1, 3, 4),
    "eta": (0.0, 0.5, 1.0), "snr": (0.3,), "s_churn": (0.0,), "scaler": (0.5, 2.0), "shift": (3.0,),
    "sigma_data": (0.7,), "clip_sample_range": (2.0,), "snr_shift_scale": (1.0,), "flow_shift": (3.0,),
    "sigma_max": (50.0,), "beta_max": (10.0,), "timestep_scaling": (3.0,), "lambda_min_clipped": (-5.1,),
}  # fmt: skip
BESIDE = {  # what an option needs next to it
    "thresholding": {"sample_max_value": 1.5},
    "use_flow_sigmas": {"prediction_type": "flow_prediction"},
    "rescale_betas_zero_snr": {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "use_dynamic_shifting": None,  # asks for mu
    "invert_sigmas": None,  # its last level is 1, where alpha = 0
}
Outcome = tuple[str, float]


def classes() -> list[str]:
    """The names of all of diffusers' schedulers."""
    found = (getattr(diffusers.schedulers, name) for name in dir(diffusers.schedulers) if name.endswith("Scheduler"))
    return sorted({c.__name__ for c in found if inspect.isclass(c) and not c.__name__.startswith("Flax")})


def options_of(kind: type) -> Iterator[dict]:
    """The defaults; then every value of each option, alone."""
    yield {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        beside = BESIDE.get(name, {})
        choices = typing.get_args(parameter.annotation)
        values = VALUES.get(name) or (choices if all(isinstance(v, str) for v in choices) else ())
        if isinstance(parameter.default, bool):
            values = (not parameter.default,)
        for value in values if beside is not None else ():
            if value != parameter.default:
                yield {name: value, **beside}


def run(name: str, scheduler: object, n: int) -> tuple[torch.Tensor, float]:
    """(the image, the largest value on the way) in float64."""
    if name in LOOPS:
        made = image(name, scheduler, n, torch.float64, (3, 2) if name.startswith("RePaint") else ())
        return made[0], made[2]
    if name in PROTOCOLS:
        made = walk(name, scheduler, n, dtype=torch.float64)
        return made, max(1.0, float(made.abs().max()))
    scheduler.set_timesteps(n)
    return loop(scheduler, dtype=torch.float64)


def attempt(make: Callable[[], object], name: str, n: int) -> tuple[torch.Tensor, float] | str:
    """A run, or why it fails."""
    try:
        found = run(name, make(), n)
    except Exception as error:  # whatever it is, it goes into the table
        return type(error).__name__
    return found if found[0].isfinite().all() else "NaN"


def compare(name: str, kind: type, options: dict, n: int) -> Outcome:
    """What becomes of a case, and how far apart the images are."""
    options = {**FIXED.get(name, {}), **options}
    peer = LMSFromAnyStep if name == "LMSDiscreteScheduler" else getattr(diffusers.schedulers, name)
    with in_double():
        ours, theirs = (attempt(lambda k=k: k(**options), name, n) for k in (kind, peer))
    if isinstance(theirs, str):
        return ("both refuse" if isinstance(ours, str) else f"diffusers: {theirs}"), 0.0
    if isinstance(ours, str):
        return f"fastdiff: {ours}", 0.0
    gap = float((ours[0] - theirs[0]).abs().max()) / theirs[1]
    return ("same" if gap <= SAME else "differs"), gap


def microseconds(name: str) -> list[float]:
    """What the host spends in a scheduler's methods for one step: fastdiff's and diffusers', best of many, in turns."""
    best, spent = [float("inf")] * 2, Counter()
    both = [getattr(library, name)(**FIXED.get(name, {})) for library in (fastdiff.schedulers, diffusers.schedulers)]
    for scheduler in both:
        for method in METHODS:
            if hasattr(scheduler, method):
                setattr(scheduler, method, timed(getattr(scheduler, method), spent))
    for _ in range(RUNS):
        for i, scheduler in enumerate(both):
            spent.clear()
            run(name, scheduler, TIMED_STEPS)
            best[i] = min(best[i], spent["seconds"] / len(scheduler.timesteps) * 1e6)
    return best


def timed(method: Callable, spent: Counter) -> Callable:
    def call(*arguments: object, **options: object) -> object:
        began = time.perf_counter()
        made = method(*arguments, **options)
        spent["seconds"] += time.perf_counter() - began
        return made

    return call


def row(name: str) -> str:
    """A line of the table."""
    if name not in fastdiff.schedulers.__all__:
        reason = "tokens: see token_schedulers_cpu.md" if name.startswith(TOKENS) else "no: part of one decoder"
        return f"| {name} | {reason} |" + " |" * 7
    kind, found, apart = getattr(fastdiff.schedulers, name), Counter(), []
    worst = 0.0
    for options in options_of(getattr(diffusers.schedulers, name)):
        for n in STEPS:
            what, gap = compare(name, kind, options, n)
            found[what] += 1
            if what == "same":
                worst = max(worst, gap)
            elif what != "both refuse":
                case = ", ".join(f"{k}={v}" for k, v in options.items()) or "defaults"
                apart.append(f"{case}, {n} steps: {what}")
    print(name, dict(found), *apart, sep="\n  ", file=sys.stderr, flush=True)
    fails = sum(count for what, count in found.items() if what.startswith("diffusers"))
    ours, theirs = microseconds(name)
    cells = [
        f"{sum(found.values())}",
        f"{worst:.0e}",
        f"{found['differs'] or ''}",
        f"{fails or ''}",
    ]
    return f"| {name} | yes | {' | '.join(cells)} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} |"


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    head = "class | fastdiff | cases | worst | differs | diffusers fails | fastdiff us | diffusers us | times"
    lines = [row(name) for name in names or classes()]
    if not names:
        text = (
            f"# diffusers' schedulers\n\nOn {processor()}, torch {torch.__version__}, diffusers"
            f" {diffusers.__version__}, one thread.\n{__doc__.partition(chr(10))[2]}\n"
            "Cases: those that both refuse are counted. Worst: the largest difference, relative to the largest value of"
            " the run, of the cases that agree to 1e-9."
            " Where\nthe images differ, or diffusers raises or gives NaN, it is meant: docs/deviations.md says why.\n\n"
        )
        RESULTS.write_text("\n".join([text + f"| {head} |", "|---" * 9 + "|", *lines, ""]))
    print(f"| {head} |", *lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
