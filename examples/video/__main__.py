"""`python -m examples.video`: train for a few minutes; new videos, and the rest of videos whose beginning is known."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

import fastdiff as fd

from . import scores
from .data import videos
from .picture import draw
from .training import SCHEDULE, trained

EVALUATIONS = (4, 6, 8, 10, 20)
GIVEN = 2  # frames that are known where the rest is predicted
Model = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[Tensor], Tensor]


def loop(model: Model, scheduler: object, n: int) -> Draw:
    """The loop of diffusers' pipelines, with the scheduler that a pipeline of videos brings."""

    def draw(noise: Tensor) -> Tensor:
        scheduler.set_timesteps(n)
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, (t / 1000).expand(len(x))), t, x, return_dict=False)[0]
        return x

    return draw


def samplers(model: Model, n: int) -> Iterator[tuple[str, Draw]]:
    """LTX's and Wan's, and fastdiff's default, at n evaluations."""
    yield "FlowMatchEuler (LTX)", loop(model, FlowMatchEulerDiscreteScheduler(), n)
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    yield "UniPC (Wan)", loop(model, unipc, n)
    plan = fd.plan(None, SCHEDULE, n)
    yield "fastdiff", lambda noise: fd.sample(model, plan, noise)


def predicted(model: Model, known: Tensor, noise: Tensor, n: int) -> Iterator[tuple[str, Tensor]]:
    """The frames after the first GIVEN ones, by replacing those in every state, and by an observation of them."""
    mask = torch.ones(1, 1, known.shape[2], 1, 1)
    mask[:, :, :GIVEN] = 0
    plan = fd.plan(None, SCHEDULE, n)
    yield "first frames by mask", fd.sample(model, plan, noise, image=known, mask=mask)
    jumps = fd.plan("ddim", SCHEDULE, max(2, n // 3), jumps=(2, 3))
    yield "by mask, each step three times", fd.sample(model, jumps, noise, image=known, mask=mask)
    seen = fd.Observation(lambda x: x[:, :, :GIVEN], known[:, :, :GIVEN], noise=0.05)
    low = fd.plan("dpm_solver_2m", SCHEDULE, n)
    yield "by an observation", fd.sample(model, low, noise, observation=seen)


def table(head: str, rows: Iterator[str]) -> None:
    """Each line as soon as it is known."""
    print(f"\n| {head} |\n" + "|---" * len(head.split("|")) + "|")
    for row in rows:
        print(f"| {row} |", flush=True)


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="seconds: a network that has learnt next to nothing")
    options.add_argument("--out", type=Path, help="a folder for video.png and video.gif")
    asked = options.parse_args(argv)
    compare(trained(2 if asked.quick else 5000), asked.quick, asked.out)


def compare(model: Model, quick: bool = False, out: Path | None = None) -> None:
    """The tables, and the pictures."""
    count, counts = (2, EVALUATIONS[:1]) if quick else (32, EVALUATIONS)
    generator = torch.Generator().manual_seed(1)
    truth = videos(count, generator)
    noise = fd.noise.randn(truth.x.shape, range(count))
    with torch.no_grad():
        fine = fd.sample(model, fd.plan("midpoint", SCHEDULE, 4 if quick else 40, grid="quadratic"), noise)
        shown: dict[str, Tensor] = {"true": truth.x, "converged": fine}

        def made() -> Iterator[str]:
            yield f"true videos |  |  | {scores.unsteady(truth.x):.3f}"
            yield f"converged |  |  | {scores.unsteady(fine):.3f}"
            for n in counts:
                for name, draw_one in samplers(model, n):
                    x = draw_one(noise)
                    shown.update({f"{name}, {n}": x} if n == counts[len(counts) // 2] else {})
                    yield f"{name} | {n} | {scores.apart(x, fine):.4f} | {scores.unsteady(x):.3f}"

        table("sampler | evaluations | from the converged video | change of velocity", made())

        def continued() -> Iterator[str]:
            for name, x in predicted(model, truth.x, noise, 6 if quick else 24):
                shown[name] = x
                rest, right = x[:, :, GIVEN - 1 :], truth.x[:, :, GIVEN - 1 :]
                yield f"{name} | {scores.velocity_error(rest, right):.3f} | {scores.apart(rest, right):.3f}"

        table("prediction | error of velocity | from the true frames", continued())
    if out:
        draw(shown, out)


if __name__ == "__main__":
    main()
