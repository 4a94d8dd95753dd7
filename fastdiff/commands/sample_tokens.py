"""fastdiff sample --model text | digit-tokens: draw tokens with a shipped network."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import demo, tokens
from ..arguments import finite, whole
from ..tokens.rules.catalogue import RULES
from . import pictures
from .output import Output
from .sample import BATCH, DIGITS, JOB_OPTIONS, SEEDS, labels_of, refuse_beside, refuse_many

STEPS = {"text": 64, "digit-tokens": 16}
TEMPERATURES = {"text": 0.8, "digit-tokens": 1.0}  # text at 1 is hard to read
TEXT_SEEDS = range(4)
PIECES = ("prompt", "length", "style")  # what only text has


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff sample` that draw tokens."""
    group = parser.add_argument_group("tokens (--model text and --model digit-tokens)")
    group.add_argument("--rule", help="which tokens a step fills in, by name: random, confidence, threshold, ...")
    group.add_argument(
        "--temperature", type=temperature, help="0 takes the most probable token (default: 0.8 for text, 1 for digits)"
    )
    group.add_argument("--prompt", metavar="TEXT", help="how the text begins; each _ is a token to fill in")
    group.add_argument("--length", type=whole(1), help="tokens of the text, at most 128 (default: 128)")
    group.add_argument("--style", help="law, history, wisdom, prophets, gospels or letters (default: any)")


def temperature(text: str) -> float:
    """A finite number >= 0."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Draw, write, and say in one line what it took."""
    _refuse(arguments)
    net = demo.token_network(arguments.model)
    plan, seeds = _plan(net, arguments), list(_seeds(arguments))
    labels = _labels(net, arguments, seeds)
    start = _start(net, arguments).expand(len(seeds), -1)
    out = Output("--out", arguments.out or _default_path(arguments), binary=_is_picture(arguments))
    began = time.perf_counter()
    x, nfe = draw(net, plan, start, seeds, labels, arguments.guidance, temperature=_temperature(arguments))
    seconds = time.perf_counter() - began
    out.save(_saved(net, x, seeds, labels, arguments))
    out.say(f"{len(seeds)} samples, {nfe} NFE, {seconds:.2f} s -> {out}")
    return 0


def draw(
    net: demo.TokenNetwork,
    plan: tokens.Plan,
    start: Tensor,
    seeds: list[int],
    labels: Tensor,
    guidance: float | None = None,
    **options: Any,
) -> tuple[Tensor, int]:
    """The tokens of these seeds, in batches, and the evaluations of one; each sample depends on its seed alone."""
    if guidance is not None:
        options |= {"guidance": guidance, "uncond": net.uncond()}
    parts, most = [], 0
    for first in range(0, len(seeds), BATCH):
        part = slice(first, first + BATCH)
        options |= {"seeds": seeds[part], "y": labels[part], "return_evaluations": True}
        x, evaluations = tokens.sample(net.model, plan, start[part], net.mask_id, **options)
        parts.append(x)
        most = max(most, evaluations)
    return torch.cat(parts), most


def _refuse(arguments: argparse.Namespace) -> None:
    model = f"--model {arguments.model}"
    others = ("solver", "grid", "trajectory", "compare", "each", "trace", *JOB_OPTIONS)
    refuse_beside(model, arguments, *others, why=f"for --model {DIGITS} alone")
    refuse_many(arguments)
    if arguments.model == "text":
        refuse_beside(model, arguments, "label", "format", why="whose classes are --style and whose result is text")
        if arguments.guidance is not None and arguments.style is None:
            raise ValueError("--guidance: no effect without --style")
    else:
        refuse_beside(model, arguments, *PIECES, why="which draws no text")
    if arguments.plan:
        refuse_beside("--plan", arguments, "steps", "rule", why="which has its own steps and rule")


def _plan(net: demo.TokenNetwork, arguments: argparse.Namespace) -> tokens.Plan:
    """The sizes fitted to the network, unless another rule is asked for or more steps than it has tokens."""
    if arguments.plan:
        return tokens.Plan.load(arguments.plan)
    rule = arguments.rule or "random"
    adaptive = rule in RULES and RULES[rule].adaptive
    steps = arguments.steps if arguments.steps or adaptive else STEPS[arguments.model]
    if rule == "random" and steps <= net.length:
        return net.plan(steps)
    return tokens.plan(rule, steps, sizes="uniform" if adaptive else "cosine")


def _seeds(arguments: argparse.Namespace) -> list[int] | range:
    return TEXT_SEEDS if arguments.model == "text" and arguments.seeds is SEEDS else arguments.seeds


def _temperature(arguments: argparse.Namespace) -> float:
    return TEMPERATURES[arguments.model] if arguments.temperature is None else arguments.temperature


def _labels(net: demo.TokenNetwork, arguments: argparse.Namespace, seeds: list[int]) -> Tensor:
    if arguments.model != "text":
        return labels_of(seeds, arguments.label)
    if arguments.style is None:
        return net.uncond()["y"].expand(len(seeds))
    if arguments.style not in net.classes:
        raise ValueError(f"--style: expected one of {', '.join(net.classes)}, got {arguments.style!r}")
    return torch.full((len(seeds),), net.classes.index(arguments.style))


def _start(net: demo.TokenNetwork, arguments: argparse.Namespace) -> Tensor:
    if isinstance(net, demo.TextNetwork):
        return net.read(arguments.prompt or "", arguments.length)[None]
    return net.blank(1)


def _is_picture(arguments: argparse.Namespace) -> bool:
    return arguments.model != "text"


def _default_path(arguments: argparse.Namespace) -> Path:
    return Path(f"samples.{arguments.format or 'png'}" if _is_picture(arguments) else "-")


def _saved(net: demo.TokenNetwork, x: Tensor, seeds: list[int], labels: Tensor, arguments: argparse.Namespace) -> Any:
    """What writes the result to a path."""
    if isinstance(net, demo.TextNetwork):
        names = (*net.classes, "any style")
        texts = [f"[{seed}, {names[y]}] {text}\n" for seed, y, text in zip(seeds, labels, net.write(x), strict=True)]
        return lambda path: path.write_text("\n".join(texts))
    if arguments.format == "npy" or (arguments.out and arguments.out.suffix == ".npy"):
        return pictures.npy(x.reshape(-1, 8, 8).numpy())
    return pictures.png(pictures.mosaic(net.to_images(x)))  # type: ignore[attr-defined]
