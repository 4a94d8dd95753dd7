"""Guiders, random outputs for them, and the protocol in which a pipeline calls them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TWO_OUTPUTS = [
    ("ClassifierFreeGuidance", {}),
    ("ClassifierFreeGuidance", {"guidance_scale": 3.0, "use_original_formulation": True}),
    ("ClassifierFreeGuidance", {"guidance_rescale": 0.7}),
    ("ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0}),
    ("ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0, "use_original_formulation": True}),
    ("ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0, "guidance_rescale": 0.3}),
    ("TangentialClassifierFreeGuidance", {}),
    ("TangentialClassifierFreeGuidance", {"use_original_formulation": True, "guidance_rescale": 0.4}),
    ("AdaptiveProjectedGuidance", {}),
    ("AdaptiveProjectedGuidance", {"eta": 0.0, "adaptive_projected_guidance_rescale": 2.0}),
    ("AdaptiveProjectedGuidance", {"eta": 0.3, "adaptive_projected_guidance_momentum": -0.6, "guidance_rescale": 0.5}),
    (
        "AdaptiveProjectedGuidance",
        {"eta": 0.0, "adaptive_projected_guidance_rescale": 2.0, "use_original_formulation": True},
    ),
    ("AdaptiveProjectedGuidance", {"eta": 0.0, "adaptive_projected_guidance_norm_dim": 1}),
    (
        "AdaptiveProjectedGuidance",
        {
            "eta": 0.2, "adaptive_projected_guidance_norm_dim": [-1, -2], "adaptive_projected_guidance_momentum": -0.5,
            "adaptive_projected_guidance_rescale": 1.5, "guidance_rescale": 0.5,
        },
    ),
    ("AdaptiveProjectedMixGuidance", {"adaptive_projected_guidance_start_step": -1}),
    ("AdaptiveProjectedMixGuidance", {"adaptive_projected_guidance_start_step": 100, "guidance_rescale": 0.5}),
    ("LTX2Guidance", {"guidance_scale": 3.0, "guidance_rescale": 0.6}),
]  # fmt: skip
"""Where diffusers is right, or nearly (the guided steps are others)."""

LAYERS = {
    "AutoGuidance": {"auto_guidance_layers": [1], "dropout": 1.0},
    "PerturbedAttentionGuidance": {"perturbed_guidance_layers": [1]},
    "SkipLayerGuidance": {"skip_layer_guidance_layers": [1]},
    "SmoothedEnergyGuidance": {"seg_guidance_layers": [1]},
}
"""What these cannot be made without."""


def outputs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A conditional and an unconditional output that resemble one another."""
    cond = torch.randn(shape, dtype=torch.float64) + 0.3
    return cond.to(dtype), (cond + 0.4 * torch.randn(shape, dtype=torch.float64)).to(dtype)


def step(guider: object, i: int, n: int, predictions: Sequence[Tensor], t: float = 1.0) -> Tensor:
    """One step as a pipeline makes it, with outputs that are at hand: as many are used as are asked for."""
    guider.set_state(step=i, num_inference_steps=n, timestep=torch.tensor(t))
    batches = guider.prepare_inputs({"text": tuple(predictions[:2])})
    for batch, prediction in zip(batches, predictions, strict=False):
        batch.noise_pred = prediction
    return guider(batches)[0]


def guided_steps(guider: object, n: int, evaluations: int | None = None) -> list[int]:
    """The steps of a run in which more than the conditional output is asked for."""
    guided = []
    for i in range(evaluations or n):
        guider.set_state(step=i, num_inference_steps=n, timestep=torch.tensor(1.0))
        if len(guider.prepare_inputs({"text": (torch.zeros(1), torch.ones(1))})) > 1:
            guided.append(i)
    return guided


class Recorder(nn.Module):
    """A network that returns what it is told, whose input is heard."""

    def forward(self, sample: Tensor, output: Tensor) -> Tensor:
        return output
