"""A small model with a known score, for the tests of fitting: a Gaussian mixture's exact posterior mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.fitting import convergence, forward_search, forward_stage, grid_moves, reuse_stage, search, stages

SCHEDULE = fd.Schedule.edm(0.01, 20.0)
MEANS = torch.tensor([[1.5, 0.5, -0.5], [-1.0, 1.0, 0.3], [0.2, -1.4, 0.8]], dtype=torch.float64)
VARIANCES = torch.tensor([0.3, 0.1, 0.03], dtype=torch.float64)


def model(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """E[x0 | x0 + t eps = x]; x [B, 3], t [B]. y [B]: the one component there is, or -1 for all of them."""
    variances = VARIANCES.to(x) + t[:, None, None] ** 2
    offset = x[:, None] - MEANS.to(x)  # [B, components, 3]
    log_weight = -0.5 * (offset**2 / variances + variances.log()).sum(-1)
    if y is not None:
        other = (y[:, None] >= 0) & (torch.arange(len(MEANS)) != y[:, None])
        log_weight = log_weight.masked_fill(other, -torch.inf)
    inner = MEANS.to(x) + offset * VARIANCES.to(x) / variances
    return (torch.softmax(log_weight, dim=1)[..., None] * inner).sum(1)


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | alpha x0 + sigma eps = x]; alpha and sigma [B]."""
    a, s = alpha[:, None, None], sigma[:, None, None]
    variances = a**2 * VARIANCES + s**2
    offset = x[:, None] - a * MEANS  # [B, components, 3]
    log_weight = -0.5 * (offset**2 / variances).sum(-1)
    inner = MEANS + a * VARIANCES / variances * offset
    return (torch.softmax(log_weight, dim=1)[..., None] * inner).sum(1)


def noise(count: int, first: int = 0) -> Tensor:
    return fd.noise.randn((count, 3), range(first, first + count), dtype=torch.float64)


def exact(start: Tensor, **conditions: object) -> Tensor:
    """The converged samples."""
    plan = fd.plan("dpmpp_3m_exact", SCHEDULE, 300, grid="logsnr", prediction="sample")
    return fd.sample(model, plan, start, **conditions)


def mean_distance(x: Tensor, y: Tensor) -> float:
    """The mean over samples of the root mean square difference."""
    return float((x - y).square().mean(1).sqrt().mean())


def shorten_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward fit that tries little, for tests of what does not depend on how good it is."""
    monkeypatch.setattr(forward_stage, "SHAPES", ("unipc", "dpm_solver_2m"))
    for name in ("MOVED", "MAX_ITERATIONS"):
        monkeypatch.setattr(grid_moves, name, 1)
    monkeypatch.setattr(forward_search, "TRIED", 4)
    for name, value in (("TRIED", 3), ("PATTERNS", 2), ("MOVED", 1)):
        monkeypatch.setattr(reuse_stage, name, value)
    monkeypatch.setattr(stages, "NEWTON_SAMPLES", 8)
    monkeypatch.setattr(stages, "PATIENCE", 1)


def shorten_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few plans of the catalogue, and one that may count as converged, so that no time is spent on them."""
    monkeypatch.setattr(convergence, "CONTESTANTS", (("unipc", {"order": 3}, "logsnr"),))
    monkeypatch.setattr(convergence, "PROBE_SAMPLES", 2)
    monkeypatch.setattr(search, "GRIDS", ("quadratic",))
