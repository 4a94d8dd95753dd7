"""A corrected D in fd.sample: in every solver, with guidance, and at the memory of one evaluation."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from linear_gaussian import MATRICES, NOISE, PRIOR, SCHEDULE, SIZE, measurement, model
from torch import Tensor, nn

import fastdiff as fd

A = MATRICES["mask"]
OBSERVED = fd.Observation(A, measurement(A), NOISE)
GAUSSIAN = fd.posterior.GaussianPrior(PRIOR, 8)
NOISES = fd.noise.randn((3, SIZE), range(3), dtype=torch.float64)
VP = fd.Schedule.vp()


def same(step: object) -> Tensor:
    return step.denoised


def eps(x: Tensor, t: Tensor) -> Tensor:
    """eps of data N(0, 1/4) on the VP schedule."""
    point = VP.at(t[0].item())
    alpha, sigma = float(point.alpha), float(point.sigma)
    return sigma / (alpha**2 / 4 + sigma**2) * x


@pytest.mark.parametrize("entry", [e for e in fd.solvers() if e.order], ids=lambda entry: entry.name)
def test_every_solver_serves(entry):
    """Correcting nothing changes nothing, in whatever form its rows are; correcting brings what is seen in line."""
    options = {"statistics": fd.estimate_statistics(eps, VP, NOISES)} if entry.name == "dpm_solver_v3" else {}
    plan = fd.plan(entry.name, VP, 24, grid="logsnr", final_sigma="sigma_min", **options)
    plain = fd.sample(eps, plan, NOISES, seeds=range(3))
    assert torch.allclose(fd.sample(eps, plan, NOISES, seeds=range(3), correction=same), plain, atol=1e-7)
    obs = fd.Observation(A, torch.full((1, 8), 0.7, dtype=torch.float64), 0.01)
    x = fd.sample(eps, plan, NOISES, seeds=range(3), observation=obs)
    assert float((x @ A.T - 0.7).abs().max()) < 0.2
    unseen = [k for k in range(SIZE) if k % 4]
    assert torch.allclose(x[:, unseen], plain[:, unseen], atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction", "score"])
def test_every_prediction_serves(prediction):
    def network(x: Tensor, t: Tensor) -> Tensor:
        point = VP.at(t[0].item())
        alpha, sigma = float(point.alpha), float(point.sigma)
        noise = eps(x, t)
        x0 = (x - sigma * noise) / alpha
        return {
            "epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0, "flow_prediction": noise - x0,
            "score": -noise / sigma,
        }[prediction]  # fmt: skip

    plan = fd.plan("dpmpp_2m", VP, 12, grid="logsnr", prediction=prediction)
    expected = fd.sample(eps, fd.plan("dpmpp_2m", VP, 12, grid="logsnr"), NOISES, observation=OBSERVED)
    assert torch.allclose(fd.sample(network, plan, NOISES, observation=OBSERVED), expected, atol=1e-7)


def conditional(x: Tensor, t: Tensor, shift: float | Tensor = 0.0) -> Tensor:
    """x0 of data N(shift, 1/4)."""
    shift = shift if isinstance(shift, float) else shift.view(-1, 1)
    return shift + (x - shift) / (1 + 4 * t.view(-1, 1) ** 2)


@pytest.mark.parametrize(
    "guidance", [2.5, torch.tensor([1.0, 2.0, 3.0]), fd.guidance.CFG(2.5), fd.guidance.APG(2.5, momentum=-0.5)]
)
@pytest.mark.parametrize("mode", ["batch", "calls"])
def test_what_is_corrected_is_the_guided_d(guidance, mode):
    plan = fd.plan("ddim", SCHEDULE, 10, grid="karras", prediction="sample")
    options = {"guidance": guidance, "uncond": {"shift": torch.zeros(3)}, "shift": torch.ones(3), "guidance_mode": mode}
    plain = fd.sample(conditional, plan, NOISES, **options)
    assert torch.allclose(fd.sample(conditional, plan, NOISES, correction=same, **options), plain, atol=1e-10)
    x = fd.sample(conditional, plan, NOISES, observation=OBSERVED, **options)
    assert float(OBSERVED.over(x).misfit(x).max()) < 3
    unseen = [k for k in range(SIZE) if k % 4]
    if isinstance(guidance, (float, Tensor)):
        assert torch.allclose(x[:, unseen], plain[:, unseen], atol=1e-9)


def test_gradients_go_through_guidance():
    """At a scale g, D of two linear denoisers is linear with the guided slope, and so is its covariance."""

    def scaled(x: Tensor, t: Tensor, by: float = 1.0) -> Tensor:
        return by * x / (1 + t.view(-1, 1) ** 2)

    seen = {}

    def look(step: object) -> Tensor:
        seen["slope"] = float(step.vjp(torch.ones_like(step.x))[0, 0])
        return step.denoised

    one = fd.plan("ddim", SCHEDULE, sigmas=[2.0, 0.0], prediction="sample")
    fd.sample(scaled, one, NOISES, correction=look, guidance=3.0, uncond={"by": 0.5}, guidance_mode="calls")
    assert seen["slope"] == pytest.approx((0.5 + 3 * 0.5) / 5)


def test_a_step_tells_what_a_function_needs():
    seen = []

    def look(step: object) -> Tensor:
        seen.append((step.i, step.n, step.t, step.alpha, step.sigma, tuple(step.x.shape)))
        return step.denoised + 0.1

    plan = fd.plan("ddim", VP, 4)
    x = fd.sample(eps, plan, NOISES, correction=look)
    assert [s[0] for s in seen] == [0, 1, 2, 3]
    assert [s[2:5] for s in seen] == [(row.t, row.alpha, row.sigma) for row in plan.rows]
    assert seen[0][1] == 4
    assert float((x - fd.sample(eps, plan, NOISES)).abs().min()) > 0.05


def test_iter_sample_yields_the_corrected_d():
    plan = fd.plan("dpmpp_2m", SCHEDULE, 6, grid="karras", prediction="sample")
    steps = [(s.x0.clone(), s.residual.clone()) for s in fd.iter_sample(model, plan, NOISES, observation=OBSERVED)]
    x = fd.sample(model, plan, NOISES, observation=OBSERVED)
    assert torch.allclose(steps[-1][0], x, atol=1e-6)
    assert float(steps[-1][1].max()) < 5
    with pytest.raises(ValueError, match="residual"):
        _ = next(fd.iter_sample(model, plan, NOISES)).residual


def test_a_mask_and_bounds_go_with_an_observation():
    plan = fd.plan("dpmpp_2m", SCHEDULE, 12, grid="karras", prediction="sample")
    mask = torch.ones(SIZE, dtype=torch.float64)
    mask[-2:] = 0.0
    image = torch.full_like(NOISES, 0.25)
    x = fd.sample(model, plan, NOISES, observation=OBSERVED, image=image, mask=mask, clamp=0.3)
    assert torch.allclose(x[:, -2:], image[:, -2:])
    assert float(x.abs().max()) <= 0.3 + 1e-9


def test_seeds_and_the_batch_around_a_sample_do_not_matter():
    plan = fd.plan("ddim", SCHEDULE, 10, grid="karras", prediction="sample", eta=1.0)
    x = fd.sample(model, plan, NOISES, observation=OBSERVED, seeds=[5, 6, 7])
    alone = fd.sample(model, plan, NOISES[1:2], observation=OBSERVED, seeds=[6])
    assert torch.allclose(x[1:2], alone, atol=1e-9)


class Network(nn.Module):
    """A network whose graph can be watched: it remembers its inputs weakly."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(SIZE, 64), nn.SiLU(), nn.Linear(64, SIZE)).double()
        self.seen: list[weakref.ref] = []
        self.alive = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        gc.collect()
        self.alive = max(self.alive, sum(ref() is not None for ref in self.seen))
        hidden = self.inner[0](x)
        self.seen.append(weakref.ref(hidden))
        return x / (1 + t.view(-1, 1) ** 2) + 0.01 * self.inner[2](torch.sigmoid(hidden) * hidden)


