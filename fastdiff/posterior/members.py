"""ensemble: many members for each observation, in any split among batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops.reference import compute_dtype
from ..plans.plan import Plan
from ..sampling.model import Model
from ..sampling.ranks import Ranks
from ..sampling.sample import sample
from .draws import Draws, Part, of_all
from .marginals import Counted, Kept
from .misfit import warn_of_misfit
from .observation import Observation
from .running import Running
from .uncertainty import Ensemble

MEMORY = 2**30  # bytes of members that are kept where `keep` does not say
TOGETHER = 16  # members of one observation in a call where `batch` does not say


@torch.no_grad()
def ensemble(
    model: Model,
    plan: Plan,
    shape: Sequence[int],
    members: int,
    *,
    seeds: int | Tensor = 0,
    batch: int | None = None,
    keep: int | None = None,
    observation: Observation | None = None,
    particles: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    group: Any = None,
    **options: Any,
) -> Ensemble:
    """Draw many members for each observation, or for each condition of a model, and return what they say together.

    model, plan: those of `fastdiff.sample`. shape: [G, ...] one member for each of G observations or conditions.
    members: n for each. They are independent: member j of observation g is the sample from noise of its own seed, the
        same in every split, and statistics are equal to rounding.
    seeds: a whole number s, for seeds s + j G + g, or an integer tensor [G, n].
    batch: members in one call of the model, of G samples each; 16 for one observation and 1 for several if None. An A
        that is a function with parameters for each observation, such as masks, has to be given 1.
    keep: how many members to keep for quantiles and scores, which are exact where all are. Later ones are counted
        between the kept ones (`Ensemble.quantile`). As many as take 1 GiB if None. Mean and spread keep none.
    observation: a `fastdiff.Observation` of G measurements, or of one for all. Where the chi-square of residuals is
        far from 1, it warns that the noise is misstated or that the correction did not fit.
    particles: K of `fastdiff.sample`; it divides members, keep and batch. Members then have weights, those of each K
        among each other.
    dtype, device: of the samples.
    group: where torch.distributed is initialised, the processes that share the members, all if None. Each calls this
        alike and gets the whole result.
    options: those of `fastdiff.sample`, such as correction, guidance and uncond, and the model's own arguments. Tensors
        whose first dimension is G are for each observation.
    Raises TypeError or ValueError naming the argument.

    >>> schedule = fd.Schedule.edm()
    >>> plan = fd.plan("dpm_solver_2m", schedule, 20, grid="karras", prediction="sample")
    >>> unit_gaussian = lambda x, sigma: x / (1 + sigma.view(-1, 1) ** 2)
    >>> observation = fd.Observation(torch.eye(4), torch.ones(1, 4), noise=0.5)
    >>> drawn = fd.ensemble(unit_gaussian, plan, (1, 4), members=400, batch=100, observation=observation)
    >>> drawn.mean.mean(), drawn.spread.mean()  # 0.8 and sqrt(0.2), exactly
    (tensor(0.80...), tensor(0.45...))
    """
    names = options_of(sample)
    check_keywords(model, [name for name in options if name not in names], (*options_of(ensemble), *names))
    draws = Draws(model, plan, shape, members, seeds, observation, particles, dtype, device, options)
    step, keep = _batch(batch, draws), _keep(keep, draws)
    ranks, units = Ranks(group), torch.arange(members).view(-1, particles)
    first, later = (part.split(step // particles * ranks.count) for part in units.tensor_split([keep // particles]))
    running, told = Running(draws.shape, draws.device), list[Tensor]()

    def take(rows: Tensor) -> tuple[Part, Part]:
        drawn, own = draws.shared(rows, ranks)
        running.add(own.x, own.weights)
        told.append(of_all(torch.stack([drawn.weights, drawn.misfit], 2), rows, ranks))
        return drawn, own

    kept = Kept(torch.cat([of_all(take(rows)[0].x, rows, ranks) for rows in first], 1), torch.cat(told, 1)[..., 0])
    if keep == members:
        return _result(draws, ranks, running, kept, torch.cat(told, 1))
    counted = Counted(kept)
    del kept
    for rows in later:
        own = take(rows)[1]
        counted.add(own.x, own.weights)
    counted.merge(ranks)
    return _result(draws, ranks, running, counted, torch.cat(told, 1))


def _batch(batch: int | None, draws: Draws) -> int:
    """Members in a call."""
    if batch is None:
        return max(1, (TOGETHER if draws.count == 1 else 1) // draws.particles) * draws.particles
    return draws.multiple("batch", batch)


def _keep(keep: int | None, draws: Draws) -> int:
    """How many members are kept."""
    fit = max(1, MEMORY // (draws.bytes * draws.particles)) * draws.particles
    return min(fit if keep is None else draws.multiple("keep", keep), draws.members)


def _result(draws: Draws, ranks: Ranks, running: Running, marginals: Kept | Counted, told: Tensor) -> Ensemble:
    """running: this process's. told: [G, n, 2] weights and misfits of all."""
    running, (weights, misfit) = running.merged(ranks), told.unbind(2)
    if draws.measured is not None and ranks.is_first:
        warn_of_misfit((weights * misfit).sum(1) / weights.sum(1), draws.measured)
    dtype = compute_dtype(draws.dtype)
    return Ensemble(
        mean=running.mean.to(dtype),
        spread=running.spread.to(dtype),
        seeds=draws.seeds,
        members=marginals.members if isinstance(marginals, Kept) else None,
        weights=None if draws.particles == 1 else weights,
        misfit=None if draws.observation is None else misfit,
        _running=running,
        _marginals=marginals,
    )
