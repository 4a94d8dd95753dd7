"""Edits after set_timesteps: diffusers reads its configuration and tensors in every step, so hosts change them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Watch:
    """What the rows of a run are made from: the configuration's attributes, the scheduler's, and the run's tensors.

    What a host changes of it, in place or by replacement, counts from the next step on, as in diffusers. torch counts
    the edits in place of each tensor. It does not where the tensor was made in inference mode: those are read again
    when a run begins, and an edit in the middle of a run is not seen.
    """

    __slots__ = ("_values", "blind", "config", "named", "versions")

    def __init__(self, scheduler: Any, run: Any) -> None:
        self.config = dict(vars(scheduler.config))
        self._values = [*self.config.values()]
        space = scheduler.recipe.space
        names = space.read_attributes(scheduler.recipe)
        self.named = {name: _kept(getattr(scheduler, name)) for name in names}
        values = [*(getattr(run, name, None) for name in space.run_tensors), *self.named.values()]
        tensors = [value for value in values if isinstance(value, Tensor)]
        self.versions = [(tensor, tensor._version) for tensor in tensors if not tensor.is_inference()]
        self.blind = len(self.versions) < len(tensors)

    def is_stale(self, scheduler: Any) -> bool:
        """Whether any of it is another now. Every step asks; no tensor's value is read."""
        for tensor, version in self.versions:
            if tensor._version != version:
                return True
        for name, value in self.named.items():
            now = getattr(scheduler, name)
            if now is not value and (isinstance(value, Tensor) or differ(now, value)):
                return True
        # Lists compare in half of the time that dicts take; an option that comes or goes changes the length.
        try:
            return [*scheduler._internal_dict.__dict__.values()] != self._values
        except ValueError:  # arrays, see `differ`
            return True

    def settings(self, run: Any) -> tuple[object, ...]:
        """By value, what the rows of every run of a scheduler are made from."""
        named = {name: value for name, value in self.named.items() if not isinstance(value, Tensor)}
        alphas = None if run.alphas_cumprod is None else run.alphas_cumprod.tobytes()
        return self.config, named, alphas, run.final_alpha_cumprod


def differ(a: object, b: object) -> bool:
    """Whether a != b. Arrays, whose comparison has no truth value, are equal to themselves alone."""
    try:
        return bool(a != b)
    except ValueError:
        return True


def _kept(value: object) -> object:
    return list(value) if isinstance(value, list) else value