def test_one_evaluations_graph_is_kept_at_a_time():
    network = Network()
    plan = fd.plan("dpmpp_2m", SCHEDULE, 8, grid="karras", prediction="sample")
    fd.sample(network, plan, NOISES, observation=OBSERVED)
    assert len(network.seen) == 8
    assert network.alive <= 1  # the run's evaluator may hold the last one until it has the next


def test_no_parameter_gets_a_gradient_and_inference_mode_is_no_obstacle():
    network = Network()
    plan = fd.plan("dpmpp_2m", SCHEDULE, 4, grid="karras", prediction="sample")
    expected = fd.sample(network, plan, NOISES, observation=OBSERVED)
    with torch.inference_mode():
        found = fd.sample(network, plan, NOISES, observation=OBSERVED)
    assert torch.equal(found, expected)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not expected.requires_grad


def test_gradient_checkpointing_passes_through():
    network = Network()

    def checkpointed(x: Tensor, t: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(network, x, t, use_reentrant=False)

    plan = fd.plan("dpmpp_2m", SCHEDULE, 4, grid="karras", prediction="sample")
    expected = fd.sample(network, plan, NOISES, observation=OBSERVED)
    assert torch.allclose(fd.sample(checkpointed, plan, NOISES, observation=OBSERVED), expected)


@pytest.mark.parametrize("prediction", ["sample", "flow_prediction"])  # x is part of D by itself in the second
@pytest.mark.parametrize(
    "hides", [torch.no_grad(), lambda f: lambda x, t: f(x.detach(), t) * torch.ones((), requires_grad=True)]
)
def test_a_model_without_gradients_is_told_what_does_without(prediction, hides):
    def network(x: Tensor, t: Tensor) -> Tensor:
        x0 = model(x, t)
        return x0 if prediction == "sample" else (x - x0) / t[0] - x0

    remote = hides(network)
    plan = fd.plan("dpmpp_2m", SCHEDULE, 4, grid="karras", prediction=prediction)
    with pytest.raises(ValueError, match="'gaussian'"):
        fd.sample(remote, plan, NOISES, observation=OBSERVED)
    for correction in (GAUSSIAN, "proximal", "pseudoinverse"):
        assert fd.sample(remote, plan, NOISES, observation=OBSERVED, correction=correction).isfinite().all()


def test_only_the_corrections_without_gradients_are_captured():
    plan = fd.plan("dpmpp_2m", SCHEDULE, 4, grid="karras", prediction="sample")
    with pytest.raises(ValueError, match="correction: 'moment' takes gradients"):
        fd.capture(model, plan, NOISES, observation=OBSERVED)


def test_guidance_whose_history_differs_from_its_step_is_refused():
    plan = fd.plan("dpmpp_2m", SCHEDULE, 4, grid="karras", prediction="sample")
    options = {"guidance": fd.guidance.CFGpp(0.6), "uncond": {"shift": torch.zeros(3)}, "shift": torch.ones(3)}
    with pytest.raises(ValueError, match="guidance"):
        fd.sample(conditional, plan, NOISES, observation=OBSERVED, **options)
