"""`PosteriorSampler`: what stands in the place of deepinv's DPS, DDRM, DiffPIR and PosteriorDiffusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from ...posterior.observation import Observation
from ...sampling.correction import Correction
from ...sampling.noise import randn
from ...sampling.sample import sample
from .denoiser import InRange

if TYPE_CHECKING:
    Reconstructor = nn.Module
else:
    try:
        from deepinv.models import Reconstructor
    except ImportError:
        Reconstructor = nn.Module

SIGMAS = (0.001, 40.0)  # EDM's 0.002 to 80 for data in [-1, 1], on a range of length 1


class PosteriorSampler(Reconstructor):
    """x0 given y: `sampler(y, physics)` in the place of deepinv's `PosteriorDiffusion`, `DPS`, `DDRM` or `DiffPIR`.

        model = PosteriorSampler(denoiser, steps=20)  # was: deepinv.sampling.DDRM(denoiser)
        x = model(y, physics, seed=0)

    denoiser: a deepinv denoiser, denoiser(x, sigma) -> E[x0 | x0 + sigma eps = x] for pixels in [0, 1]. With `plan`: a
        model of `fastdiff.sample`, model(x, t), in the range of the images that the physics measures.
    plan: from `fastdiff.plan` or `fastdiff.fit`. If None, DPM-Solver++ 2M on Karras' grid.
    steps: evaluations of the denoiser. sigmas: its least and greatest noise level, in its own range; take the greatest
        that it was trained for. They are for deepinv denoisers alone.
    data_range: the pixels of the images that the physics measures, and that are returned: (-1, 1) where y was made of
        such images. Nothing else is rescaled, and nothing is clipped.
    correction: as in `fastdiff.sample`. If None, "moment" for Gaussian noise, and "gradient" for other.

    Raises TypeError or ValueError naming the argument.
    """

    def __init__(
        self,
        denoiser: Callable[..., Any],
        plan: Plan | None = None,
        *,
        steps: int = 20,
        sigmas: tuple[float, float] = SIGMAS,
        data_range: tuple[float, float] = (0.0, 1.0),
        correction: str | Correction | Callable | None = None,
    ) -> None:
        super().__init__()
        if not callable(denoiser):
            raise TypeError(f"denoiser: expected a function or a module, got {type(denoiser).__name__}")
        low, high = data_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"data_range: expected two finite numbers, the lower one first, got {data_range!r}")
        if not 0 < sigmas[0] < sigmas[1] < math.inf:
            raise ValueError(f"sigmas: expected finite numbers > 0, the lower one first, got {sigmas!r}")
        self.denoiser, self.correction, self.data_range = denoiser, correction, (low, high)
        self._in_range = plan is None
        if plan is None:
            schedule = Schedule.edm(*(sigma * (high - low) for sigma in sigmas))
            plan = make_plan("dpm_solver_2m", schedule, steps, grid="karras", prediction="sample")
        elif (low, high) != (0.0, 1.0) or (steps, sigmas) != (20, SIGMAS):
            raise ValueError("plan: it says steps and noise levels, and its model the range; give one or the other")
        self.plan = plan

    def forward(
        self,
        y: Tensor,
        physics: Any,
        x_init: Tensor | Sequence[int] | None = None,
        seed: int | None = None,
        samples: int = 1,
        **kwargs: object,
    ) -> Tensor:
        """[B, ...] a sample for each measurement, in y's precision; [samples, B, ...] where more are asked for.

        y: [B, ...] the measurements. physics: a deepinv Physics, whose noise model is Gaussian, Poisson or Laplace.
        x_init: [B, ...] the noisy image that the run starts from; or the shape [B, ...] of images, which a nonlinear
            physics does not tell.
        seed: a whole number, 0 too. Sample k of measurement b has a stream of its own, in any batch: seed, and k B + b.
            From torch's generator if None.
        samples: for each measurement; their mean and spread over the first dimension are the posterior's.
        kwargs: the denoiser's own, such as class_labels.

        Raises TypeError or ValueError naming the argument.
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples: expected a whole number >= 1, got {samples!r}")
        observation = Observation(physics, y)
        correction = self.correction or ("moment" if observation.gaussian else "gradient")
        count = samples * len(y)
        seeds = _seeds(seed, count, y.device)
        if isinstance(x_init, Tensor):
            start = x_init.to(y.device, y.real.dtype) / self.plan.init_scale
            noise = start.repeat(samples, *[1] * (start.ndim - 1))
        else:
            noise = _noise((count, *_image_shape(observation, x_init)), seeds, y)

        model = InRange(self.denoiser, *self.data_range) if self._in_range else self.denoiser
        given: dict[str, Any] = {"observation": observation, "correction": correction, **kwargs}

        def draw(rows: slice) -> Tensor:
            x0 = sample(model, self.plan, noise[rows], seeds=None if seeds is None else seeds[rows], **given)
            assert isinstance(x0, Tensor)
            return x0

        # A physics may have a mask for each measurement: then a batch has one sample of each.
        batch = samples if len(y) == 1 else len(y)
        x0 = torch.cat([draw(slice(i, i + batch)) for i in range(0, count, batch)])
        return x0 if samples == 1 else x0.unflatten(0, (samples, len(y)))


def _image_shape(observation: Observation, x_init: Sequence[int] | None) -> tuple[int, ...]:
    """That of one image, without the batch."""
    adjoint = observation.operator.adjoint
    if x_init is None and adjoint is None:
        raise ValueError("x_init: expected the shape of an image, which a nonlinear physics does not tell")
    return tuple(x_init or adjoint(observation.y).shape)[1:]  # type: ignore[misc]


def _seeds(seed: int | None, count: int, device: torch.device) -> Tensor | None:
    """[count] a stream for each sample; those of different seeds have nothing in common."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ValueError(f"seed: expected a whole number from 0 to 2^31 - 1, got {seed!r}")
    return seed * 2**32 + torch.arange(count, device=device)


def _noise(shape: tuple[int, ...], seeds: Tensor | None, like: Tensor) -> Tensor:
    options: dict[str, Any] = {"dtype": like.real.dtype, "device": like.device}
    return torch.randn(shape, **options) if seeds is None else randn(shape, seeds, **options)
