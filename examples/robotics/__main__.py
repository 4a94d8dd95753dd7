"""`python -m examples.robotics [--quick] [--out FOLDER] [--demonstrations FILE.npz]`: push a T to its goal.

A scripted expert shows it, a diffusion policy imitates it in gym-pusht, by lerobot's own loop and by fastdiff's plans.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.lerobot import accelerate_policy

from .expert import Simulator, episode, make_env
from .policy import HORIZON, REACH, Denoiser, Policy
from .rollouts import Draw, Result, roll_out

FIRST = 10_000  # the seed of the first demonstration; rollouts start from 0 on
HEAD = "| sampler | evaluations | success | greatest coverage | ms for the chunks of all |\n|---|---|---|---|---|"

CHUNK_HEAD = "| sampler | evaluations | pixels from the converged chunk |\n|---|---|---|"


def demonstrations(count: int, file: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Those of `count` episodes that succeeded, as (observations, actions); kept in the file."""
    if file is not None and file.exists():
        kept = np.load(file)
        cut = np.cumsum(kept["n"])[:-1]
        return list(zip(np.split(kept["o"], cut), np.split(kept["a"], cut), strict=True))
    env, simulator = make_env(), Simulator()
    runs = [episode(env, simulator, FIRST + k) for k in range(count)]
    shown = [(seen, actions) for seen, actions, coverage in runs if coverage > 0.95]
    if file is not None:
        columns = {"o": np.concatenate([s for s, _ in shown]), "a": np.concatenate([a for _, a in shown])}
        np.savez(file, n=[len(s) for s, _ in shown], **columns)
    return shown


def samplers(policy: Policy, quick: bool) -> Iterator[tuple[str, int, Draw]]:
    """(name, evaluations, how chunks are drawn)."""

    def own(told: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        return policy.conditional_sample(len(noise), told, generator, noise)

    for name, counts in (("DDPM", (100,)), ("DDIM", (100, 10, 8, 6, 4, 2))):
        for steps in counts if not quick else counts[-1:]:
            policy.use(name, min(steps, 10) if quick else steps)
            yield name, policy.num_inference_steps, own
    for steps in (10, 8, 6, 4) if not quick else (4,):
        handle = accelerate_policy(policy, steps)  # the one line
        yield "**fastdiff**", steps, own
        handle.undo()

    flow = fd.Schedule.flow()
    velocity = Denoiser(flow)
    for steps in (10, 4) if not quick else ():
        for name, plan in (
            ("Euler, flow", fd.plan("ddim", flow, steps, grid="time")),
            ("**fastdiff**, flow", fd.plan(None, flow, steps)),
        ):
            yield name, steps, lambda told, noise, _, plan=plan: fd.sample(velocity, plan, noise, global_cond=told)
    if not quick:
        plan = fd.plan("dpmpp_2m", policy.unet.schedule, 25, prediction="epsilon")
        options = {"max_rounds": 6}  # the deadline: no more than so many calls after another
        yield (
            "in time, 25 rows",
            6,
            lambda told, noise, _: fd.sample_in_time(policy.unet, plan, noise, global_cond=told, **options)[0],
        )


def apart(policy: Policy, draw: Draw, seen: np.ndarray) -> float:
    """Pixels (root mean square) between chunks for observations [N, 5] and where the run converges from their noise."""
    told = policy.look(torch.as_tensor(seen[:, None].repeat(2, 1), dtype=torch.float32))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(len(seen), HORIZON, 2, generator=generator)
    plan = fd.plan("dpmpp_2m", policy.unet.schedule, 400, grid="logsnr", prediction="epsilon")
    converged = fd.sample(policy.unet, plan, noise, global_cond=told)
    return REACH * float((draw(told, noise, generator) - converged).square().mean().sqrt())


def line(name: str, evaluations: int, result: Result) -> str:
    """A row of the table, with standard errors."""
    n = len(result.coverage) ** 0.5
    parts = [f"{100 * v.mean():.0f} ± {100 * v.std() / n:.0f} %" for v in (result.success, result.coverage)]
    return f"| {name} | {evaluations} | {parts[0]} | {parts[1]} | {result.ms:.1f} |"


def main(argv: list[str] | None = None) -> list[tuple[str, int, Result]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a handful of episodes")
    parser.add_argument("--out", type=Path, help="a folder for the picture and the table")
    parser.add_argument("--demonstrations", type=Path, help="an .npz file to keep them in")
    asked = parser.parse_args(argv)

    shown = demonstrations(1 if asked.quick else 350, asked.demonstrations)
    policy, count = Policy(shown), 1 if asked.quick else 48
    steps = sum(len(actions) for _, actions in shown)
    lines = [f"{len(shown)} demonstrations of {steps} steps, {count} episodes from new starts.\n", HEAD]
    print(*lines, sep="\n")
    found = []
    for name, evaluations, draw in samplers(policy, asked.quick):
        found.append((name, evaluations, roll_out(policy, draw, count)))
        lines.append(line(*found[-1]))
        print(lines[-1], flush=True)
    lines += ["", CHUNK_HEAD]
    seen = np.concatenate([seen for seen, _ in shown])[:: max(1, steps // 200)]
    for name, evaluations, draw in samplers(policy, asked.quick):
        lines.append(f"| {name} | {evaluations} | {apart(policy, draw, seen):.2f} |")
    print(*lines[-len(found) - 2 :], sep="\n")
    if asked.out:
        from .picture import save

        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "example_robotics.md").write_text("\n".join(lines) + "\n")
        save(found, asked.out / "example_robotics.png")
    return found


if __name__ == "__main__":
    main()
