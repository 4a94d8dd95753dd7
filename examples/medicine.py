"""Slices of a brain drawn by MONAI's network and inferer, and reconstructed from a quarter of their Fourier rows.

python -m examples.medicine [--quick] [--out FOLDER]

The data are axial slices, 48 x 48 points of 4 mm, of the MNI152 average brain (ICBM 2009a, in the package nilearn).
Four slabs are kept from the training, which takes some minutes. MONAI's DDIM and fastdiff have as many evaluations
each, and in the reconstructions as many passes through the network.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, pixel_shuffle, pixel_unshuffle

import fastdiff as fd
from fastdiff import posterior, training
from fastdiff.demo import DemoNetwork
from fastdiff.hosts import monai

from .posterior.methods import Draw, by, without_network
from .posterior.problem import Network, Problem
from .posterior.scans import resonance
from .posterior.show import best
from .posterior.table import table

SIZE, FINE = 48, 4  # points of a slice, and mm between them, from slices of 1 mm
KEPT, MARGIN = (44, 68, 92, 116), 5  # no slice nearer than so many mm to these is trained on; 72 is MNI's z = 0
FREQUENCIES = (0, 1, -1, 2, -2, 3, -3, 5, -7, 10, -14, 19)
NOISE = 0.05  # of the measurements, in both parts; the brightest tissue is 2 above the background
HEAD = ("scheduler", "evaluations", "distance")
NOISES = {"schedule": "scaled_linear_beta", "prediction_type": "v_prediction", "clip_sample": False}


class Folded(DiffusionModelUNet):
    """MONAI's network on squares of 2 x 2 points, which is four times as fast."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        return pixel_shuffle(super().forward(pixel_unshuffle(x, 2), timesteps, context), 2)


