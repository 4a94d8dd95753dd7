"""More lines of the table of deviations: what diffusers does, and what is done here."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_ddim_cogvideox import DDIMSchedulerOutput
from direct_loops import noise_of, tensor
from in_double import in_double
from scheduler_loops import loop, model, start, with_variance

from fastdiff import schedulers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def both(name: str, **options: object) -> list:
    return [getattr(library, name)(**options) for library in (schedulers, diffusers)]


def as_many(name: str, n: int, **options: object) -> list:
    made = both(name, **options)
    for scheduler in made:
        scheduler.set_timesteps(n)
    return made


def gaps(schedulers_: list, **step: object) -> list[float]:
    """How far batch_step_no_noise is from step without its noise, over all times at once."""
    found = []
    for scheduler in schedulers_:
        times = scheduler.timesteps
        x = tensor(4, torch.float32)[:1].expand(len(times), -1, -1, -1).contiguous()
        m = model(x, times)
        at_once = scheduler.batch_step_no_noise(m, times, x, **step)
        silent = {"variance_noise": torch.zeros_like(x[:1])} if step else {}
        alone = [scheduler.step(m[i : i + 1], t, x[i : i + 1], **step, **silent)[0] for i, t in enumerate(times)]
        found.append(float((at_once - torch.cat(alone)).abs().max() / at_once.abs().max()))
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_sample": False}, {"thresholding": True, "sample_max_value": 1.5}, {"prediction_type": "sample"}],
)
def test_parallel_steps_of_ddim_are_the_steps_one_by_one_and_end_where_the_schedule_does(options):
    """Its alpha at the end is final_alpha_cumprod, and not 1."""
    ours, theirs = gaps(as_many("DDIMParallelScheduler", 7, set_alpha_to_one=False, **options))
    assert ours < 2e-6
    assert theirs > 1e-5
    ours = gaps(as_many("DDIMParallelScheduler", 7, **options)[:1], eta=0.7, use_clipped_model_output=True)
    assert ours[0] < 2e-6
    with pytest.raises(AssertionError):
        gaps(as_many("DDIMParallelScheduler", 7, **options)[1:], eta=0.7)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_parallel_steps_of_ddpm_end_at_the_next_of_the_times(spacing):
    """And not T // n before their own."""
    made = as_many("DDPMParallelScheduler", 7, timestep_spacing=spacing)
    found = []
    for scheduler in made:
        times = scheduler.timesteps
        x = tensor(4, torch.float32)[:1].expand(len(times), -1, -1, -1).contiguous()
        m, steps = model(x, times), []
        for i, t in enumerate(times):
            generator = torch.Generator().manual_seed(3)
            step = scheduler.step(m[i : i + 1], t, x[i : i + 1], generator=generator).prev_sample
            noise = torch.randn(x[:1].shape, generator=generator.manual_seed(3))
            steps.append(step - (scheduler._get_variance(t) ** 0.5 * noise if t > 0 else 0))
        at_once = scheduler.batch_step_no_noise(m, times, x)
        found.append(float((at_once - torch.cat(steps)).abs().max()))
    assert found[0] < 1e-5 < 1e-3 < found[1]


def test_parallel_steps_with_a_variance_and_in_one_graph():
    scheduler = schedulers.DDPMParallelScheduler(variance_type="learned_range")
    scheduler.set_timesteps(5)
    times, x = scheduler.timesteps[[3, 0]], tensor(4, torch.float32)
    m = with_variance(x, times)
    plain = scheduler.batch_step_no_noise(m, times, x)
    torch.testing.assert_close(plain, scheduler.batch_step_no_noise(m[:, :3], times, x))
    torch._dynamo.reset()
    compiled = torch.compile(scheduler.batch_step_no_noise, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(m[:, :3], times, x), plain)


def test_sa_solver_with_thresholds_in_noise_form_and_learned_variances():
    options = {"algorithm_type": "noise_prediction", "thresholding": True, "sample_max_value": 1.5}
    ours, theirs = as_many("SASolverScheduler", 6, **options)
    assert loop(ours)[0].isfinite().all()
    with pytest.raises(RuntimeError):
        loop(theirs)
    for form in ("data_prediction", "noise_prediction"):
        ours, theirs = as_many("SASolverScheduler", 6, variance_type="learned", algorithm_type=form)
        plain = schedulers.SASolverScheduler(algorithm_type=form)
        plain.set_timesteps(6)
        assert torch.equal(loop(ours, network=with_variance)[0], loop(plain)[0])
        with pytest.raises(RuntimeError):
            loop(theirs, network=with_variance)


