"""`python -m examples.robotics [--quick] [--out FOLDER] [--demonstrations FILE.npz]`: push a T to its goal.

A scripted expert shows it; a diffusion policy, trained in minutes, imitates it in gym-pusht, by lerobot's own loop and
by fastdiff's plans.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .demonstrations import demonstrations, mirrored, windows
from .network import View
from .policy import SCHEDULE, Policy
from .rollouts import Result, roll_out
from .samplers import FLOW, Converged, milliseconds, samplers
from .training import trained

HEAD = (
    "| sampler | evaluations | success | greatest coverage | pixels from the converged chunk | ms a chunk |\n"
    "|---|---|---|---|---|---|"
)
SHOWN, STEPS, EPISODES = 600, 9000, 256  # episodes of the expert, of training, of each sampler


def line(name: str, evaluations: int, result: Result, apart: float, ms: float) -> str:
    """A row of the table, with standard errors."""
    n = len(result.coverage) ** 0.5
    parts = [f"{100 * v.mean():.0f} ± {100 * v.std() / n:.0f} %" for v in (result.success, result.coverage)]
    return f"| {name} | {evaluations} | {parts[0]} | {parts[1]} | {apart:.2f} | {ms:.1f} |"


def main(argv: list[str] | None = None) -> list[tuple[str, int, Result]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one episode by a policy that has hardly learnt")
    parser.add_argument("--out", type=Path, help="a folder for the picture and the table")
    parser.add_argument("--demonstrations", type=Path, help="an .npz file to keep them in")
    parser.add_argument("--steps", type=int, help="of training")
    asked = parser.parse_args(argv)
    quick, steps = asked.quick, asked.steps or (20 if asked.quick else STEPS)

    shown = demonstrations(1 if quick else SHOWN, asked.demonstrations)
    told, wanted = windows([*shown, *(mirrored(*episode) for episode in shown)])
    reach = wanted.abs().amax((0, 2))[:, None]
    denoiser = trained(told, wanted / reach, steps)
    policy = Policy(View(denoiser, SCHEDULE), reach)
    velocity = None if quick else View(denoiser, FLOW)

    taken = sum(len(actions) for _, actions in shown)
    count = 1 if quick else EPISODES
    lines = [f"{len(shown)} demonstrations of {taken} steps, {count} episodes from new starts.\n", HEAD]
    print(*lines, sep="\n")
    converged = Converged(policy, velocity, told[:: max(1, len(told) // 200)], 20 if quick else 400)
    found = []
    for sampler in samplers(policy, velocity, quick):
        ms = milliseconds(sampler, told, converged.noise, 1 if quick else 15)
        found.append((sampler.name, sampler.evaluations, roll_out(sampler.draw, reach, count)))
        lines.append(line(*found[-1], converged.apart(sampler), ms))
        print(lines[-1], flush=True)
    if asked.out:
        from .picture import save

        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "example_robotics.md").write_text("\n".join(lines) + "\n")
        save(found, asked.out / "example_robotics.png")
    return found


if __name__ == "__main__":
    main()
