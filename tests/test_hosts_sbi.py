"""sbi's predictor "fastdiff": known posteriors are met, and the protocol of sbi's `Diffuser` is kept."""

from __future__ import annotations

from itertools import pairwise

import pytest
import sbi_stand_ins as stand_in
import torch
from sbi_stand_ins import Potential, run

import fastdiff as fd
from fastdiff.hosts.sbi import FastdiffPredictor

KINDS = (stand_in.VP, stand_in.SubVP, stand_in.VE, stand_in.Flow)


def problem(kind: type, seed: int, observations: int = 2) -> tuple[Potential, torch.Tensor]:
    """A potential, and theta [S, B, SIZE] as sbi starts it: of the spread at t_max, not of unit noise."""
    generator = torch.Generator().manual_seed(seed)
    x_o = torch.randn(observations, stand_in.SIZE, generator=generator, dtype=torch.float64)
    estimator = kind(torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64))
    alpha, sigma = estimator.alpha_sigma(torch.tensor(estimator.t_max, dtype=torch.float64))
    z = torch.randn(5, observations, stand_in.SIZE, generator=generator, dtype=torch.float64)
    return Potential(estimator, x_o), (alpha**2 + sigma**2).sqrt() * z


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_ends_on_the_flows_solution_in_steps_minus_one_evaluations(kind: type, seed: int) -> None:
    potential, theta = problem(kind, seed)
    estimator = potential.vector_field_estimator
    predictor = FastdiffPredictor(potential)
    for steps, bound in ((11, 0.1), (61, 2e-3)):
        estimator.times.clear()
        states = run(predictor, theta, estimator.solve_schedule(steps))
        assert len(estimator.times) == steps - 1
        assert estimator.t_min - 1e-6 <= min(estimator.times) <= max(estimator.times) <= estimator.t_max + 1e-6
        assert states[-1].shape == theta.shape
        torch.testing.assert_close(states[-1], potential.end_of(theta), atol=bound, rtol=0)
    half = run(predictor, theta.float(), estimator.solve_schedule(61))[-1]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), states[-1], atol=1e-3, rtol=0)


def test_ddim_at_sbis_times_is_eulers_method_on_a_flow(seed: int) -> None:
    potential, theta = problem(stand_in.Flow, seed)
    estimator, ts = potential.vector_field_estimator, torch.tensor([1.0, 0.7, 0.25, 0.0], dtype=torch.float64)
    for found, (x, t1, t0) in zip(
        run(FastdiffPredictor(potential, plan="ddim", ts=ts), theta, ts)[1:],
        zip(run(FastdiffPredictor(potential, plan="ddim", ts=ts), theta, ts), ts[:-1], ts[1:], strict=False),
        strict=True,
    ):
        torch.testing.assert_close(found, x + (t0 - t1) * estimator.ode_fn(x, potential.x_o, t1))


def test_every_batch_of_samples_is_a_run_of_its_own(seed: int) -> None:
    potential, theta = problem(stand_in.VP, seed)
    predictor, ts = FastdiffPredictor(potential), potential.vector_field_estimator.solve_schedule(7)
    first, second = (run(predictor, start, ts)[-1] for start in (theta, theta + 1))
    assert torch.equal(run(FastdiffPredictor(potential), theta + 1, ts)[-1], second)
    assert torch.equal(run(predictor, theta, ts)[-1], first)


def test_a_corrector_begins_the_history_anew_at_the_given_times(seed: int) -> None:
    """sbi's correctors return another theta at t0: each step is then DDIM's, of first order."""
    potential, theta = problem(stand_in.VP, seed)
    ts = potential.vector_field_estimator.solve_schedule(5)
    predictor, ddim = FastdiffPredictor(potential, ts=ts), FastdiffPredictor(potential, plan="ddim", ts=ts)
    x = theta
    for t1, t0 in pairwise(ts):
        torch.testing.assert_close(predictor(x, t1, t0), ddim(x.clone(), t1, t0))
        x = predictor(x, t1, t0) + 0.01
    own = FastdiffPredictor(potential)
    with pytest.raises(ValueError, match=r"ts: .* corrector"):
        own(own(theta, ts[0], ts[1]) + 0.01, ts[1], ts[2])