def test_sa_solver_on_two_equal_times():
    ours, theirs = as_many("SASolverScheduler", 8)
    for scheduler in (ours, theirs):
        scheduler.sigmas[3] = scheduler.sigmas[2]
    assert loop(ours)[0].isfinite().all()
    assert not loop(theirs)[0].isfinite().all()


def test_cosine_down_to_its_least_level_and_in_third_order():
    ours = schedulers.CosineDPMSolverMultistepScheduler(final_sigmas_type="sigma_min")
    ours.set_timesteps(5)
    assert loop(ours)[0].isfinite().all()
    with in_double():  # where its two roundings of sigma_min are equal; else torchsde has no end between them
        theirs = diffusers.CosineDPMSolverMultistepScheduler(final_sigmas_type="sigma_min")
        theirs.set_timesteps(5)
        assert not loop(theirs)[0].isfinite().all()
    ours, theirs = as_many("CosineDPMSolverMultistepScheduler", 5, solver_order=3)
    assert loop(ours)[0].isfinite().all()
    with pytest.raises(UnboundLocalError):
        loop(theirs)


def test_one_step_of_unclip_and_karras_ve():
    ours, theirs = both("UnCLIPScheduler")
    ours.set_timesteps(1)
    assert ours.timesteps.tolist() == [999]
    x = start(ours)
    assert ours.step(model(x, 999.0), ours.timesteps[0], x, prev_timestep=-1).prev_sample.isfinite().all()
    with pytest.raises(ZeroDivisionError):
        theirs.set_timesteps(1)
    ours, theirs = as_many("KarrasVeScheduler", 1)
    assert ours.schedule.tolist() == [100.0**2]
    assert theirs.schedule.isnan().all()


def test_a_flow_maps_step_goes_by_its_time_wherever_the_run_was_said_to_begin():
    ours, theirs = as_many("FlowMapEulerDiscreteScheduler", 4)
    x = start(ours)
    plain = ours.step(0.1 * x, ours.timesteps[0], x).prev_sample
    ours.set_timesteps(4)
    for scheduler in (ours, theirs):
        scheduler.set_begin_index(2)
    assert torch.equal(ours.step(0.1 * x, ours.timesteps[0], x).prev_sample, plain)
    theirs.step(0.1 * x, theirs.timesteps[0], x)
    assert (ours.step_index, theirs.step_index) == (1, 3)


def test_unclip_knows_velocities():
    ours, theirs = as_many("UnCLIPScheduler", 4, prediction_type="v_prediction")
    x, t = start(ours), ours.timesteps[1]
    alpha = ours.alphas_cumprod[t].sqrt()
    x0 = ours.step(0.1 * x, t, x).pred_original_sample
    torch.testing.assert_close(x0, (alpha * x - (1 - alpha**2).sqrt() * 0.1 * x).clamp(-1, 1))
    with pytest.raises(ValueError, match="prediction_type"):
        theirs.step(0.1 * x, t, x)


def test_cogvideox_gives_what_return_dict_asks_for_in_its_first_step_too():
    ours, theirs = as_many("CogVideoXDPMScheduler", 4)
    x = start(ours)
    made = [one.step(0.1 * x, None, one.timesteps[0], None, x, return_dict=True) for one in (ours, theirs)]
    assert [type(one) for one in made] == [DDIMSchedulerOutput, tuple]


def test_many_short_steps_back_up_are_taken_in_float32():
    """In bfloat16 most of a noise of 0.01 is lost next to 0.5."""
    x = torch.full((2, 3, 64, 64), 0.5, dtype=torch.bfloat16)
    spreads = []
    for scheduler in as_many("RePaintScheduler", 4):
        up = scheduler.undo_step(x, 250, noise_of(1)).double()
        alphas = scheduler.alphas_cumprod.double()
        ratio = float(alphas[499] / alphas[249])
        spreads.append(float((up**2).mean()) / (1 - ratio + 0.25 * ratio))
    # The mean of 24576 squares of normals has a standard error of (2 / 24576)^1/2 = 0.009.
    assert abs(spreads[0] - 1) < 0.07 < 0.1 < abs(spreads[1] - 1)