def brain() -> Tensor:
    """[189, 1, 192, 192] in [-1, 1], axial slices of 1 mm from below, 0 mm at the 72nd, with the nose up."""
    import nibabel

    nilearn = importlib.util.find_spec("nilearn").submodule_search_locations[0]  # not imported: that takes seconds
    path = Path(nilearn, "datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    volume = torch.tensor(nibabel.load(path).get_fdata(dtype="float32")) / 127.5 - 1
    return volume[2:194, 20:212].permute(2, 1, 0).flip(1)[:, None].contiguous()


def coarse(slices: Tensor) -> Tensor:
    return avg_pool2d(slices, FINE)


def trained_on(slices: Tensor) -> Tensor:
    """Those that show enough of the brain and are far from those that are kept."""
    far = [min(abs(z - kept) for kept in KEPT) > MARGIN for z in range(len(slices))]
    return slices[torch.tensor(far) & ((slices > -0.5).flatten(1).float().mean(1) > 0.1)]


def moved(slices: Tensor, count: int) -> Tensor:
    """[count, 1, 48, 48] of them, mirrored, turned, shifted and scaled a little, with another gain of the coil."""
    turn, scale = 0.12 * torch.randn(count), 1 + 0.06 * torch.randn(count)
    mirror = torch.randint(2, (count,)) * 2.0 - 1
    rows = [scale * mirror * turn.cos(), -scale * turn.sin(), scale * mirror * turn.sin(), scale * turn.cos()]
    matrix = torch.cat([torch.stack(rows, 1).view(-1, 2, 2), 0.04 * torch.randn(count, 2, 1)], 2)
    chosen = slices[torch.randint(len(slices), (count,))] + 1
    grid = affine_grid(matrix, list(chosen.shape), align_corners=False)
    gain = 1 + 0.05 * torch.randn(count, 1, 1, 1)
    return coarse(gain * grid_sample(chosen, grid, align_corners=False)) - 1


def train(slices: Tensor, steps: int, batch: int = 16) -> DemoNetwork:
    torch.manual_seed(0)
    channels = (32, 64, 64)
    network = Folded(
        2, 4, 4, channels=channels, num_res_blocks=1, attention_levels=(False, False, True), num_head_channels=32,
        norm_num_groups=8,
    )  # fmt: skip
    cumulative = DDIMScheduler(**NOISES).alphas_cumprod.double().numpy()
    schedule = fd.Schedule.from_alphas_cumprod(cumulative)
    average = training.power_averaged(network, 0.1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 50) * (1 + math.cos(math.pi * i / steps)))
    for _ in range(steps):
        loss = training.v_loss(network, schedule, moved(slices, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        average.update_parameters(network)
    model = average.module.eval().requires_grad_(False)
    nothing = torch.zeros(0)
    return DemoNetwork("brain", model, schedule, "v_prediction", (1, SIZE, SIZE), 0, lambda x: x, nothing, nothing, {})


@torch.no_grad()
def inferred(scheduler: torch.nn.Module, net: DemoNetwork, noise: Tensor, evaluations: int) -> Tensor:
    """[N, 1, 48, 48] by MONAI's inferer."""
    scheduler.set_timesteps(evaluations)
    return DiffusionInferer(scheduler).sample(noise, net.model, verbose=False)


def schedulers() -> dict[str, torch.nn.Module]:
    return {
        "MONAI's DDIM": DDIMScheduler(**NOISES),
        "fastdiff's DDIM": monai.DDIMScheduler(**NOISES),
        "PlanScheduler": monai.PlanScheduler(DDIMScheduler(**NOISES)),
    }


def distance(x: Tensor, converged: Tensor) -> float:
    """The median over slices of the root mean square over points."""
    return float((x - converged).square().flatten(1).mean(1).sqrt().median())


def dps(strength: float) -> Draw:
    """Diffusion posterior sampling in MONAI's loop (Chung et al. 2023, algorithm 1), two passes a step."""

    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        scheduler, count = DDIMScheduler(**NOISES), members * len(problem.truth)
        scheduler.set_timesteps(passes // 2)
        y, x = problem.y.repeat(members, 1, 1, 1), fd.noise.randn((count, *problem.net.shape), range(count))
        for t in scheduler.timesteps:
            x.requires_grad_()
            after, x0 = scheduler.step(model(x, t.float().expand(count)), t, x)
            distance = (y - problem.A(x0)).abs().square().flatten(1).sum(1).sqrt().sum()
            x = (after - strength * torch.autograd.grad(distance, x)[0]).detach()
        return x

    return draw


def reconstructions(prior: fd.GaussianStart) -> dict[str, dict[str, Draw]]:
    """{method: {strength: draw}}; of DPS and of "gradient" the strength is chosen by the truth."""
    return {
        "Gaussian data, no network": {"": without_network(prior)},
        "DPS, MONAI's DDIM": {f"{v}": dps(v) for v in (0.1, 0.3, 1, 3)},
        "fastdiff, gradient": {f"{v}": by(posterior.Gradient(v), 2) for v in (0.1, 0.3, 1)},
        "fastdiff, moment": {"": by("moment", 5)},
        "fastdiff, gaussian": {"": by(posterior.GaussianPrior(prior), 3)},
    }


def draw_picture(lines: dict[str, Tensor], path: Path) -> None:
    """Four slices of each, one line below the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots((len(lines) + 1) // 2, 2, figsize=(8, 0.62 * len(lines)), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, x) in zip(axes.flat, lines.items(), strict=False):
        axis.imshow(torch.cat(list(x[:4, 0]), 1).numpy(), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(name, fontsize=8)
    figure.set_dpi(75)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).convert("L").quantize(32).save(
        path, optimize=True
    )
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps of training, draws and members")
    parser.add_argument("--out", type=Path, help="folder for a picture")
    asked = parser.parse_args(argv)
    steps, draws, counts, many, members, passes = (
        (2, 2, (4,), 16, 2, 6) if asked.quick else (1000, 16, (4, 6, 8, 10), 100, 19, 60)
    )
    slices = brain()
    seen, truth = trained_on(slices), coarse(slices[list(KEPT[: 1 if asked.quick else None])])
    net = train(seen, steps)
    print(f"\n### drawn\n\n{'| ' + ' | '.join(HEAD) + ' |'}\n|{'---|' * len(HEAD)}")
    noise = fd.noise.randn((draws, *net.shape), range(draws))
    converged, lines = inferred(monai.PlanScheduler(DDIMScheduler(**NOISES)), net, noise, many), {}
    for evaluations in counts:
        for name, scheduler in schedulers().items():
            x = inferred(scheduler, net, noise, evaluations)
            lines[f"{name}, {evaluations} evaluations"] = x
            print(f"| {name} | {evaluations} | {distance(x, converged):.4f} |", flush=True)
    problem = replace(resonance(net, truth, NOISE, FREQUENCIES), where=truth > -0.9)
    prior = fd.GaussianStart.estimate(moved(seen, 20 * members), net.schedule, 2 * members)
    found = [best(name, tried, problem, members, passes) for name, tried in reconstructions(prior).items()]
    print(f"\n### {problem.name}\n\n{table(problem, found)}")
    if asked.out is not None:
        shown = {name: x for name, x in lines.items() if name.endswith(f", {counts[0]} evaluations")}
        shown |= {f"converged, {many}": converged, "kept from the training": truth, problem.start_name: problem.start}
        for each in found:
            shown |= {f"{each.name}: a member": each.x[0], f"{each.name}: mean": each.x.mean(0)}
        asked.out.mkdir(parents=True, exist_ok=True)
        draw_picture(shown, asked.out / "medicine.png")


if __name__ == "__main__":
    main()
