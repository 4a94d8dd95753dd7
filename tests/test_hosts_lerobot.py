"""Robot policies draw the chunks of their plan: from the same noise, with the same bounds, prefix and conditions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from robot_stand_ins import ACTIONS, HORIZON, DiffusionPolicy, FlowModel, LowdimPolicy, velocity
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts.lerobot import accelerate_policy, plan_for

SEEN = torch.tensor([[-1.0], [0.3], [1.0], [0.0]])
BETAS = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True, "num_train_timesteps": 100}


def start(seed: int = 0) -> Tensor:
    return torch.randn(len(SEEN), HORIZON, ACTIONS, generator=torch.Generator().manual_seed(seed))


def flow_policy(**options: Any) -> Any:
    policy = torch.nn.Module()
    policy.model = FlowModel(**options)
    return policy


def distance(x: Tensor, y: Tensor) -> float:
    """The root mean square of the difference."""
    return float((x - y).square().mean().sqrt())


def apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max())


@pytest.mark.parametrize("steps", [4, 10, 100])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_ddim_at_the_times_of_a_diffusion_policy_is_its_own_loop(steps: int, prediction: str) -> None:
    policy = DiffusionPolicy(steps=steps, prediction_type=prediction)
    own = policy.predict_action_chunk(SEEN, start())
    times = policy.diffusion.noise_scheduler.timesteps.numpy()
    accelerate_policy(policy, plan_for(policy, steps, "ddim", grid=times))
    assert apart(policy.predict_action_chunk(SEEN, start()), own) < 2e-5


@pytest.mark.parametrize("solver", [None, "dpmpp_2m"])
def test_the_range_of_clip_sample_bounds_the_chunks_of_every_plan(solver: str | None) -> None:
    policy = DiffusionPolicy(clip_sample_range=0.3)
    accelerate_policy(policy, plan_for(policy, 6, solver))
    bounded = policy.predict_action_chunk(SEEN, start())
    assert float(bounded.abs().max()) < 0.3001
    free = DiffusionPolicy(clip_sample=False, clip_sample_range=0.3)
    accelerate_policy(free, plan_for(free, 6, solver))
    assert float(free.predict_action_chunk(SEEN, start()).abs().max()) > 0.5


@pytest.mark.parametrize("evaluations", [4, 6, 8, 10])
def test_the_default_plan_is_nearer_to_the_converged_chunk_than_the_loop_of_a_diffusion_policy(
    evaluations: int,
) -> None:
    policy = DiffusionPolicy(steps=evaluations)
    converged = fd.sample(policy.diffusion.unet, plan_for(policy, 300, "dpmpp_2m"), start(), global_cond=SEEN)
    own = policy.predict_action_chunk(SEEN, start())
    accelerate_policy(policy, evaluations)
    assert distance(policy.predict_action_chunk(SEEN, start()), converged) < 0.7 * distance(own, converged)


@pytest.mark.parametrize("evaluations", [4, 6, 8, 10])
def test_the_default_plan_is_nearer_to_the_converged_chunk_than_the_loop_of_a_flow_policy(evaluations: int) -> None:
    policy = flow_policy(steps=evaluations)
    images, state = torch.zeros(1), SEEN
    plan = plan_for(policy, 300, "dpmpp_2m", grid="quadratic")
    converged = fd.sample(lambda x, t: velocity(x, t, SEEN), plan, start())
    own = policy.model.sample_actions(images, state, noise=start())
    accelerate_policy(policy, evaluations)
    ours = policy.model.sample_actions(images, state, noise=start())
    assert distance(ours, converged) < 0.7 * distance(own, converged)


def test_the_chunk_starts_from_the_generators_noise_and_a_plans_own_noise_follows_it() -> None:
    policy = DiffusionPolicy()
    accelerate_policy(policy, plan_for(policy, 6, "ddim", eta=1.0))

    def draw(seed: int) -> Tensor:
        return policy.diffusion.conditional_sample(4, SEEN, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert apart(draw(1), draw(2)) > 0.1
    accelerate_policy(policy, 6)
    expected = fd.sample(policy.diffusion.unet, plan_for(policy, 6), start(3), global_cond=SEEN, clamp=1.0)
    assert torch.equal(draw(3), expected.clamp(-1, 1))


def test_a_flow_policys_loop_takes_the_states_of_the_plan_and_makes_its_prefix_once() -> None:
    for name in ("num_steps", "num_inference_steps"):
        policy = flow_policy(name=name)
        plan = plan_for(policy, 5, "midpoint")
        accelerate_policy(policy, plan)
        ours = policy.model.sample_actions(torch.ones(1), SEEN, noise=start())
        expected = fd.sample(lambda x, t: velocity(x, t, SEEN + 1), plan, start())
        assert apart(ours, expected) < 5e-6
        assert policy.model.prefixes == 1
        assert policy.model.asked[:10] == pytest.approx([row.t for row in plan.rows])
        assert getattr(policy.model.config, name) == 10


def test_euler_on_a_flow_policys_grid_is_its_own_loop() -> None:
    policy = flow_policy()
    own = policy.model.sample_actions(torch.zeros(1), SEEN, noise=start())
    accelerate_policy(policy, plan_for(policy, 10, "ddim", grid="time"))
    assert apart(policy.model.sample_actions(torch.zeros(1), SEEN, noise=start()), own) < 5e-6


def test_chunks_that_continue_the_last_one_and_other_numbers_of_steps_are_the_librarys_own() -> None:
    policy = flow_policy()
    own = copy.deepcopy(policy).model
    accelerate_policy(policy, 4)
    for options in ({"prev_chunk_left_over": start(1)}, {"num_steps": 7}):
        given = {"noise": start(), **options}
        ours, theirs = (m.sample_actions(torch.zeros(1), SEEN, **given) for m in (policy.model, own))
        assert torch.equal(ours, theirs)


def test_a_loop_that_does_not_call_the_network_once_a_step_is_an_error() -> None:
    policy = flow_policy()
    accelerate_policy(policy, 4)
    for extra in (-1, 1):
        policy.model.extra_calls = extra
        with pytest.raises(RuntimeError, match=r"denoise_step|last row"):
            policy.model.sample_actions(torch.zeros(1), SEEN, noise=start())
    policy.model.extra_calls = 0
    assert policy.model.config.num_inference_steps == 10
    policy.model.sample_actions(torch.zeros(1), SEEN, noise=start())


def test_undo_and_copies_leave_the_others_policy_alone() -> None:
    for policy, call in (
        (DiffusionPolicy(steps=5), lambda p: p.diffusion.conditional_sample(4, SEEN, noise=start())),
        (flow_policy(), lambda p: p.model.sample_actions(torch.zeros(1), SEEN, noise=start())),
    ):
        own = call(policy)
        handle = accelerate_policy(policy, 4)
        ours, copied = call(policy), copy.deepcopy(policy)
        assert apart(ours, own) > 1e-3
        handle.undo()
        assert torch.equal(call(policy), own)
        assert torch.equal(call(copied), ours)


def test_wrong_policies_and_plans_are_named() -> None:
    with pytest.raises(TypeError, match="policy: expected a diffusion policy"):
        accelerate_policy(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"plan: expected one of prediction='epsilon'"):
        accelerate_policy(DiffusionPolicy(), fd.plan(None, fd.Schedule.flow(), 8))
    with pytest.raises(ValueError, match="schedule: the plan was made for one"):
        accelerate_policy(DiffusionPolicy(), fd.plan(None, fd.Schedule.scaled_linear(), 8))
    policy = flow_policy()
    with pytest.raises(ValueError, match="plan: expected a deterministic one"):
        accelerate_policy(policy, plan_for(policy, 8, "euler_ancestral"))
    with pytest.raises(ValueError, match="steps: expected a whole number"):
        accelerate_policy(DiffusionPolicy(), 0)


# diffusion_policy: conditions in the trajectory, and a scheduler that is told `generator` in every step.


def low_dim(scheduler: Any, steps: int = 10) -> tuple[LowdimPolicy, tuple[Tensor, Tensor]]:
    data = torch.full((len(SEEN), HORIZON, ACTIONS), 0.25)
    mask = torch.zeros_like(data, dtype=torch.bool)
    mask[:, :2] = True
    return LowdimPolicy(scheduler, steps), (data, mask)


def draw(policy: LowdimPolicy, given: tuple[Tensor, Tensor], seed: int = 5) -> Tensor:
    return policy.predict_action(SEEN, *given, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("ours", "theirs"), [(fd.DDIMScheduler, DDIMScheduler), (fd.DDPMScheduler, DDPMScheduler)])
def test_the_plain_loop_of_diffusion_policy_runs_with_fastdiffs_schedulers_and_the_same_seed(
    ours: Any, theirs: Any
) -> None:
    policy, given = low_dim(theirs(**BETAS), 100)
    own = draw(policy, given)
    policy.noise_scheduler = ours.from_config(policy.noise_scheduler.config)
    assert apart(draw(policy, given), own) < 2e-5


def test_a_plan_keeps_what_stands_in_the_trajectory_of_diffusion_policy() -> None:
    policy, given = low_dim(DDPMScheduler(**BETAS))
    own = draw(policy, given)
    times = torch.arange(90, -1, -10).numpy()
    accelerate_policy(policy, plan_for(policy, 10, "ddim", grid=times))
    policy_of_ddim, _ = low_dim(DDIMScheduler(**BETAS))
    ours = draw(policy, given)
    assert torch.equal(ours[:, :2], given[0][:, :2])
    assert apart(ours, draw(policy_of_ddim, given)) < 2e-5
    assert apart(ours, own) > 1e-3


@pytest.mark.hosts
def test_lerobots_own_diffusion_policy_draws_the_plan_and_the_same_chunk_at_its_settings() -> None:
    modeling = pytest.importorskip("lerobot.policies.diffusion.modeling_diffusion", exc_type=ImportError)
    types = pytest.importorskip("lerobot.configs.types")
    configuration = pytest.importorskip("lerobot.policies.diffusion.configuration_diffusion")
    feature, kinds = types.PolicyFeature, types.FeatureType
    config = configuration.DiffusionConfig(
        input_features={
            "observation.state": feature(kinds.STATE, (2,)),
            "observation.environment_state": feature(kinds.ENV, (6,)),
        },
        output_features={"action": feature(kinds.ACTION, (ACTIONS,))},
        down_dims=(32, 64), noise_scheduler_type="DDIM", num_inference_steps=10, clip_sample=False, device="cpu",
    )  # fmt: skip
    policy = modeling.DiffusionPolicy(config).eval()
    seen = {"observation.state": torch.randn(4, 2), "observation.environment_state": torch.randn(4, 6)}

    def act() -> Tensor:
        policy.reset()
        return policy.select_action(dict(seen), noise=start())

    own = act()
    times = policy.diffusion.noise_scheduler.timesteps.numpy()
    handle = accelerate_policy(policy, plan_for(policy, 10, "ddim", grid=times))
    assert apart(act(), own) < 1e-4 * float(own.abs().max())
    handle.undo()
    assert torch.equal(act(), own)
    accelerate_policy(policy, 6)
    assert act().shape == own.shape
