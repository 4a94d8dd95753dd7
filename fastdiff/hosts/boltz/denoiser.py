"""An AtomDiffusion as a model of plans: x0 from x, in units of `unit`, with steering potentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .plans import unit

PULLS = ("physical_guidance_update", "contact_guidance_update")


class Denoiser:
    """model(x [B, N, 3], t [B]) -> x0 [B, N, 3], in units of `unit`, of one AtomDiffusion and its conditions.

    diffusion: a boltz `AtomDiffusion`. conditions: the keyword arguments of its `sample` that go to the network.
    multiplicity: samples of each input. max_parallel_samples: that one call of the network gets at most.
    steering_args, evaluations: potentials pull x0 downhill at every evaluation but the last of so many.
    """

    def __init__(
        self,
        diffusion: Any,
        conditions: Mapping[str, Any],
        multiplicity: int = 1,
        max_parallel_samples: int | None = None,
        steering_args: Mapping[str, Any] | None = None,
        evaluations: int = 1,
    ) -> None:
        self.diffusion, self.conditions, self.multiplicity = diffusion, conditions, multiplicity
        self.most, self.evaluations, self.calls = max_parallel_samples, evaluations, 0
        self.unit = unit(diffusion)
        self.steering: Mapping[str, Any] = steering_args or {}
        self.potentials = potentials_of(diffusion, steering_args)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x0 from x [B, N, 3] at t = sigma [B]."""
        atoms, sigma = x * self.unit, t.to(x.dtype) * self.unit
        parts = len(x) if self.most is None or len(x) <= self.most else self.most
        drawn = [self._forward(a, s) for a, s in zip(atoms.split(parts), sigma.split(parts), strict=True)]
        data = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
        if self.potentials and self.calls < self.evaluations - 1:
            data = self._pulled(data, 1 - self.calls / self.evaluations)
        self.calls += 1
        return data / self.unit

    def _forward(self, atoms: Tensor, sigma: Tensor) -> Tensor:
        # All samples at once, or some of one input's: the host has one input where it splits.
        count = self.multiplicity if self.most is None else min(self.multiplicity, len(atoms))
        given = {"multiplicity": count, **self.conditions}
        output = self.diffusion.preconditioned_network_forward(atoms, sigma, network_condition_kwargs=given)
        return output[0] if isinstance(output, tuple) else output  # Boltz-1 returns token features too

    def _pulled(self, data: Tensor, t: float) -> Tensor:
        """x0 after num_gd_steps of gradient descent in the potentials at the host's steering time, 1 to 0."""
        for k in range(self.steering["num_gd_steps"]):
            pull = torch.zeros_like(data)
            for potential in self.potentials:
                given = potential.compute_parameters(t)
                if given["guidance_weight"] > 0 and k % given["guidance_interval"] == 0:
                    slope = potential.compute_gradient(data, self.conditions["feats"], given)
                    pull = pull + given["guidance_weight"] * slope
            data = data - pull
        return data


def potentials_of(diffusion: Any, steering_args: Mapping[str, Any] | None) -> Sequence[Any]:
    """The potentials that pull x0. Raises ValueError for particles, which are the host's own loop."""
    if not steering_args:
        return ()
    if steering_args.get("fk_steering"):
        raise ValueError("steering_args: fk_steering resamples particles, which the module's own sample does")
    if not any(steering_args.get(name) for name in PULLS):
        return ()
    from boltz.model.potentials.potentials import get_potentials

    return get_potentials(steering_args, boltz2=hasattr(diffusion, "step_scale_random"))
