"""Boltz's `AtomDiffusion.sample` on exact structures: as an ODE in one frame, and its own default's law."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from boltz.model.modules import diffusionv2
from torch import Tensor

import fastdiff as fd
from fastdiff import structures
from fastdiff.hosts import boltz

from ..mixtures import Shape
from .row import EVALUATIONS, SAMPLES, Row, error, mean_of, parity, version

# Sizes of whole atoms: 3 (N - 1) dimensions of N atoms without their centre.
SHAPES = (Shape(48, 5, 0.1), Shape(63, 20, 0.2, decay=0.5))
SPREAD, STEPS = 16.0, 200
ODE = {"gamma_0": 0.0, "step_scale": 1.0}
NO_STEERING = {"fk_steering": False, "physical_guidance_update": False, "contact_guidance_update": False}
Denoise = Callable[[Tensor, Tensor], Tensor]


class Exact(diffusionv2.AtomDiffusion):
    """The module's own loop and numbers, as `boltz predict` has them, around a denoiser that is known."""

    def __init__(self, denoise: Denoise, gamma_0: float = 0.8, step_scale: float = 1.5) -> None:
        torch.nn.Module.__init__(self)
        self.denoise, self.gamma_0, self.step_scale, self.gamma_min, self.noise_scale = (
            denoise,
            gamma_0,
            step_scale,
            1,
            1.003,
        )
        self.num_sampling_steps, self.sigma_min, self.sigma_max, self.sigma_data, self.rho = (
            STEPS,
            0.0004,
            160.0,
            16.0,
            7,
        )
        self.step_scale_random, self.alignment_reverse_diff = None, False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def preconditioned_network_forward(
        self, x: Tensor, sigma: Tensor | float, network_condition_kwargs: dict
    ) -> Tensor:
        return self.denoise(x, torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)))


def in_one_frame(count: int, **options: object) -> tuple[Tensor, Tensor]:
    """In the place of the host's random frames: a mixture of structures knows directions."""
    return torch.eye(3).expand(count, 3, 3), torch.zeros(count, 1, 3)


def mixture(shape: Shape) -> tuple[int, Denoise]:
    """The number of atoms, and x0 of a mixture over all that is not the centre."""
    mean, atoms = mean_of(shape, SPREAD), shape.size // 3 + 1
    basis = torch.linalg.svd(torch.eye(atoms) - 1 / atoms)[0][:, : atoms - 1]  # [N, N - 1] orthonormal, sums 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        middle = x.mean(1, keepdim=True)
        inside = torch.einsum("nk,bnd->bkd", basis, x - middle)
        data = mean(inside.flatten(1), torch.ones(()), sigma[:1].reshape(())).reshape_as(inside)
        return middle + torch.einsum("nk,bkd->bnd", basis, data)

    return atoms, denoise


def ode_rows(shape: Shape) -> Iterator[Row]:
    """Distances to the converged solution, in one frame, from the same start."""
    atoms, denoise = mixture(shape)
    module, mask = Exact(denoise, **ODE), torch.ones(1, atoms)
    model = boltz.Denoiser(module, {}, SAMPLES)
    torch.manual_seed(0)
    noise = torch.randn(SAMPLES, atoms, 3)
    fine = fd.plan("heun", boltz.schedule(module), 800, grid="logsnr", prediction="sample")
    converged = fd.sample(model, fine, noise) * model.unit
    for steps in (*EVALUATIONS, 20, STEPS):
        torch.manual_seed(0)
        own = module.sample(mask, steps, SAMPLES, steering_args=NO_STEERING)["sample_atom_coords"]
        same, ours = (
            fd.sample(model, boltz.plan(module, steps, solver), noise) * model.unit for solver in ("boltz", None)
        )
        errors = [error(*map(structures.centre, (x, converged))) for x in (own, ours)]
        use = f"ODE, {shape.name}"
        apart = parity(structures.centre(same), structures.centre(own))
        yield Row(
            "boltz", version("boltz"), use, steps, "Euler", errors[0], "default", errors[1], apart, steps == STEPS
        )


def law_rows() -> Iterator[Row]:
    """How far the standard deviation of Gaussian structures is from the data's, in share of it; frames are random."""
    data, atoms, samples = 10.0, 64, 400

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        middle = x.mean(1, keepdim=True)
        return middle + (x - middle) * (data**2 / (data**2 + sigma**2))[:, None, None]

    def off(drawn: dict[str, Tensor]) -> float:
        square = structures.centre(drawn["sample_atom_coords"]).square().sum() / (samples * (atoms - 1) * 3)
        return abs(float(square.sqrt()) / data - 1)

    module, mask = Exact(denoise), torch.ones(1, atoms)
    for steps in (*EVALUATIONS, 20, STEPS):
        torch.manual_seed(1)
        own = off(module.sample(mask, steps, samples, steering_args=NO_STEERING))
        ours = off(boltz.sample(module, mask, steps, samples))
        use = "its default, spread of Gaussian atoms"
        yield Row(
            "boltz", version("boltz"), use, steps, "churn 0.8, step 1.5", own, "default", ours, None, steps == STEPS
        )


def rows() -> Iterator[Row]:
    """In float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(diffusionv2, "compute_random_augmentation", in_one_frame):
            for shape in SHAPES:
                yield from ode_rows(shape)
        yield from law_rows()
    finally:
        torch.set_default_dtype(before)
