"""Stand-ins for robot policies with the protocol of lerobot's and diffusion_policy's, on exact models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

import fastdiff as fd

HORIZON, ACTIONS = 16, 2
SCHEDULE = fd.Schedule.cosine(100)
MODES = torch.tensor([(-0.6, 0.2), (0.5, -0.7), (0.7, 0.6)])


def network(x: Tensor, alpha: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
    """E[x0 | x] of three modes for each action, with a shift of their means by what the policy sees, [B, 1]."""
    means, spread = MODES + 0.1 * shift[:, :, None, None], 0.15
    total = alpha**2 * spread**2 + sigma**2
    away = x[:, :, None] - alpha * means.to(x.dtype)
    share = torch.softmax(-away.square().sum(-1) / (2 * total), -1)
    each = means + alpha * spread**2 / total * away
    return (share[..., None] * each).sum(2)


class Denoiser(nn.Module):
    """lerobot's `unet`: the noise in x [B, horizon, actions], or x0, at training times t [B]."""

    def __init__(self, prediction: str = "epsilon") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.prediction, self.asked = prediction, []

    def forward(self, x: Tensor, timestep: Tensor, global_cond: Tensor | None = None, **others: object) -> Tensor:
        self.asked.append(timestep)
        at = SCHEDULE.at(float(timestep.reshape(-1)[0]))
        alpha, sigma = torch.tensor(float(at.alpha)), torch.tensor(float(at.sigma))
        shift = torch.zeros(len(x), 1) if global_cond is None else global_cond
        x0 = network(x, alpha, sigma, shift)
        return x0 if self.prediction == "sample" else (x - alpha * x0) / sigma


class DiffusionModel(nn.Module):
    """What `DiffusionPolicy.diffusion` is."""

    def __init__(self, scheduler: str = "DDIM", steps: int | None = None, **options: object) -> None:
        super().__init__()
        self.config = SimpleNamespace(horizon=HORIZON, action_feature=SimpleNamespace(shape=(ACTIONS,)))
        options = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True, "clip_sample_range": 1.0, **options}
        kind = {"DDIM": DDIMScheduler, "DDPM": DDPMScheduler}[scheduler]
        self.noise_scheduler: Any = kind(num_train_timesteps=100, **options)
        self.unet = Denoiser(self.noise_scheduler.config.prediction_type)
        self.num_inference_steps = steps or 100

    def conditional_sample(
        self,
        batch_size: int,
        global_cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        x = torch.randn(batch_size, HORIZON, ACTIONS, generator=generator) if noise is None else noise
        self.noise_scheduler.set_timesteps(self.num_inference_steps)
        for t in self.noise_scheduler.timesteps:
            times = torch.full((len(x),), t, dtype=torch.long)
            with torch.no_grad():
                m = self.unet(x, times, global_cond=global_cond)
            x = self.noise_scheduler.step(m, t, x, generator=generator).prev_sample
        return x


class DiffusionPolicy(nn.Module):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.diffusion = DiffusionModel(*args, **options)

    def predict_action_chunk(self, seen: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.diffusion.conditional_sample(len(seen), global_cond=seen, noise=noise)


class LowdimPolicy(nn.Module):
    """Columbia's: conditions stand in the trajectory where a mask is set, or are told to the network."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        super().__init__()
        self.model, self.noise_scheduler, self.num_inference_steps = Denoiser(), scheduler, steps

    def predict_action(self, seen: Tensor, data: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        return self.conditional_sample(data, mask, local_cond=None, global_cond=seen, generator=generator)

    def conditional_sample(
        self,
        condition_data: Tensor,
        condition_mask: Tensor,
        local_cond: Tensor | None = None,
        global_cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        **step_options: Any,
    ) -> Tensor:
        x = torch.randn(condition_data.shape, dtype=condition_data.dtype, generator=generator)
        self.noise_scheduler.set_timesteps(self.num_inference_steps)
        for t in self.noise_scheduler.timesteps:
            x[condition_mask] = condition_data[condition_mask]
            with torch.no_grad():
                m = self.model(x, t, local_cond=local_cond, global_cond=global_cond)
            x = self.noise_scheduler.step(m, t, x, generator=generator, **step_options).prev_sample
        x[condition_mask] = condition_data[condition_mask]
        return x


class FlowModel(nn.Module):
    """What `SmolVLAPolicy.model` and `PI0Policy.model` are: a prefix that is cached, and Euler from t = 1 to 0."""

    def __init__(self, steps: int = 10, name: str = "num_inference_steps") -> None:
        super().__init__()
        self.config = SimpleNamespace(**{name: steps}, chunk_size=HORIZON, max_action_dim=ACTIONS)
        self.name, self.prefixes, self.asked, self.extra_calls = name, 0, [], 0

    def sample_actions(
        self,
        images: Tensor,
        state: Tensor,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
    ) -> Tensor:
        self.prefixes += 1
        cache = state + images.mean()
        steps = num_steps or getattr(self.config, self.name)
        x = torch.randn(len(state), HORIZON, ACTIONS) if noise is None else noise
        for i in range(steps + self.extra_calls):
            time = 1.0 - i / steps
            t = torch.tensor(time, dtype=torch.float32).expand(len(x))
            v = self.denoise_step(past_key_values=cache, x_t=x, timestep=t)
            if prev_chunk_left_over is not None:
                v = v - (prev_chunk_left_over - (x - time * v))
            x = x - v / steps
        return x

    def denoise_step(self, past_key_values: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        self.asked.append(float(timestep[0]))
        return velocity(x_t, timestep, past_key_values)


def velocity(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    """eps - x0 at t [B], the same for all."""
    sigma = t[0].to(x.dtype)
    x0 = network(x, 1 - sigma, sigma, shift)
    return (x - x0) / sigma
