"""A head start without the model: the exact flow of Gaussian data, from the first noise to a lower level.

Where noise is strong the data look Gaussian to the model ("analytical teleportation", Wang & Vastola 2024, arXiv
2412.09726), and the ODE of N(mean, C) has a closed form: along an eigenvector of C with variance v,

    x_t - alpha_t mean = sqrt((alpha_t^2 v + sigma_t^2) / (alpha_s^2 v + sigma_s^2)) (x_s - alpha_s mean).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import files
from ..ops import checks
from ..plans.plan import Plan
from ..plans.schedule import Schedule

LARGEST = 1e30  # what a file may hold, so that no square is out of range


@dataclass(frozen=True)
class GaussianStart:
    """Gaussian data: mean [...], basis [R, D] of orthonormal rows, their variances [R], and one for the rest.

    start: (alpha, sigma) where runs begin. `fastdiff.sample(model, plan, head(noise, plan))` runs a plan that begins
    lower; `fastdiff.fit(..., head=head)` finds one.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float
    start: tuple[float, float]
    _placed: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<GaussianStart of shape {list(self.mean.shape)}, rank {len(self.basis)}, rest {self.rest:.3g}>"

    @classmethod
    def estimate(cls, data: Tensor, schedule: Schedule, rank: int | None = None) -> GaussianStart:
        """From samples [N, ...], the model's own or real ones: `rank` principal components and the mean of the rest.

        rank: at most min(N - 1, D), which it is where not given. Raises ValueError naming the argument.
        """
        checks.require_float("data", data)
        if data.ndim < 2 or len(data) < 2:
            raise ValueError(f"data: expected [N, ...] with N >= 2, got shape {tuple(data.shape)}")
        flat = data.double().flatten(1)
        mean, most = flat.mean(0), min(len(flat) - 1, flat.shape[1])
        rank = most if rank is None else rank
        if not 1 <= rank <= most:
            raise ValueError(f"rank: expected a whole number from 1 to {most}, got {rank}")
        _, singular, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        spectrum = singular**2 / (len(flat) - 1)
        left = flat.shape[1] - rank
        rest = float(spectrum[rank:].sum() / left) if left else 0.0
        start = schedule.at(schedule.t_max)
        return cls(
            mean.view(data.shape[1:]), basis[:rank], spectrum[:rank], rest, (float(start.alpha), float(start.sigma))
        )

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor, schedule: Schedule) -> GaussianStart:
        """From mean [...] and covariance [D, D] of the flattened data. Raises ValueError naming the argument."""
        size = mean.numel()
        checks.require_shape("covariance", covariance, (size, size))
        matrix = covariance.double()
        if not matrix.isfinite().all() or not torch.allclose(matrix, matrix.T):
            raise ValueError("covariance: expected a symmetric matrix of finite numbers")
        variances, vectors = torch.linalg.eigh(matrix)
        if variances[0] < -1e-6 * variances[-1].abs():
            raise ValueError(f"covariance: expected variances >= 0, got the eigenvalue {float(variances[0]):g}")
        start = schedule.at(schedule.t_max)
        return cls(mean, vectors.T, variances.clamp(min=0.0), 0.0, (float(start.alpha), float(start.sigma)))

    def times(self, v: Tensor, of: Callable[[Tensor], Tensor] = lambda variance: variance) -> Tensor:
        """f(S) v for v [B, ...] and the data's covariance S; of: f, of a variance.

        A sum over the principal directions and what the rest has in all: no basis of the rest is needed.
        """
        key = v.device, v.dtype
        if key not in self._placed:
            rest = torch.full((), self.rest, device=v.device, dtype=v.dtype)
            self._placed[key] = self.basis.to(*key), self.variances.to(*key), rest
        basis, variances, rest = self._placed[key]
        flat, all_over = v.flatten(1), of(rest)
        return (all_over * flat + (flat @ basis.T * (of(variances) - all_over)) @ basis).view(v.shape)

    def __call__(self, noise: Tensor, plan: Plan) -> Tensor:
        """From unit noise [B, ...]: the state where the plan begins over its `init_scale`, in noise's dtype."""
        if tuple(noise.shape[1:]) != tuple(self.mean.shape):
            raise ValueError(f"noise: expected [B, {', '.join(map(str, self.mean.shape))}], got {tuple(noise.shape)}")
        (a_s, s_s), (a_t, s_t) = self.start, plan.start
        mean = self.mean.to(noise.device, torch.float64)
        # `Plan.init_scale` of a run from the start: sigma for x0 + sigma eps, else the spread for data of variance 1.
        scale = s_s if a_s == 1 else (a_s**2 + s_s**2) ** 0.5
        offset = noise.double() * scale - a_s * mean

        def gain(variance: Tensor) -> Tensor:
            return ((a_t**2 * variance + s_t**2) / (a_s**2 * variance + s_s**2)).sqrt()

        state = a_t * mean + self.times(offset, gain)
        return (state / plan.init_scale).to(noise.dtype)

    def save(self, path: str | os.PathLike) -> None:
        """Write it as safetensors; leaves no partial file."""
        numbers = torch.tensor([self.rest, *self.start], dtype=torch.float64)
        parts = {"mean": self.mean, "basis": self.basis, "variances": self.variances, "numbers": numbers}
        whole = {name: value.contiguous() for name, value in parts.items()}
        files.write(Path(path), lambda partial: save_file(whole, partial))

    @classmethod
    def load(cls, path: str | os.PathLike) -> GaussianStart:
        """Read what `save` wrote. Raises ValueError naming the file."""
        try:
            parts = load_file(path)
            rest, alpha, sigma = parts["numbers"].tolist()
            mean, basis, variances = (parts[name] for name in ("mean", "basis", "variances"))
            _check_parts(mean, basis, variances, parts["numbers"])
            return cls(mean, basis, variances, rest, (alpha, sigma))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)}: not a valid head start: {error}") from error


def _check_parts(mean: Tensor, basis: Tensor, variances: Tensor, numbers: Tensor) -> None:
    """Raises ValueError."""
    if basis.ndim != 2 or variances.shape != basis.shape[:1] or basis.shape[1] != mean.numel():
        shapes = ", ".join(str(tuple(value.shape)) for value in (mean, basis, variances))
        raise ValueError(f"expected mean [...], basis [R, D] and variances [R], got shapes {shapes}")
    if not all(value.is_floating_point() and value.isfinite().all() for value in (mean, basis, variances, numbers)):
        raise ValueError("expected finite numbers")
    if (variances < 0).any() or (numbers < 0).any():
        raise ValueError("expected variances and noise levels >= 0")
    if max(float(value.abs().max()) for value in (mean, variances, numbers) if value.numel()) > LARGEST:
        raise ValueError(f"expected numbers of at most {LARGEST:g}")
    if basis.numel() and float(basis.abs().max()) > 1.01:
        raise ValueError("expected a basis of rows of length 1")
