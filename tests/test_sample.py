"""What the loop does for its caller: shapes, dtypes, times, guidance, seeds, images, masks, limits, errors."""

import numpy as np
import pytest
import torch
from gaussian import DATA, run_rows

import fastdiff as fd

VP = fd.Schedule.scaled_linear()
DATA_SOLVERS = ["ddim", "heun", "dpmpp_2m", "dpmpp_3s", "unipc", "dpmpp_sde", "dpm_2_ancestral", "dpmpp_3m_sde"]
NOISE_FORM = [("dpm_solver_2m", {}), ("dpm_solver_3s", {}), ("unipc", {"form": "noise"})]
ALL_FORMS = [*[(name, {}) for name in DATA_SOLVERS], *NOISE_FORM]
STOCHASTIC = [entry.name for entry in fd.solvers() if entry.stochastic]


def model(x, t, shift=0.0):
    scale = (t / 1000).view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    shift = shift.view(-1, *[1] * (x.ndim - 1)).to(x.dtype) if isinstance(shift, torch.Tensor) else shift
    return torch.sin(1.3 * x + scale) + shift


def plan_of(solver="dpmpp_2m", steps=5, **options):
    return fd.plan(solver, VP, steps, grid="logsnr", **options)


@pytest.mark.parametrize("entry", fd.solvers(), ids=lambda entry: entry.name)
def test_the_loop_computes_the_rows_formula(entry):
    """Against the plain interpreter of tests/gaussian.py, with the same noises."""
    plan, noise = plan_of(entry.name, 6), fd.noise.randn((1, 4), [11], dtype=torch.float64)

    def perfect(x, t):
        alpha, sigma = float(VP.alpha(t[0].item())), float(VP.sigma(t[0].item()))
        x0 = DATA.x0(x.numpy(), alpha, sigma)
        return torch.from_numpy((x.numpy() - alpha * x0) / sigma)

    def xi(index):
        return fd.noise.randn((1, 4), [11], index=index, dtype=torch.float64).numpy()

    expected = run_rows(plan, DATA.x0, plan.init_scale * noise.numpy(), noise=xi)
    np.testing.assert_allclose(fd.sample(perfect, plan, noise, seeds=[11]).numpy(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (2, 4, 5, 6), (2, 3, 2, 3, 2), (0, 3), (2, 0), (0,)])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "dpmpp_sde"])
def test_any_shape_is_sampled_and_each_sample_alone_gives_the_same(shape, solver):
    noise = torch.randn(shape, dtype=torch.float64)
    seeds = list(range(7, 7 + shape[0]))
    out = fd.sample(model, plan_of(solver), noise, seeds=seeds)
    assert out.shape == shape
    for b in range(shape[0]):
        alone = fd.sample(model, plan_of(solver), noise[b : b + 1], seeds=seeds[b : b + 1])
        torch.testing.assert_close(alone[0], out[b], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_dtype", [None, torch.float32, torch.bfloat16])
def test_model_reads_its_dtype_and_the_result_has_the_noises(dtype, model_dtype):
    seen = set()

    def watching(x, t):
        seen.add((x.dtype, t.dtype))
        return model(x, t)

    noise, plan = fd.noise.randn((2, 3, 8), [1, 2], dtype=torch.float64), plan_of(prediction="sample")
    out = fd.sample(watching, plan, noise.to(dtype), model_dtype=model_dtype)
    assert out.dtype == dtype
    assert seen == {(model_dtype or dtype, torch.float64 if dtype == torch.float64 else torch.float32)}
    rounding = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
    tolerance = max(rounding[dtype], rounding[model_dtype or dtype])
    torch.testing.assert_close(out.double(), fd.sample(model, plan, noise), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("guided", "copies"), [(False, 1), (True, 2)])
def test_model_is_told_the_plans_times_once_for_each_sample_it_sees(guided, copies):
    times = []

    def watching(x, t):
        assert t.shape == (len(x),) == (3 * copies,)
        times.append(t.clone())
        return model(x, t)

    plan = plan_of("heun", 4)
    options = {"guidance": 2.0, "uncond": {}} if guided else {}
    fd.sample(watching, plan, torch.randn(3, 2, dtype=torch.float64), **options)
    assert [t[0].item() for t in times] == [row.t for row in plan.rows]
    assert all((t == t[0]).all() for t in times)


@pytest.mark.parametrize("scale", [3.0, 0.0, -1.0, torch.tensor([3.0, 0.5])])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "dpm_solver_2s"])
def test_guidance_in_one_batch_equals_two_calls_and_the_formula(solver, scale):
    noise, plan = torch.randn(2, 6, dtype=torch.float64), plan_of(solver)
    cond, uncond = torch.tensor([0.3, -0.2]).double(), torch.tensor([0.0, 0.1]).double()
    g = scale.view(-1, 1) if isinstance(scale, torch.Tensor) else scale

    def by_hand(x, t):
        return model(x, t, uncond) + g * (model(x, t, cond) - model(x, t, uncond))

    expected = fd.sample(by_hand, plan, noise)
    for mode in ("batch", "calls"):
        out = fd.sample(model, plan, noise, guidance=scale, uncond={"shift": uncond}, shift=cond, guidance_mode=mode)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_guidance_1_calls_the_model_once_on_the_conditional_inputs():
    noise = torch.randn(2, 6)
    guided = fd.sample(model, plan_of(), noise, guidance=1.0, uncond={"shift": 5.0}, shift=0.3)
    assert torch.equal(guided, fd.sample(model, plan_of(), noise, shift=0.3))


