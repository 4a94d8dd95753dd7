"""The loop of diffusion policies: `conditional_sample`, with a plan in the place of the noise scheduler's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...plans.plan import Plan
from ...sampling.sample import sample


def clip_range(scheduler: Any) -> float | None:
    """What diffusers' scheduler bounds |x0| by in every step."""
    config: Mapping[str, Any] = scheduler.config
    return float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None


class Trajectories:
    """`conditional_sample` of a diffusion policy's model.

    owner: has `unet` (lerobot) or `model` (diffusion_policy): called as network(x, t, **conditions). clip: bound on
    |x0|, None for none.
    """

    def __init__(self, owner: Any, plan: Plan, clip: float | None) -> None:
        self.owner, self.plan, self.clip = owner, plan, clip

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """[B, horizon, actions]; arguments are those of the policy's own method.

        lerobot: (batch_size, global_cond=None, generator=None, noise=None).
        diffusion_policy: (condition_data, condition_mask, local_cond=None, global_cond=None, generator=None), or cond.
        """
        given = args[0] if args else kwargs.get("condition_data")
        if isinstance(given, Tensor):
            return self._inpainted(*args, **kwargs)
        return self._free(*args, **kwargs)

    def _free(
        self,
        batch_size: int,
        global_cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        if noise is None:
            config, weight = self.owner.config, next(self.owner.parameters())
            shape = (batch_size, config.horizon, config.action_feature.shape[0])
            noise = torch.randn(shape, dtype=weight.dtype, device=weight.device, generator=generator)
        return self._run(self.owner.unet, noise, generator, global_cond=global_cond)

    def _inpainted(
        self,
        condition_data: Tensor,
        condition_mask: Tensor,
        *,
        generator: torch.Generator | None = None,
        **conditions: Any,
    ) -> Tensor:
        """The network reads condition_data where the mask is set, without noise at every time, as it was trained."""
        network = self.owner.model

        def told(x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
            return network(torch.where(condition_mask, condition_data, x), t, **kwargs)

        data = condition_data
        noise = torch.randn(data.shape, dtype=data.dtype, device=data.device, generator=generator)
        x0 = self._run(told, noise, generator, **conditions)
        return torch.where(condition_mask, condition_data, x0)

    def _run(self, network: Any, noise: Tensor, generator: torch.Generator | None, **conditions: Any) -> Tensor:
        seeds = None
        if self.plan.stochastic:
            seeds = torch.randint(2**62, (len(noise),), generator=generator, device=noise.device)
        x0 = sample(network, self.plan, noise, clamp=self.clip, seeds=seeds, **conditions)
        assert isinstance(x0, Tensor)
        # A robot's actions have a range. The last step of a multistep method extrapolates from bounded x0 out of it.
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)