@pytest.mark.parametrize("kind", KINDS)
def test_what_sbi_makes_of_the_score_is_left_alone_and_gets_a_low_order(kind: type, seed: int) -> None:
    """Of several observations the score is in `gradient` alone: here that of the posterior of N(x_o, spread^2) each."""
    potential, theta = problem(kind, seed, observations=1)
    estimator = potential.vector_field_estimator
    estimator.ode_fn = None  # type: ignore[method-assign]
    potential.guidance_method = "universal"
    assert FastdiffPredictor(potential)._adapted()
    theta_0 = run(FastdiffPredictor(potential), theta, estimator.solve_schedule(41))[-1]
    torch.testing.assert_close(theta_0, potential.end_of(theta), atol=0.05, rtol=0)
    if kind is stand_in.Flow:
        assert max(estimator.times) <= 0.99 + 1e-6


def test_a_plan_of_ones_own_has_as_many_steps_as_sbi(seed: int) -> None:
    potential, theta = problem(stand_in.VP, seed)
    plan = fd.plan("dpmpp_2m", fd.Schedule.vp(0.01, 10.0), 6, prediction="score")
    grid = potential.vector_field_estimator.solve_schedule
    assert torch.isfinite(run(FastdiffPredictor(potential, plan=plan), theta, grid(7))[-1]).all()
    with pytest.raises(ValueError, match="steps: expected 7 for this plan, got 9"):
        run(FastdiffPredictor(potential, plan=plan), theta, grid(9))


def test_bad_arguments_are_named(seed: int) -> None:
    potential, theta = problem(stand_in.VP, seed)
    with pytest.raises(TypeError, match=r"plan: .* got int"):
        FastdiffPredictor(potential, plan=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ts: the plan has times"):
        FastdiffPredictor(potential, plan=fd.plan(None, fd.Schedule.flow(), 4), ts=torch.ones(2))
    with pytest.raises(ValueError, match="ts: expected sbi's own times"):
        run(FastdiffPredictor(potential), theta, torch.tensor([1.0, 0.99997, 0.5]))


@pytest.mark.hosts
def test_sbi_itself_draws_by_it(seed: int) -> None:
    """Its own ODE and its Euler method agree with ours, and its posterior takes the name."""
    estimators = pytest.importorskip("sbi.neural_nets.estimators.flowmatching_estimator")
    posteriors = pytest.importorskip("sbi.inference.posteriors.vector_field_posterior")
    diffuser = pytest.importorskip("sbi.samplers.score.diffuser")

    class Exact(estimators.FlowMatchingEstimator):
        def forward(self, input: torch.Tensor, condition: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            shape = torch.broadcast_shapes(input.shape, condition.shape)
            exact = stand_in.Flow(torch.tensor(0.4))
            return exact.ode_fn(input, condition, time.reshape(-1)[0]).expand(shape)

    torch.manual_seed(seed)
    size = torch.Size([stand_in.SIZE])
    prior = torch.distributions.MultivariateNormal(torch.zeros(size), torch.eye(*size))
    posterior = posteriors.VectorFieldPosterior(
        Exact(torch.nn.Linear(1, 1), size, size), prior, device="cpu", sample_with="sde"
    )
    x_o = torch.randn(1, *size)
    options = {"predictor": "fastdiff", "show_progress_bars": False, "reject_outside_prior": False}
    drawn = posterior.sample((4000,), x=x_o, steps=13, **options)
    assert drawn.shape == (4000, *size)
    assert (drawn.mean(0) - x_o[0]).abs().max() < 7 * 0.4 / 4000**0.5 + 0.01
    batched = posterior.sample_batched(torch.Size([6]), torch.randn(2, *size), steps=5, **options)
    assert batched.shape == (6, 2, *size)

    posterior.potential_fn.set_x(x_o)
    theta, ts = torch.randn(5, 1, *size), torch.linspace(0.98, 0, 30)
    by: dict[str, torch.Tensor] = {}
    for name, params in (("euler_maruyama", {"eta": 1e-9}), ("fastdiff", {"plan": "ddim", "ts": ts})):
        host = diffuser.Diffuser(posterior.potential_fn, name, predictor_params=params)
        host.initialize = lambda count: theta
        by[name] = host.run(5, ts, show_progress_bars=False)
    torch.testing.assert_close(by["fastdiff"], by["euler_maruyama"], atol=1e-4, rtol=0)
    with torch.no_grad():
        ode = posterior.potential_fn.neural_ode(posterior.potential_fn.x_o).transform.inv(theta)
    ours = run(FastdiffPredictor(posterior.potential_fn), theta, torch.linspace(1, 0, 41))[-1]
    torch.testing.assert_close(ours, ode, atol=1e-3, rtol=0)
