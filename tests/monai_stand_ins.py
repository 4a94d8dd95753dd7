"""MONAI's protocol: schedulers with its names and the loop of its inferers, for where it is not installed."""

from __future__ import annotations

import sys
from types import ModuleType

import torch
from torch import Tensor, nn


class Scheduler(nn.Module):
    def __init__(self, num_train_timesteps: int = 1000, schedule: str = "linear_beta") -> None:
        super().__init__()
        self.betas = torch.linspace(1e-4, 2e-2, num_train_timesteps)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        self.num_train_timesteps, self.one = num_train_timesteps, torch.tensor(1.0)
        self.num_inference_steps = num_train_timesteps
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.linspace(self.num_train_timesteps - 1, 0, num_inference_steps).round().long()

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        kept = self.alphas_cumprod[timesteps].view(-1, *[1] * (noise.ndim - 1))
        return kept.sqrt() * original_samples + (1 - kept).sqrt() * noise


class _Bounded(Scheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        clip_sample_min: float = -1.0,
        clip_sample_max: float = 1.0,
    ) -> None:
        super().__init__(num_train_timesteps, schedule)
        self.clip_sample, self.clip_sample_values = clip_sample, [clip_sample_min, clip_sample_max]
        self.prediction_type, self.variance_type = prediction_type, "fixed_small"
        self.final_alpha_cumprod = self.one

    def _x0(self, m: Tensor, x: Tensor, kept: Tensor) -> Tensor:
        x0 = (x - (1 - kept).sqrt() * m) / kept.sqrt()  # of epsilon
        return x0.clamp(*self.clip_sample_values) if self.clip_sample else x0


class DDIMScheduler(_Bounded):
    def step(self, model_output: Tensor, timestep: int, sample: Tensor, eta: float = 0.0, generator: object = None):
        end = timestep - self.num_train_timesteps // self.num_inference_steps
        left = self.alphas_cumprod[end] if end >= 0 else self.one
        x0 = self._x0(model_output, sample, self.alphas_cumprod[timestep])
        return left.sqrt() * x0 + (1 - left).sqrt() * model_output, x0


class DDPMScheduler(_Bounded):
    def step(self, model_output: Tensor, timestep: int, sample: Tensor, generator: object = None):
        kept, beta = self.alphas_cumprod[timestep], self.betas[timestep]
        before = self.alphas_cumprod[timestep - 1] if timestep > 0 else self.one
        x0 = self._x0(model_output, sample, kept)
        mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * sample) / (1 - kept)
        if timestep == 0:
            return mean, x0
        noise = torch.randn(sample.shape, dtype=sample.dtype, generator=generator)
        return mean + ((1 - before) / (1 - kept) * beta).sqrt() * noise, x0


class PNDMScheduler(Scheduler):
    def __init__(self, num_train_timesteps: int = 1000, skip_prk_steps: bool = False) -> None:
        super().__init__(num_train_timesteps)
        self.skip_prk_steps, self.prediction_type = skip_prk_steps, "epsilon"
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        self._timesteps = (
            torch.arange(num_inference_steps) * (self.num_train_timesteps // num_inference_steps)
        ).numpy()


class RFlowScheduler(Scheduler):
    """A module that is never set up, as MONAI's."""

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        use_timestep_transform: bool = False,
        base_img_size_numel: int = 32**3,
        spatial_dim: int = 3,
    ) -> None:
        self.num_train_timesteps, self.prediction_type = num_train_timesteps, "v_prediction"
        self.use_timestep_transform, self.base_img_size_numel = use_timestep_transform, base_img_size_numel
        self.spatial_dim = spatial_dim

    def set_timesteps(self, num_inference_steps: int, device: object = None, input_img_size_numel: int | None = None):
        self.num_inference_steps, total = num_inference_steps, self.num_train_timesteps
        self.timesteps = torch.tensor(
            [round((1 - i / num_inference_steps) * total) for i in range(num_inference_steps)]
        )

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        t = (timesteps.float() / self.num_train_timesteps).view(-1, *[1] * (noise.ndim - 1))
        return (1 - t) * original_samples + t * noise

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, next_timestep: int | None = None):
        length = float(timestep - int(next_timestep)) / self.num_train_timesteps
        return sample + length * model_output, sample + model_output * timestep / self.num_train_timesteps


class DiffusionInferer:
    """The loop of MONAI's inferers."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    @torch.no_grad()
    def sample(
        self,
        input_noise: Tensor,
        diffusion_model: nn.Module,
        scheduler: Scheduler | None = None,
        conditioning: Tensor | None = None,
        mode: str = "crossattn",
        verbose: bool = True,
    ) -> Tensor:
        scheduler, image = scheduler or self.scheduler, input_noise
        ends = torch.cat((scheduler.timesteps[1:], torch.tensor([0], dtype=scheduler.timesteps.dtype)))
        for t, end in zip(scheduler.timesteps, ends, strict=True):
            x = torch.cat([image, conditioning], dim=1) if mode == "concat" else image
            context = conditioning if mode == "crossattn" else None
            output = diffusion_model(x, timesteps=torch.Tensor((t,)), context=context)
            more = (end,) if isinstance(scheduler, RFlowScheduler) else ()
            image, _ = scheduler.step(output, t, image, *more)
        return image


def modules() -> dict[str, ModuleType]:
    """What `import monai...` finds."""
    found = {
        name: ModuleType(name) for name in ("monai", "monai.networks", "monai.networks.schedulers", "monai.inferers")
    }
    for owner in (found["monai.networks.schedulers"], found["monai.inferers"]):
        owner.__dict__.update({k: v for k, v in vars(sys.modules[__name__]).items() if isinstance(v, type)})
    found["monai.networks"].schedulers = found["monai.networks.schedulers"]
    return found
