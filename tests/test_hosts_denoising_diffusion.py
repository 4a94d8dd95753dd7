"""`fastdiff.hosts.denoising_diffusion`: on a stand-in of the library's diffusions, and beside them where they are."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts import denoising_diffusion

STD = 0.5
VIEW = (-1, 1, 1, 1)


class Network(torch.nn.Module):
    """The exact prediction for data N(0, STD^2) of every pixel. asked: (t, self-condition) of each call."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.of, self.asked = [diffusion], []

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        self.asked.append((float(t[0]), x_self_cond))
        of = self.of[0]
        kept = fd.Schedule.from_alphas_cumprod(of.alphas_cumprod.double().numpy()).at(t.double().numpy())
        alpha, sigma = (torch.as_tensor(v).view(VIEW).to(x) for v in (kept.alpha, kept.sigma))
        x0 = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x
        eps = (x - alpha * x0) / sigma
        return {"pred_noise": eps, "pred_x0": x0, "pred_v": alpha * eps - sigma * x0}[of.objective]


class Diffusion:
    """GaussianDiffusion's names."""

    device, channels, image_size, num_timesteps = torch.device("cpu"), 2, (4, 4), 100

    def __init__(self, objective: str = "pred_v", self_condition: bool = False) -> None:
        self.objective, self.self_condition = objective, self_condition
        self.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 100), 0)
        self.model = Network(self)

    def unnormalize(self, x: Tensor) -> Tensor:
        return (x + 1) * 0.5

    def q_sample(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.alphas_cumprod[t].view(VIEW)
        return kept.sqrt() * x + (1 - kept).sqrt() * torch.randn_like(x)


def ddim(diffusion: Diffusion, noise: Tensor, times: list[int]) -> list[Tensor]:
    """Its states at whole times, with x0 clipped and the noise that belongs to it."""
    x, states = noise, [noise]
    for t, after in pairwise([*times, -1]):
        a = diffusion.alphas_cumprod[t]
        m = diffusion.model(x, torch.full((len(x),), t))
        x0 = {
            "pred_noise": (x - (1 - a).sqrt() * m) / a.sqrt(),
            "pred_x0": m,
            "pred_v": a.sqrt() * x - (1 - a).sqrt() * m,
        }[diffusion.objective].clamp(-1, 1)
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        b = diffusion.alphas_cumprod[after] if after >= 0 else torch.ones(())
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
        states.append(x)
    return states


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_ddim_is_its_formula_at_the_librarys_whole_times(objective):
    diffusion = Diffusion(objective)
    noise = 3 * torch.randn(3, 2, 4, 4, dtype=torch.float64)  # so far out that x0 is clipped
    states = ddim(diffusion, noise, [99, 65, 32])
    diffusion.model.asked.clear()
    x = denoising_diffusion.sample(diffusion, 3, True, evaluations=3, solver="ddim", noise=noise)
    assert [t for t, _ in diffusion.model.asked] == [99, 65, 32]
    torch.testing.assert_close(x, (torch.stack(states, 1) + 1) / 2, rtol=1e-5, atol=1e-5)


def test_the_default_solves_the_ode_in_the_images_range():
    diffusion = Diffusion()
    noise = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    x = denoising_diffusion.sample(diffusion, 3, noise=noise, clip=False)
    kept = float(diffusion.alphas_cumprod[-1])
    exact = noise * STD / (kept * STD**2 + 1 - kept) ** 0.5
    torch.testing.assert_close(x, (exact + 1) / 2, rtol=0, atol=0.01)
    assert len(diffusion.model.asked) == 10


def test_a_self_conditioned_network_gets_the_x0_of_the_call_before():
    diffusion = Diffusion(self_condition=True)
    noise = torch.randn(2, 2, 4, 4)
    denoising_diffusion.sample(diffusion, 2, evaluations=3, solver="ddim", noise=noise)
    (first, nothing), (_, latest), _ = diffusion.model.asked
    assert (first, nothing) == (99.0, None)
    a = diffusion.alphas_cumprod[99]
    x0 = a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * noise
    torch.testing.assert_close(latest, x0.clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_torchs_generator_gives_the_noise_and_seeds_the_rest():
    diffusion = Diffusion()
    torch.manual_seed(3)
    first, noise = denoising_diffusion.sample(diffusion, 2, return_noise=True, evaluations=4)
    torch.manual_seed(3)
    assert torch.equal(noise, torch.randn(2, 2, 4, 4))
    assert torch.equal(first, denoising_diffusion.sample(diffusion, 2, noise=noise, evaluations=4))
    drawn = [
        denoising_diffusion.sample(diffusion, 2, noise=noise, evaluations=4, solver="ddpm", seeds=[5, 6])
        for _ in range(2)
    ]
    assert torch.equal(*drawn)


def test_a_mixture_of_noised_images_is_denoised_from_its_time():
    """At the last index nothing is left of the images; at an early one most is."""
    diffusion, x1, x2 = Diffusion(), torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.1)
    x = denoising_diffusion.interpolate(diffusion, x1, x2, t=2, lam=1.0, evaluations=4)
    assert [t <= 2 for t, _ in diffusion.model.asked] == [True] * 4
    sigma = float((1 - diffusion.alphas_cumprod[2]).sqrt())
    assert (x - 0.1).abs().max() < 7 * sigma


class Elucidated:
    """ElucidatedDiffusion's names."""

    device, channels, image_size = torch.device("cpu"), 1, 4
    sigma_min, sigma_max, self_condition = 0.002, 80, False

    def preconditioned_network_forward(
        self, x: Tensor, sigma: Tensor, self_cond: Tensor | None = None, clamp: bool = False
    ) -> Tensor:
        x0 = x * STD**2 / (STD**2 + sigma.view(VIEW) ** 2)
        return x0.clamp(-1, 1) if clamp else x0


def test_edm_begins_at_sigma_max_and_ends_in_zero_to_one():
    noise = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    noise = noise.clamp(-1.5, 1.5)  # x0 is not clipped
    x = denoising_diffusion.sample(Elucidated(), 4, noise=noise)
    exact = 80 * noise * STD / (STD**2 + 80**2) ** 0.5
    torch.testing.assert_close(x, (exact + 1) / 2, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"diffusion": torch.nn.Linear(1, 1)}, TypeError, "^diffusion: "),
        ({"diffusion": Diffusion("pred_score")}, TypeError, "^diffusion: "),
        ({"evaluations": 0}, ValueError, "^steps: "),
        ({"eta": 1.0}, ValueError, "^eta: "),
        ({"solver": "dimm"}, ValueError, "ddim"),
    ],
)
def test_bad_arguments_are_named(given, error, message):
    with pytest.raises(error, match=message):
        denoising_diffusion.sample(**{"diffusion": Diffusion(), **given})


