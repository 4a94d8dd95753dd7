"""`sample`: in the place of `AtomDiffusion.sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...plans.plan import Plan
from ...sampling.noise import randn
from ...sampling.sample import sample as run
from ...structures.equivariant import equivariant
from .denoiser import Denoiser
from .plans import plan as plan_of
from .plans import unit


@torch.no_grad()
def sample(
    diffusion: Any,
    atom_mask: Tensor,
    num_sampling_steps: int | None = None,
    multiplicity: int = 1,
    max_parallel_samples: int | None = None,
    train_accumulate_token_repr: bool = False,
    steering_args: Mapping[str, Any] | None = None,
    *,
    solver: str | Plan | None = None,
    seeds: Sequence[int] | Tensor | None = None,
    **network_condition_kwargs: Any,
) -> dict[str, Tensor | None]:
    """`AtomDiffusion.sample` by any plan: {"sample_atom_coords": [B multiplicity, N, 3], "diff_token_repr": None}.

    The host turns and shifts x at random before every step, which a multistep solver cannot follow; here the frame is
    around the network (`fastdiff.structures.equivariant`), and so is the alignment of `alignment_reverse_diff`. The law
    of the shapes is the same; a sample stays where its start was, and padding does not move its centre.

    diffusion: the module. atom_mask [B, N]: 0 at padding. num_sampling_steps: the module's if None; of the default, and
        of solvers that ask once a step, it is the number of evaluations. multiplicity: samples for each input.
    max_parallel_samples: that one call of the network gets at most. steering_args: Boltz's; physical and contact
        potentials pull x0, at a lower order; `fk_steering` is refused.
    solver: a name, None or "boltz" (see `plan`), or a plan of `plan` or `fastdiff.fit`.
    seeds: B multiplicity whole numbers, for samples that do not depend on the batch; torch's generator if None.
    network_condition_kwargs: the network's (s_trunk, s_inputs, feats, diffusion_conditioning, ...).

    Raises ValueError naming the argument, for `fk_steering` and modules that accumulate token features.
    """
    if train_accumulate_token_repr or getattr(diffusion, "accumulate_token_repr", False):
        raise ValueError("train_accumulate_token_repr: token features are the module's own sample's")
    mask = atom_mask.repeat_interleave(multiplicity, 0)
    model = Denoiser(diffusion, network_condition_kwargs, multiplicity, max_parallel_samples, steering_args)
    if isinstance(solver, Plan):
        plan = solver
    else:
        plan = plan_of(diffusion, num_sampling_steps, solver, guided=solver is None and bool(model.potentials))
    model.evaluations = plan.nfe
    framed = equivariant(
        model, mask=mask, translation=1 / unit(diffusion), align=bool(diffusion.alignment_reverse_diff), seeds=seeds
    )
    shape, device = (*mask.shape, 3), diffusion.device
    noise = torch.randn(shape, device=device) if seeds is None else randn(shape, seeds, device=device)
    atoms = run(framed, plan, noise, seeds=seeds)
    assert isinstance(atoms, Tensor)
    return {"sample_atom_coords": atoms * model.unit, "diff_token_repr": None}
