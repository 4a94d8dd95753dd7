"""azula's samplers beside `fastdiff.hosts.azula.Sampler`, on two of its schedules, and under measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastdiff.hosts.azula import Sampler

from ..mixtures import Shape
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

DEFAULT = 64
CONVERGED = 2000
MULTISTEP = ("zAB", "vAB", "zEAB", "xEAB", "REAB")
NOISE = 0.05


def rows() -> Iterator[Row]:
    from azula import guidance, noise
    from azula.denoise import Denoiser, DiracPosterior
    from azula.linalg.covariance import IsotropicCovariance

    class Exact(Denoiser):
        def __init__(self, shape: Shape, schedule: Any) -> None:
            super().__init__()
            self.mean, self.schedule = mean_of(shape), schedule

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: object) -> Any:
            return DiracPosterior(self.mean(x_t, *self.schedule(t)))

    def measured(denoiser: Denoiser, shape: Shape) -> Denoiser:
        """A quarter as many numbers as the data have are known, of each sample its own."""
        generator = torch.Generator().manual_seed(5)
        A = torch.randn(shape.size // 4, shape.size, generator=generator, dtype=torch.float64) / shape.size**0.5
        clean = Sampler(denoiser, steps=20, silent=True)(torch.randn(64, shape.size, dtype=torch.float64))
        y = clean @ A.T + NOISE * torch.randn(64, len(A), generator=generator, dtype=torch.float64)
        cov_y = IsotropicCovariance(torch.tensor(NOISE**2, dtype=torch.float64))
        return guidance.MMPSDenoiser(denoiser, y, lambda x: x @ A.T, cov_y, iterations=3)

    torch.manual_seed(0)
    for schedule in (noise.VPSchedule(), noise.RectifiedSchedule()):
        for shape in SHAPES:
            use = f"{type(schedule).__name__}, {shape.size} dimensions"
            yield from compared(use, Exact(shape, schedule), shape)
    for shape in SHAPES:
        denoiser = measured(Exact(shape, noise.RectifiedSchedule()), shape)
        yield from compared(f"MMPS on RectifiedSchedule, {shape.size} dimensions", denoiser, shape)


def compared(use: str, denoiser: Any, shape: Shape) -> Iterator[Row]:
    from azula import sample

    given = {"silent": True, "dtype": torch.float64}
    x = start(shape) * denoiser.schedule(torch.ones((), dtype=torch.float64))[1]

    def ours(steps: int, solver: str | None = None, **options: Any) -> Tensor:
        return Sampler(denoiser, solver, steps=steps, **given, **options)(x)

    def theirs(name: str, steps: int, **options: Any) -> Tensor:
        return getattr(sample, f"{name}Sampler")(denoiser, steps=steps, **given, **options)(x)

    converged = ours(CONVERGED, "lms", order=3, coordinate="flow")
    every: dict[str, Callable[[int], Tensor]] = {
        f"{name}({order})": lambda n, name=name, order=order: theirs(name, n, order=order)
        for name in MULTISTEP
        for order in (2, 3)
    }
    every["Heun"] = lambda n: theirs("Heun", n // 2)
    for n in (*EVALUATIONS, DEFAULT):
        mine, ddim = error(ours(n), converged), theirs("DDIM", n)
        both = "azula", version("azula"), use, n
        same = parity(ours(n, "ddim"), ddim)
        yield Row(*both, "DDIM", error(ddim, converged), "default", mine, same, n == DEFAULT)
        found = {name: error(draw(n), converged) for name, draw in every.items()}
        best = min(found, key=lambda name: found[name])
        yield Row(*both, f"{best}, the best of {len(every)}", found[best], "default", mine, None, n == DEFAULT)
