"""The loop of flow policies: `sample_actions`, whose Euler steps take the states of a plan instead of their own.

The host's loop stays: it embeds the prefix, caches its keys and values once, and makes x <- x + dt v with dt = -1 / n,
calling `denoise_step` for v. Here v = (x' - x) / dt for the next state x' of the plan, from the velocity at the state
and time that the plan asks for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...plans.plan import Plan
from ...sampling.stepper import Stepper, stepper


def counts_in(config: Any) -> str | None:
    """The name under which a configuration has the number of Euler steps."""
    return next((name for name in ("num_steps", "num_inference_steps") if hasattr(config, name)), None)


class Actions:
    """`sample_actions` and `denoise_step` of a flow policy's model."""

    def __init__(self, owner: Any, plan: Plan) -> None:
        self.owner, self.plan = owner, plan
        self.own_sample, self.own_step = owner.sample_actions, owner.denoise_step
        self._planned = False
        self._run: Stepper | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """[B, chunk_size, max_action_dim]; arguments are those of the policy's own method."""
        count = self.plan.nfe
        if kwargs.get("prev_chunk_left_over") is not None or kwargs.get("num_steps") not in (None, count):
            return self.own_sample(*args, **kwargs)
        config = self.owner.config
        name = counts_in(config)
        assert name is not None
        before = getattr(config, name)
        setattr(config, name, count)
        self._planned = True
        try:
            actions = type(self.owner).sample_actions(self.owner, *args, **kwargs)
            if self._run is None or not self._run.done:
                done = 0 if self._run is None else self._run.i
                raise RuntimeError(f"sample_actions: expected {count} calls of denoise_step, got {done}")
            return actions
        finally:
            setattr(config, name, before)
            self._planned, self._run = False, None

    def denoise_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The velocity [B, ...] that brings x_t to the plan's next state in one Euler step."""
        if not self._planned:
            return self.own_step(*args, **kwargs)
        x, t = kwargs["x_t"], kwargs["timestep"]
        if self._run is None:
            self._run = stepper(self.plan, x)
        run = self._run
        velocity = self.own_step(*args, **{**kwargs, "x_t": run.model_input.to(x), "timestep": run.t.to(t)})
        return ((x - run.advance(velocity)) * self.plan.nfe).to(x.dtype)