def test_unconditional_output_survives_a_model_that_reuses_its_output_buffer():
    buffer, noise = torch.empty(2, 6), torch.randn(2, 6)

    def reusing(x, t, shift):
        return buffer.copy_(model(x, t, shift))

    options = {"guidance": 3.0, "uncond": {"shift": 0.0}, "shift": 0.5}
    expected = fd.sample(model, plan_of(), noise, guidance_mode="calls", **options)
    assert torch.equal(fd.sample(reusing, plan_of(), noise, guidance_mode="calls", **options), expected)


def test_callback_sees_every_evaluation_and_stops_the_run_by_returning_false():
    plan, noise, seen = plan_of("heun", 4), torch.randn(2, 3), []
    out = fd.sample(model, plan, noise, callback=lambda step: seen.append((step.i, step.n, step.t, step.sigma)))
    assert seen == [(i, plan.nfe, row.t, row.sigma) for i, row in enumerate(plan.rows)]
    states = [step.x.clone() for step in fd.iter_sample(model, plan, noise)]
    assert torch.equal(states[-1], out)
    stopped = fd.sample(model, plan, noise, callback=lambda step: step.i < 3)
    assert torch.equal(stopped, states[3])


@pytest.mark.parametrize(("solver", "options"), ALL_FORMS)
def test_steps_x0_is_what_the_model_predicted_there(solver, options):
    plan, seen = plan_of(solver, **options), []

    def watching(x, t):
        seen.append((x.clone(), model(x, t)))
        return seen[-1][1]

    for step in fd.iter_sample(watching, plan, torch.randn(2, 3, dtype=torch.float64), seeds=[1, 2]):
        x, eps = seen[-1]
        torch.testing.assert_close(step.x0, (x - step.sigma * eps) / step.alpha, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "unipc"])
def test_trajectory_is_the_start_and_every_accepted_state(solver):
    plan, noise = plan_of(solver, 4), torch.randn(2, 3, dtype=torch.float64)
    out, states = fd.sample(model, plan, noise, return_trajectory=True)
    assert states.shape == (5, 2, 3)
    torch.testing.assert_close(states[0], plan.init_scale * noise)
    assert torch.equal(states[-1], out)
    steps = [step.x.clone() for step in fd.iter_sample(model, plan, noise) if step.accepted]
    assert torch.equal(torch.stack(steps), states[1:])


@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_seeds_picture_is_the_same_bits_in_every_batch(solver, dtype):
    seeds, plan = [5, 2**50, 17], plan_of(solver)
    noise = fd.noise.randn((3, 2, 5, 3), seeds, dtype=dtype)
    together = fd.sample(model, plan, noise, seeds=seeds)
    for order in ([0], [1], [2], [2, 0], [1, 1]):
        some = fd.sample(model, plan, noise[order], seeds=[seeds[b] for b in order])
        assert torch.equal(some, together[order])


