"""F5-TTS' CFM and Matcha-TTS' BASECFM, as far as they sample: their protocol around a velocity field of this file."""

from __future__ import annotations

import itertools
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def unit_v(x: Tensor, t: Tensor) -> Tensor:
    """v of unit Gaussian data at any time: x has unit variance, and says nothing of v."""
    return 0 * x


def unit_velocity(x: Tensor, t: Tensor) -> Tensor:
    """noise - x0 of unit Gaussian data, t = 1 at noise."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    return (2 * t - 1) / ((1 - t) ** 2 + t**2) * x


def field(x: Tensor, t: Tensor, cond: Tensor | float) -> Tensor:
    """dx/dt of a smooth field, not linear in x or t."""
    return torch.tanh(x * (1 + t)) + cond


class Transformer(nn.Module):
    """What CFM calls for each evaluation; cond and uncond in one call under cfg_infer. times: what it was called at."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, cond: Tensor, text: Any, time: Tensor, cfg_infer: bool = False) -> Tensor:
        self.times.append(time)
        v = field(x, time, cond)
        return torch.cat([v, v - 0.3 * cond]) if cfg_infer else v


class F5(nn.Module):
    """CFM.sample's ODE: noise, times with sway, torchdiffeq's odeint of what odeint_kwargs says."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer, self.odeint_kwargs = Transformer(), {"method": "euler"}

    @torch.no_grad()
    def sample(
        self, cond: Tensor, text: Any, duration: int, *, steps: int = 32, cfg_strength: float = 1.0,
        sway_sampling_coef: float | None = None, seed: int = 0, t_start: float = 0.0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        from torchdiffeq import odeint

        def fn(t: Tensor, x: Tensor) -> Tensor:
            both = self.transformer(x=x, cond=cond, text=text, time=t, cfg_infer=True)
            pred, null = both.chunk(2)
            return pred + (pred - null) * cfg_strength

        cond = nn.functional.pad(cond, (0, 0, 0, duration - cond.shape[1]))
        torch.manual_seed(seed)
        y0 = torch.randn(len(cond), duration, cond.shape[-1], dtype=cond.dtype)
        t = torch.linspace(t_start, 1, steps + 1, dtype=cond.dtype)
        if sway_sampling_coef is not None:
            t = t + sway_sampling_coef * (torch.cos(torch.pi / 2 * t) - 1 + t)
        trajectory = odeint(fn, y0, t, **self.odeint_kwargs)
        return trajectory[-1], trajectory


class Matcha(nn.Module):
    """BASECFM: forward makes noise and times, solve_euler takes the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[Tensor] = []

    def estimator(self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Any, cond: Any) -> Tensor:
        self.times.append(t)
        return field(x, t, mu) * mask

    @torch.inference_mode()
    def forward(
        self, mu: Tensor, mask: Tensor, n_timesteps: int, temperature: float = 1.0, spks: Any = None, cond: Any = None
    ) -> Tensor:
        z = torch.randn_like(mu) * temperature
        t_span = torch.linspace(0, 1, n_timesteps + 1, dtype=mu.dtype)
        return self.solve_euler(z, t_span=t_span, mu=mu, mask=mask, spks=spks, cond=cond)

    def solve_euler(self, x: Tensor, t_span: Tensor, mu: Tensor, mask: Tensor, spks: Any, cond: Any) -> Tensor:
        for t, s in itertools.pairwise(t_span):
            x = x + (s - t) * self.estimator(x, mask, mu, t, spks, cond)
        return x


def matcha_tts() -> Any:
    """A whole model: its flow is `decoder`."""
    return SimpleNamespace(decoder=Matcha())


def stable_audio_tools() -> dict[str, ModuleType]:
    """The package's modules by name, with the two functions that are replaced."""
    modules = {}
    for name in ("", ".inference", ".inference.sampling", ".inference.generation"):
        module = modules["stable_audio_tools" + name] = ModuleType("stable_audio_tools" + name)
        vars(module).update(__path__=[], sample_k=len, sample_rf=len)
    return modules
