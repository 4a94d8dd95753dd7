"""stable-audio-tools' `sample_k` and `sample_rf` at their defaults, and at the command line's 8 evaluations.

Samplers that draw noise have no converged solution, so they are compared by the sliced Wasserstein distance of their
samples from exact ones, under which two exact sets are apart by the floor that the row's use says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts import stable_audio

from ..mixtures import Shape, posterior_mean, predictor
from .row import EVALUATIONS, SHAPES, Row, error, parity, start, version

import_module("k_diffusion.external")  # the package reads it as an attribute
OWN = import_module("stable_audio_tools.inference.sampling")

COSINE = fd.Schedule.cosine(None, offset=0, t_min=1e-6)
CALLS = {"sample_k": (COSINE, "v_prediction"), "sample_rf": (fd.Schedule.flow(), "flow_prediction")}
NAMES = {"sample_k": ("dpmpp-2m", "k-lms", "v-ddim"), "sample_rf": ("euler", "dpmpp", "rk4")}
SCALE = 6.0  # cfg_scale of generate_diffusion_cond
DEFAULT = 100
DRAWN = 1024  # of the samples that are compared as sets


def rows() -> Iterator[Row]:
    for call in CALLS:
        for shape in SHAPES:
            for scale in (1.0, SCALE):
                yield from _rows(call, shape, scale)
    for shape in SHAPES:
        yield from _of_sets(shape)


def _model(call: str, shape: Shape, scale: float) -> Callable[..., Tensor]:
    """The network with its own guidance, as the package's is."""
    guided = predictor(posterior_mean(shape, 1.0, 200, scale if scale > 1 else None), *CALLS[call])
    return lambda x, t, **cfg: guided(x, t)


def _rows(call: str, shape: Shape, scale: float) -> Iterator[Row]:
    own_call, our_call = getattr(OWN, call), getattr(stable_audio, call)
    model, noise = _model(call, shape, scale), start(shape)
    options = {"cfg_scale": scale}
    level = {"sigma_min": 1e-4} if call == "sample_k" else {}
    converged = our_call(model, noise, steps=1000, **level, **options)
    use = f"{call}, {f'guided by {scale:g}' if scale > 1 else 'unguided'}, {shape.name}"
    for count in (*EVALUATIONS, DEFAULT):
        ours = error(our_call(model, noise, steps=count, **options), converged)
        for name in NAMES[call]:
            steps = count // 4 if name == "rk4" else count
            if name == "rk4" and count % 4:
                continue
            bound = {"sigma_max": 2 / math.pi * math.atan(100)} if name == "v-ddim" else {}
            x = noise if not bound else noise * math.sin(math.atan(100))
            own = own_call(model, x, steps=steps, sampler_type=name, device="cpu", **bound, **options)
            same = parity(our_call(model, x, steps=steps, sampler_type=name, **bound, **options), own)
            values = error(own, converged), "default", ours, same, count == DEFAULT
            yield Row("stable-audio-tools", version("stable-audio-tools"), use, count, name, *values)


def _of_sets(shape: Shape) -> Iterator[Row]:
    model = _model("sample_k", shape, 1.0)

    def noise(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(DRAWN, shape.size, dtype=torch.float64, generator=generator)

    exact, other = (stable_audio.sample_k(model, noise(seed), steps=200) for seed in (1, 2))
    use = f"sample_k, distance of sets (exact {sliced_distance(other, exact):.3f}), {shape.name}"
    for count in (*EVALUATIONS, DEFAULT):
        ours = sliced_distance(stable_audio.sample_k(model, noise(3), steps=count), exact)
        for name in ("dpmpp-2m-sde", "dpmpp-3m-sde"):
            found = []
            for function in (OWN.sample_k, stable_audio.sample_k):
                torch.manual_seed(0)
                found.append(function(model, noise(3), steps=count, sampler_type=name, device="cpu"))
            own = sliced_distance(found[0], exact)
            values = own, "default", ours, parity(found[1], found[0]), count == DEFAULT and name == "dpmpp-2m-sde"
            yield Row("stable-audio-tools", version("stable-audio-tools"), use, count, name, *values)


def sliced_distance(x: Tensor, y: Tensor, directions: int = 128) -> float:
    """The mean over directions of the Wasserstein-1 distance of x and y [B, size] projected on them."""
    normal = torch.randn(x.shape[1], directions, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    along = normal / normal.norm(dim=0)
    return float(((x @ along).sort(dim=0).values - (y @ along).sort(dim=0).values).abs().mean())
