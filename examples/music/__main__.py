"""`python -m examples.music --out FOLDER`: chorales drawn by few evaluations, and voices set to a soprano of Bach's.

Trains a small network for minutes, compares the default plan with DDIM and DPM-Solver++, and writes a table, a picture
of the rolls, MIDI and sound. --quick is a test's size, on made-up cadences, without music21.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import fastdiff as fd

from .corpus import STEPS, cadences, chorales, windows
from .network import SCHEDULE, Chorale, decode, encode, train
from .scores import scores
from .sound import write_midi, write_wave

EVALUATIONS = (4, 6, 8, 10, 20)
COLUMNS = ("pitch classes", "in triads", "onsets", "leap", "crossed")
COLOURS = ("tab:red", "tab:orange", "tab:green", "tab:blue")


def plans(count: int) -> dict[str, fd.Plan]:
    """The default beside what users take."""
    given = {"prediction": "sample"}
    return {
        "default": fd.plan(None, SCHEDULE, count, **given),
        "DDIM": fd.plan("ddim", SCHEDULE, count, **given),  # Euler's steps, on a flow
        "DPM-Solver++ 2M": fd.plan("dpmpp_2m", SCHEDULE, count, **given),
    }


def table(model: Chorale, noise: Tensor, corpus: Tensor, converged_at: int = 100) -> list[str]:
    """Lines of markdown. differ: notes other than the converged run's."""
    lines = ["| plan | NFE | distance | differ | " + " | ".join(COLUMNS) + " |", "| --- " * (4 + len(COLUMNS)) + "|"]

    def line(name: str, count: object, distance: str, differ: str, voices: Tensor) -> None:
        found = scores(voices, corpus)
        cells = [name, str(count), distance, differ, *(f"{found[column]:.3f}" for column in COLUMNS)]
        lines.append(f"| {' | '.join(cells)} |")

    line("the corpus", "", "", "", corpus)
    fine = fd.plan("adams_moulton", SCHEDULE, converged_at, grid="quadratic", prediction="sample")
    converged = draw(model, fine, noise)
    line("converged", converged_at, "0", "0", decode(converged))
    for count in EVALUATIONS:
        for name, plan in plans(count).items():
            x = draw(model, plan, noise)
            distance = (x - converged).square().mean((1, 2)).sqrt().median() / converged.square().mean().sqrt()
            differ = (decode(x) != decode(converged)).double().mean()
            line(name, count, f"{distance:.3f}", f"{differ:.3f}", decode(x))
    return lines


def draw(model: Chorale, plan: fd.Plan, noise: Tensor, **options: Tensor) -> Tensor:
    """x0, a tensor."""
    x = fd.sample(model, plan, noise, **options)
    assert isinstance(x, Tensor)
    return x


def harmonise(model: Chorale, plan: fd.Plan, soprano: Tensor, noise: Tensor) -> Tensor:
    """Voices [B, 4, T] whose first is the soprano of [B, 4, T] and the others drawn: infilling by a mask."""
    image = encode(soprano)
    mask = torch.ones_like(image)
    mask[:, : image.shape[1] // 4] = 0
    return decode(draw(model, plan, noise, image=image, mask=mask))


def picture(path: Path, rolls: dict[str, np.ndarray]) -> None:
    """A roll for each title, a colour for each voice."""
    figure, axes = plt.subplots(len(rolls), 1, figsize=(7, 1.7 * len(rolls)), sharex=True, layout="constrained")
    for ax, (title, voices) in zip(axes, rolls.items(), strict=True):
        for line, colour in zip(voices, COLOURS, strict=True):
            ax.hlines(line, np.arange(STEPS) / 2, np.arange(1, STEPS + 1) / 2, colors=colour, linewidth=3)
        ax.set_title(title, fontsize=9)
        ax.set_ylabel("MIDI pitch", fontsize=8)
    axes[-1].set_xlabel("beats")
    figure.savefig(path, dpi=80)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.music", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the table, picture, MIDI and sound")
    parser.add_argument("--quick", action="store_true", help="a small run of made-up cadences, in seconds")
    parser.add_argument("--chorales", type=int, default=80)
    parser.add_argument("--steps", type=int, default=800, help="of training")
    given = parser.parse_args(arguments)
    pieces = cadences(40) if given.quick else chorales(given.chorales)
    held_out, pieces = pieces[: len(pieces) // 10], pieces[len(pieces) // 10 :]
    corpus, unseen = (torch.from_numpy(windows(part)) for part in (pieces, held_out))
    model = train(corpus, 5, 4, 16) if given.quick else train(corpus, given.steps)
    count = 2 if given.quick else 64
    noise = torch.randn(count, *encode(corpus[:1]).shape[1:], generator=torch.Generator().manual_seed(1))
    some = corpus[torch.randperm(len(corpus))[: 50 if given.quick else 1000]]
    lines = table(model, noise, some, 20 if given.quick else 100)
    print("\n".join(lines))
    if given.out is None:
        return
    plan = plans(10)["default"]
    soprano = unseen[:1]
    rolls = {
        "drawn with 10 evaluations": decode(draw(model, plan, noise[:1]))[0].numpy(),
        "Bach, not in the training": soprano[0].numpy(),
        "his soprano, the lower voices drawn": harmonise(model, plan, soprano, noise[:1])[0].numpy(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "music.md").write_text("\n".join(lines) + "\n")
    picture(given.out / "music.png", rolls)
    for name, voices in zip(("drawn", "bach", "harmonised"), rolls.values(), strict=True):
        write_midi(given.out / f"{name}.mid", voices)
        write_wave(given.out / f"{name}.wav", voices)


if __name__ == "__main__":
    main()