def test_without_seeds_torchs_generator_decides():
    plan, noise = plan_of("euler_ancestral"), torch.zeros(2, 6)
    torch.manual_seed(4)
    first, second = fd.sample(model, plan, noise), fd.sample(model, plan, noise)
    torch.manual_seed(4)
    assert torch.equal(fd.sample(model, plan, noise), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_deterministic_runs_do_not_touch_torchs_generator():
    before = torch.get_rng_state()
    fd.sample(model, plan_of("dpmpp_2m"), torch.zeros(2, 6))
    assert torch.equal(torch.get_rng_state(), before)


def test_image_to_image_starts_at_the_images_noise_level():
    image, noise = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    plan = plan_of("dpmpp_2m", 10, start=0.4)
    assert plan.nfe == 4
    first = []
    fd.sample(lambda x, t: first.append(x.clone()) or model(x, t), plan, noise, image=image)
    alpha, sigma = plan.start
    torch.testing.assert_close(first[0], alpha * image + sigma * noise, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("solver", "options"), ALL_FORMS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_inpainting_keeps_the_known_part_exactly_and_at_its_noise_level_on_the_way(solver, options, dtype):
    image, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = (torch.rand(1, 1, 4) < 0.5).to(dtype)
    mask[..., 0], mask[..., 1] = 0, 1
    known = (mask == 0).expand(2, 3, 4)
    plan = plan_of(solver, 6, **options)
    for step in fd.iter_sample(model, plan, noise, image=image, mask=mask, seeds=[1, 2]):
        if step.accepted:
            alpha, sigma = plan.point_after(step.i)
            torch.testing.assert_close(step.x[known], (alpha * image + sigma * noise)[known], rtol=1e-5, atol=1e-5)
    out = fd.sample(model, plan, noise, image=image, mask=mask, seeds=[1, 2])
    assert torch.equal(out[known], image[known])
    assert not torch.allclose(out[~known], image[~known])


def test_an_all_generating_mask_changes_nothing():
    image, noise = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    for solver in DATA_SOLVERS:
        free = fd.sample(model, plan_of(solver), noise, image=image, seeds=[1, 2])
        masked = fd.sample(model, plan_of(solver), noise, image=image, mask=torch.ones(6), seeds=[1, 2])
        torch.testing.assert_close(masked, free, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("guided", [False, True])
def test_clamp_and_threshold_limit_x0_by_their_formulas(guided):
    plan, noise = plan_of("dpmpp_2m", prediction="sample"), 3 * torch.randn(2, 50, dtype=torch.float64)
    options = {"guidance": 2.5, "uncond": {"shift": 0.4}, "guidance_mode": "calls"} if guided else {}

    def wide(x, t, shift=0.0):
        return 2.5 * model(x, t) + shift

    def guided_wide(x, t):
        return 2.5 * wide(x, t) - 1.5 * wide(x, t, 0.4) if guided else wide(x, t)

    def clamped(x, t):
        return guided_wide(x, t).clamp(-0.8, 0.8)

    def thresholded(x, t):
        x0 = guided_wide(x, t)
        s = torch.quantile(x0.abs(), 0.9, dim=1, keepdim=True).clamp(1.0, 2.0)
        return x0.clamp(-s, s) / s

    torch.testing.assert_close(fd.sample(wide, plan, noise, clamp=0.8, **options), fd.sample(clamped, plan, noise))
    torch.testing.assert_close(
        fd.sample(wide, plan, noise, threshold=0.9, threshold_limit=2.0, **options), fd.sample(thresholded, plan, noise)
    )


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "dpmpp_2m_sde"])
def test_noise_in_any_layout_gives_the_same_picture(solver, memory_format):
    noise = torch.randn(2, 3, 4, 5)
    expected = fd.sample(model, plan_of(solver), noise, seeds=[1, 2])
    out = fd.sample(model, plan_of(solver), noise.contiguous(memory_format=memory_format), seeds=[1, 2])
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    strided = torch.randn(2, 3, 4, 10)
    strided[..., ::2] = noise
    torch.testing.assert_close(fd.sample(model, plan_of(solver), strided[..., ::2], seeds=[1, 2]), expected)


@pytest.mark.parametrize("solver", [entry.name for entry in fd.solvers()])
def test_the_callers_tensors_are_never_written(solver):
    noise, image, mask = torch.randn(2, 6), torch.randn(2, 6), torch.rand(2, 6)
    copies = [tensor.clone() for tensor in (noise, image, mask)]
    out = fd.sample(model, plan_of(solver), noise, image=image, mask=mask, seeds=[1, 2])
    for tensor, copy in zip((noise, image, mask), copies, strict=True):
        assert torch.equal(tensor, copy)
        assert out.data_ptr() != tensor.data_ptr()


def test_progress_bar_counts_model_evaluations_and_changes_nothing(capsys):
    noise = torch.randn(2, 6)
    out = fd.sample(model, plan_of("heun", 4), noise, progress=True)
    assert "7/7" in capsys.readouterr().err
    assert torch.equal(out, fd.sample(model, plan_of("heun", 4), noise))


def test_no_gradients_are_recorded():
    noise = torch.randn(2, 6, requires_grad=True)
    assert not fd.sample(model, plan_of(), noise).requires_grad
    assert all(not step.x.requires_grad for step in fd.iter_sample(model, plan_of(), noise))