def test_bad_arguments_of_interpolations_are_named():
    x = torch.zeros(1, 2, 4, 4)
    for other, t, name in ((x[:, :1], None, "x2"), (x, 0, "t"), (x, 100, "t")):
        with pytest.raises(ValueError, match=f"^{name}: "):
            denoising_diffusion.interpolate(Diffusion(), x, other, t)
    with pytest.raises(TypeError, match=r"^diffusion: "):
        denoising_diffusion.interpolate(Elucidated(), x, x)


@pytest.mark.hosts
def test_the_librarys_ddim_and_heun_are_reproduced():
    library = pytest.importorskip("denoising_diffusion_pytorch")

    def same(draw_own, draw_ours) -> None:
        pictures = []
        for draw in (draw_own, draw_ours):
            torch.manual_seed(0)
            pictures.append(draw())
        torch.testing.assert_close(*pictures, rtol=1e-4, atol=1e-4)

    sample = denoising_diffusion.sample
    for objective in ("pred_noise", "pred_x0", "pred_v"):
        network = library.Unet(dim=8, dim_mults=(1, 2), self_condition=True)
        own = library.GaussianDiffusion(network, image_size=8, sampling_timesteps=7, objective=objective)
        same(lambda own=own: own.sample(2), lambda own=own: sample(own, 2, evaluations=7, solver="ddim"))
    network = library.Unet1D(dim=8, dim_mults=(1, 2), channels=3)
    sequences = library.GaussianDiffusion1D(network, seq_length=8, sampling_timesteps=7, objective="pred_v")
    same(lambda: sequences.sample(2), lambda: sample(sequences, 2, evaluations=7, solver="ddim"))
    network = library.Unet(dim=8, dim_mults=(1, 2), learned_sinusoidal_cond=True)
    edm = library.ElucidatedDiffusion(network, image_size=8, num_sample_steps=6, S_churn=0)
    same(lambda: edm.sample(2), lambda: sample(edm, 2, evaluations=6, solver="heun"))
