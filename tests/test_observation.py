"""fd.Observation: what A, y and noise may be, and what is refused by name."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from linear_gaussian import MATRICES, NOISE, PRIOR, SCHEDULE, SIZE, drawn, measurement, model
from torch import Tensor

import fastdiff as fd

A = MATRICES["pooling"]
Y = measurement(A)
PLAN = fd.plan("dpm_solver_2m", SCHEDULE, 8, grid="karras", prediction="sample")
NOISES = fd.noise.randn((4, SIZE), range(4), dtype=torch.float64)


def pool(x: Tensor) -> Tensor:
    return x.unflatten(1, (8, 4)).mean(2)


def spread(v: Tensor) -> Tensor:
    return v.repeat_interleave(4, 1) / 4


class Physics:
    """An operator as deepinv has them."""

    class Noise:
        sigma = torch.tensor(NOISE)

    noise_model = Noise()

    def __init__(self):
        self.solved = 0

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return pool(x)

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        return spread(y)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        return 4 * spread(y)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float, **kwargs: object) -> Tensor:
        self.solved += 1
        return z + 4 * gamma / (4 + gamma) * spread(y - pool(z))

    __call__ = A


def sample(obs: fd.Observation, correction: object = None, noise: Tensor = NOISES, **options: object) -> Tensor:
    return fd.sample(model, PLAN, noise, observation=obs, correction=correction, **options)


def test_every_form_of_a_is_the_same_operator():
    expected = sample(fd.Observation(A, Y, NOISE))
    forms = [
        fd.Observation(pool, Y, NOISE),
        fd.Observation(pool, Y, NOISE, adjoint=spread),
        fd.Observation(A.expand(4, -1, -1), Y.expand(4, -1), NOISE),
        fd.Observation(Physics(), Y),
        fd.Observation(pool, Y, torch.full((1, 8), NOISE)),
        fd.Observation(lambda x: pool(x) + 1.0, Y + 1.0, NOISE),  # affine: linearised
        fd.Observation(lambda x: torch.complex(pool(x), 2 * pool(x)), torch.complex(Y, 2 * Y), NOISE * 5**0.5),
    ]
    for obs in forms:
        assert torch.allclose(sample(obs), expected, atol=1e-8), obs


def test_pseudo_inverse_and_minimiser_are_the_physics_own():
    physics = Physics()
    obs = fd.Observation(physics, Y)
    assert torch.allclose(
        sample(obs, "pseudoinverse"), sample(fd.Observation(A, Y, NOISE), "pseudoinverse"), atol=1e-10
    )
    assert torch.allclose(sample(obs, "proximal"), sample(fd.Observation(A, Y, NOISE), "proximal"), atol=1e-10)
    assert physics.solved == PLAN.nfe


def test_complex_measurements_are_pairs_of_real_ones():
    half = torch.zeros(17, dtype=torch.bool)
    half[:5] = True

    def fourier(x: Tensor) -> Tensor:
        return torch.fft.rfft(x, norm="ortho")[:, half]

    def adjoint(v: Tensor) -> Tensor:
        whole = torch.zeros(len(v), 17, dtype=v.dtype)
        whole[:, half] = v
        whole[:, 1:-1] /= 2  # irfft counts these twice
        return torch.fft.irfft(whole, n=SIZE, norm="ortho")

    y = fourier(PRIOR.mean[None] + 0.3)
    pairs = fd.Observation(lambda x: torch.view_as_real(fourier(x)), torch.view_as_real(y), NOISE)
    for obs in (fd.Observation(fourier, y, NOISE), fd.Observation(fourier, y, NOISE, adjoint=adjoint)):
        assert torch.allclose(sample(obs), sample(pairs), atol=1e-8)


def test_each_sample_has_its_own_measurement_and_mask():
    y = torch.stack([measurement(torch.eye(SIZE, dtype=torch.float64))[0] * k for k in (1.0, 0.5, -1.0, 2.0)])
    masks = torch.stack([torch.arange(SIZE) % 4 == k for k in range(4)]).double()
    together = sample(fd.Observation(lambda x: masks * x, masks * y, NOISE))
    for k in range(4):
        alone = fd.Observation(lambda x, k=k: masks[k] * x, masks[k : k + 1] * y[k : k + 1], NOISE)
        assert torch.allclose(sample(alone, noise=NOISES[k : k + 1])[0], together[k], atol=1e-9)


def test_groups_of_samples_share_a_measurement():
    y = torch.cat([Y, -Y])
    x = sample(fd.Observation(A, y, torch.tensor([NOISE, 2 * NOISE])))
    assert torch.allclose(x[:2], sample(fd.Observation(A, Y, NOISE))[:2])
    assert torch.allclose(x[2:], sample(fd.Observation(A, -Y, 2 * NOISE))[2:])


def test_a_nonlinear_a_is_linearised_at_d():
    """One step from pure noise: D = 0, so A = sin is its slope there, with the value that it has."""
    one = fd.plan("ddim", SCHEDULE, sigmas=[3.0, 0.0], prediction="sample")
    zero = torch.zeros(1, SIZE, dtype=torch.float64)
    bent = fd.sample(
        model, one, zero, observation=fd.Observation(lambda x: torch.sin(3 * pool(x)), Y, NOISE),
        correction=fd.posterior.Moment(8),
    )  # fmt: skip
    straight = fd.sample(
        model, one, zero, observation=fd.Observation(3 * A, Y, NOISE), correction=fd.posterior.Moment(8)
    )
    assert torch.allclose(bent, straight, atol=1e-10)


@pytest.mark.parametrize("correction", ["moment", "proximal"])
def test_a_is_asked_about_each_d_once(correction):
    """What is checked at the first evaluation is what the correction reads."""
    asked = []

    def bent(x: Tensor) -> Tensor:
        asked.append(x.detach().clone())
        return torch.sin(pool(x))

    sample(fd.Observation(bent, Y, NOISE), fd.posterior.Moment(2) if correction == "moment" else correction)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(asked, 2))


@pytest.mark.filterwarnings("ignore:correction")
@pytest.mark.parametrize(
    "noise",
    [
        fd.posterior.Gaussian(NOISE),
        lambda prediction, y: -0.5 * ((y - prediction) / NOISE).square().flatten(1).sum(1),
    ],
)
def test_gaussian_noise_as_a_likelihood_is_gaussian_noise(noise):
    expected = sample(fd.Observation(A, Y, NOISE), "gradient")
    assert torch.allclose(sample(fd.Observation(A, Y, noise), "gradient"), expected, atol=1e-9)


@pytest.mark.parametrize(
    "likelihood", [fd.posterior.Poisson(20.0), fd.posterior.Laplace(0.3), fd.posterior.Gaussian(0.4)]
)
def test_a_likelihoods_slope_is_that_of_its_log_probability(likelihood):
    prediction = torch.tensor([[0.3, 0.8], [1.4, 0.2]], dtype=torch.float64)
    y = torch.tensor([[0.25, 0.9], [1.0, 0.35]], dtype=torch.float64)
    by_autograd = fd.posterior.Likelihood.slope(likelihood, prediction, y)
    assert torch.allclose(likelihood.slope(prediction, y), by_autograd)
    if isinstance(likelihood, fd.posterior.Gaussian):
        curvature = fd.posterior.Likelihood.information(likelihood, prediction, y)
        assert torch.allclose(likelihood.information(prediction, y), curvature)


@pytest.mark.parametrize(
    ("likelihood", "room"),  # of the parabola that Poisson's is taken for; slopes are up to 30 there
    [(fd.posterior.Gaussian(0.4), 1e-9), (fd.posterior.Laplace(0.3), 1e-5), (fd.posterior.Poisson(200.0), 3.0)],
)
def test_smoothing_averages_over_where_a_x0_may_be(likelihood, room):
    y, variance = torch.tensor([[1.3]], dtype=torch.float64), 0.01
    nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None] * variance**0.5
    weight = torch.exp(-0.5 * nodes.square() / variance) / math.sqrt(2 * math.pi * variance) * (nodes[1] - nodes[0])

    def average(prediction: Tensor) -> Tensor:
        each = likelihood.log_prob(prediction + nodes, y.expand_as(nodes)).exp()
        return (each[:, None] * weight).sum().log()

    for value in (1.1, 1.3, 1.8):
        at = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(average(at), at)
        at = at.detach()
        assert float(likelihood.smoothed_log_prob(at, y, variance)) == pytest.approx(float(average(at)), abs=room)
        assert float(likelihood.smoothed_slope(at, y, variance)) == pytest.approx(float(slope), abs=room)


def test_poisson_and_laplace_probabilities_are_the_distributions():
    prediction = torch.tensor([[0.3, 0.8]], dtype=torch.float64)
    counts = torch.tensor([[7.0, 15.0]], dtype=torch.float64)
    poisson = torch.distributions.Poisson(20 * prediction).log_prob(counts).sum(1)
    assert torch.allclose(fd.posterior.Poisson(20.0).log_prob(prediction, counts / 20), poisson)
    laplace = torch.distributions.Laplace(prediction, 0.3).log_prob(counts / 20).sum(1)
    assert torch.allclose(fd.posterior.Laplace(0.3).log_prob(prediction, counts / 20), laplace)


@pytest.mark.filterwarnings("ignore:correction")
@pytest.mark.parametrize("noise", [fd.posterior.Poisson(50.0), fd.posterior.Laplace(0.05)], ids=["poisson", "laplace"])
def test_other_noise_than_gaussian_draws_what_fits(noise):
    plan = fd.plan("ddim", SCHEDULE, 100, grid="karras", prediction="sample", eta=1.0)
    above = Y.abs() + 0.1
    options = {"observation": fd.Observation(A, above, noise), "correction": "gradient", "seeds": range(4)}
    x = fd.sample(model, plan, NOISES, **options)
    free = fd.sample(model, plan, NOISES, seeds=range(4))
    assert float((pool(x) - above).abs().mean()) < 0.35 * float((pool(free) - above).abs().mean())


@pytest.mark.filterwarnings("ignore:correction")
def test_the_unit_of_measurements_does_not_matter_to_gradients():
    mask = MATRICES["mask"]
    y = measurement(mask)
    small, large = (sample(fd.Observation(c * mask, c * y, c * NOISE), "gradient") for c in (1.0, 100.0))
    assert torch.allclose(small, large, atol=1e-9)


def test_float32_halves_and_shapes_of_any_kind():
    shape = (2, 2, 4, 4)
    obs = fd.Observation(lambda x: x.mean((1, 3)), torch.ones(1, 4), 0.1)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return x / (1 + t.view(-1, 1, 1, 1).to(x) ** 2)

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = fd.sample(denoiser, PLAN, torch.zeros(shape, dtype=dtype), observation=obs)
        assert x.dtype == dtype
        assert float((x.float().mean((1, 3)) - 1).abs().max()) < 0.15


BAD = [
    ({"y": torch.tensor([[math.nan] * 8])}, "y"),
    ({"y": torch.ones(1, 8, dtype=torch.int64)}, "y"),
    ({"noise": 0.0}, "noise"),
    ({"noise": -1.0}, "noise"),
    ({"noise": math.nan}, "noise"),
    ({"noise": None}, "noise"),
    ({"noise": torch.tensor([[0.1, 0.0] * 4])}, "noise"),
    ({"noise": torch.ones(1, 5)}, "noise"),
    ({"A": A.float() * math.inf}, "A"),
    ({"A": A[None, None]}, "A"),
    ({"y": torch.complex(Y, Y)}, "y"),
    ({"A": pool, "adjoint": lambda v: 2 * spread(v)}, "adjoint"),
    ({"A": lambda x: x[:, :3], "adjoint": spread}, "A"),
]


@pytest.mark.parametrize(("given", "named"), BAD)
def test_what_is_no_observation_is_refused_by_name(given, named):
    arguments = {"A": A, "y": Y, "noise": NOISE, **given}
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        fd.Observation(**arguments)


@pytest.mark.parametrize(("given", "named"), [({"A": 3.0}, "A"), ({"y": [1.0]}, "y"), ({"noise": "loud"}, "noise")])
def test_what_is_of_another_type_is_refused_by_name(given, named):
    with pytest.raises(TypeError, match=rf"^{named}\b"):
        fd.Observation(**{"A": A, "y": Y, "noise": NOISE, **given})


@pytest.mark.parametrize(
    ("obs", "options", "named"),
    [
        (fd.Observation(lambda x: x[:, :5], Y, NOISE), {}, "A: expected a result of shape"),
        (fd.Observation(lambda x: pool(x) * math.nan, Y, NOISE), {}, "A: expected finite"),
        (fd.Observation(lambda x: torch.complex(pool(x), pool(x)), Y, NOISE), {}, "A: "),
        (fd.Observation(torch.ones(8, 5, dtype=torch.float64), Y, NOISE), {}, "A: 5 columns"),
        (fd.Observation(lambda x: pool(x.detach()), Y, NOISE), {}, "A: no gradient"),
        (fd.Observation(A, Y.expand(3, -1), NOISE), {}, "observation: 3 measurements"),
        (fd.Observation(A, Y, NOISE), {"correction": "momentum"}, "correction"),
        (fd.Observation(A, Y, NOISE), {"correction": "gaussian"}, "correction: 'gaussian' needs"),
        (fd.Observation(pool, Y, NOISE), {"correction": "pseudoinverse"}, "pinv"),
        (fd.Observation(A, Y, fd.posterior.Laplace(0.1)), {}, "correction"),
        (fd.Observation(A, Y, NOISE), {"parallel": True}, "observation"),
        (fd.Observation(A, Y, NOISE), {"graph": True}, "graph"),
        (None, {"correction": "moment"}, "observation"),
        (fd.Observation(A, Y, NOISE), {"correction": lambda step: step.denoised[:, :3]}, "correction"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(obs, options, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        fd.sample(model, PLAN, NOISES, observation=obs, **options)


def test_the_gaussian_law_is_drawn_by_ensembles_of_one_call():
    """A run in one batch is the run of each sample: what the law of `drawn` is computed from."""
    obs = fd.Observation(A, Y, NOISE)
    law = drawn(PLAN, observation=obs, correction=fd.posterior.GaussianPrior(PRIOR, 8))
    x = sample(obs, fd.posterior.GaussianPrior(PRIOR, 8))
    columns = torch.stack(
        [
            sample(obs, fd.posterior.GaussianPrior(PRIOR, 8), noise=e[None])[0] - law.mean
            for e in torch.eye(SIZE, dtype=torch.float64)
        ]
    )
    assert torch.allclose(law.mean + NOISES @ columns, x, atol=1e-7)
