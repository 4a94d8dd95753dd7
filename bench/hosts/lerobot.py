"""lerobot: the loops of its diffusion and flow policies, with exact mixtures of actions for the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel, _make_noise_scheduler
from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.hosts.lerobot import accelerate_policy, plan_for

from ..mixtures import predictor
from .row import EVALUATIONS, SAMPLES, SHAPES, Row, error, mean_of, parity, start, version

SPREAD = 0.25  # of actions, most of them within the range of clip_sample, [-1, 1]
DEFAULTS = {"diffusion": 100, "flow": 10}
Predict = Callable[[Tensor, Tensor], Tensor]


class Exact(nn.Module):
    """A network that says what the mixture's mean makes of chunks [B, horizon, 1]."""

    def __init__(self, predict: Predict) -> None:
        super().__init__()
        self.predict, self.weight = predict, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, global_cond: Tensor | None = None) -> Tensor:
        return self.predict(x.squeeze(-1), t).unsqueeze(-1)


class Diffusion(DiffusionModel):
    """Its loop, without encoders. DDIM: of DDPM, which draws noise, every run ends elsewhere."""

    def __init__(self, predict: Predict, size: int) -> None:
        nn.Module.__init__(self)
        self.config = SimpleNamespace(horizon=size, action_feature=SimpleNamespace(shape=(1,)))
        self.unet = Exact(predict)
        betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2"}
        self.noise_scheduler = _make_noise_scheduler("DDIM", num_train_timesteps=100, clip_sample=True, **betas)

    def draw(self, x: Tensor, evaluations: int) -> Tensor:
        self.num_inference_steps = evaluations
        return self.conditional_sample(len(x), noise=x.unsqueeze(-1)).squeeze(-1)


class Flow(VLAFlowMatching):
    """Its loop, which pi0 and pi05 share, without towers."""

    def __init__(self, predict: Predict, size: int) -> None:
        nn.Module.__init__(self)
        self.config = SimpleNamespace(num_steps=10, chunk_size=size, max_action_dim=1, use_cache=True, rtc_config=None)
        self.rtc_processor = None
        self.exact = Exact(predict)
        self.vlm_with_expert = SimpleNamespace(forward=lambda **given: (None, None))

    def embed_prefix(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
        mask = torch.ones(SAMPLES, 1, dtype=torch.bool)
        return torch.zeros(SAMPLES, 1, 1), mask, mask

    def denoise_step(self, x_t: Tensor, timestep: Tensor, **cache: Any) -> Tensor:  # type: ignore[override]
        return self.exact(x_t, timestep)

    def draw(self, x: Tensor, evaluations: int) -> Tensor:
        self.config.num_steps = evaluations
        return self.sample_actions(None, None, None, None, torch.zeros(SAMPLES), noise=x.unsqueeze(-1)).squeeze(-1)


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        for kind in ("diffusion", "flow"):
            yield from _of(kind, shape)


def _of(kind: str, shape: Any) -> Iterator[Row]:
    flow = kind == "flow"
    schedule = fd.Schedule.flow() if flow else fd.Schedule.cosine(100)
    prediction = "flow_prediction" if flow else "epsilon"
    predict = predictor(mean_of(shape, 1.0 if flow else SPREAD), schedule, prediction)
    model: Any = (Flow if flow else Diffusion)(predict, shape.size)
    policy, x = SimpleNamespace(model=model), start(shape)
    grid = "quadratic" if flow else "logsnr"
    converged = fd.sample(predict, fd.plan("dpmpp_3m_exact", schedule, 1000, grid=grid, prediction=prediction), x)
    for evaluations in sorted({*EVALUATIONS, DEFAULTS[kind]}):
        own = model.draw(x, evaluations)
        times = "time" if flow else model.noise_scheduler.timesteps.numpy()
        same = _draw(policy, plan_for(policy, evaluations, "ddim", grid=times), x)
        ours = _draw(policy, plan_for(policy, evaluations), x)
        yield Row(
            "lerobot", version("lerobot"), f"{kind} policy, {shape.name}", evaluations, "Euler" if flow else "DDIM",
            error(own, converged), "default", error(ours, converged), parity(same, own), evaluations == DEFAULTS[kind],
        )  # fmt: skip


def _draw(policy: Any, plan: fd.Plan, x: Tensor) -> Tensor:
    handle = accelerate_policy(policy, plan)
    chunks = policy.model.draw(x, 10)
    handle.undo()
    return chunks
