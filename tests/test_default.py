"""The default plan, without a solver's name: what it covers, what it refuses, and that it beats the simple rules."""

import pytest
import torch

import fastdiff as fd
from fastdiff.plans.default import default_plan

SCHEDULES = {
    "flow": fd.Schedule.flow(),
    "shifted": fd.Schedule.flow(shift=3.0),
    "terminal": fd.Schedule.flow(terminal=0.1),
    "vp": fd.Schedule.scaled_linear(),
    "continuous": fd.Schedule.cosine(None),
    "zero SNR": fd.Schedule.scaled_linear().zero_terminal_snr(),
    "trigflow": fd.Schedule.trigflow(),
    "edm": fd.Schedule.edm(),
}
MEANS = torch.tensor([[-1.2, 0.4], [0.9, 1.1], [0.5, -1.3]], dtype=torch.float64)
WIDTH = 0.3


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_default_spends_as_many_evaluations_as_asked_on_every_schedule(schedule):
    for evaluations in (*range(1, 13), 15, 16, 19, 20, 60):  # each line of the table, and both sides of every border
        for guided in (False, True):
            plan = fd.plan(None, schedule, evaluations, guided=guided, prediction="sample")
            assert plan.nfe == evaluations
            assert plan.end == (1.0, 0.0)
            assert not plan.stochastic


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction", "score"])
def test_the_default_draws_from_a_model_of_any_prediction(prediction):
    """The same samples whatever the model says: x0 = 0 for every x."""
    schedule = SCHEDULES["vp"]

    def model(x, t):
        alpha, sigma = (torch.from_numpy(v).reshape(-1, 1) for v in schedule.at(t.numpy())[1:])
        noise = x / sigma
        return {"epsilon": noise, "sample": 0 * x, "v_prediction": alpha * noise, "flow_prediction": noise}.get(
            prediction, -noise / sigma
        )

    noise = torch.randn(3, 2, dtype=torch.float64)
    plan = fd.plan(None, schedule, 7, prediction=prediction)
    assert fd.sample(model, plan, noise).abs().max() < 1e-10


def test_an_image_to_start_from_leaves_the_last_steps_of_the_default():
    assert fd.plan(None, SCHEDULES["vp"], 20, start=0.5).nfe == 10


def mixture_model(schedule, scale=1.0):
    """E[x0 | x] of three modes, exact."""
    means, width = scale * MEANS, scale * WIDTH

    def model(x, t):
        alpha, sigma = (torch.from_numpy(v).reshape(-1, 1, 1) for v in schedule.at(t.numpy())[1:])
        total, offset = (alpha * width) ** 2 + sigma**2, x[:, None] - alpha * means
        share = torch.softmax(-0.5 * (offset**2 / total).sum(-1), dim=1)
        return (share[..., None] * (means + alpha * width**2 / total * offset)).sum(1)

    return model


@pytest.mark.parametrize("guided", [False, True])
def test_half_of_a_flows_shift_asks_as_a_larger_spread_of_the_data_does(guided):
    """A shift of 9 puts all sigma / alpha at 3 times as much; of data 3 times as large it is the same run."""
    noise, samples = torch.randn(5, 2, dtype=torch.float64), []
    for shift, scale in ((1.0, 1.0), (9.0, 3.0)):
        schedule = fd.Schedule.flow(shift=shift)
        plan = fd.plan(None, schedule, 5, prediction="sample", guided=guided)
        assert plan.solver == "tabulated"
        samples.append(fd.sample(mixture_model(schedule, scale), plan, noise))
    torch.testing.assert_close(3 * samples[0], samples[1], rtol=1e-9, atol=1e-9)


def test_a_part_of_a_run_and_a_schedule_that_ends_within_the_tables_levels_are_left_to_adams_moulton():
    whole = fd.plan(None, SCHEDULES["vp"], 5)
    assert whole.solver == "tabulated"
    part = fd.plan(None, SCHEDULES["vp"], 5, start=0.5)
    assert (part.solver, part.nfe, part.end) == ("adams_moulton", 2, (1.0, 0.0))
    assert fd.plan(None, SCHEDULES["vp"], 5, final_sigma="sigma_min").solver == "adams_moulton"
    assert fd.plan(None, fd.Schedule.edm(sigma_min=0.2), 5, prediction="sample").solver == "adams_moulton"


def levels_of(plan, spread=1.0):
    """Of its evaluations, for data of that spread, as the time of a flow."""
    return torch.tensor([row.sigma / (spread * row.alpha + row.sigma) for row in plan.rows], dtype=torch.float64)


def middle_of(schedule):
    """sigma / alpha half-way in time."""
    point = schedule.at(0.5 * (schedule.t_max + schedule.t_clean))
    return float(point.sigma / point.alpha)


@pytest.mark.parametrize("evaluations", range(4, 20))
def test_a_schedule_that_begins_at_a_lower_level_has_all_of_the_tables_levels_lower_in_proportion(evaluations):
    """Scaled linear begins at 0.936, with zero terminal SNR at 1; half of what their middles say counts."""
    levels = []
    for schedule in (SCHEDULES["vp"], SCHEDULES["vp"].zero_terminal_snr()):
        plan = fd.plan(None, schedule, evaluations, prediction="sample")
        assert plan.solver == "tabulated"
        levels.append(levels_of(plan, middle_of(schedule) ** 0.5))
    torch.testing.assert_close(levels[0], levels[0][0] * levels[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("evaluations", [20, 32])
@pytest.mark.parametrize("kind", ["vp", "zero SNR", "continuous"])
def test_the_grid_of_long_runs_is_dense_around_the_root_of_the_schedules_middle(kind, evaluations):
    schedule = SCHEDULES[kind]
    plan = fd.plan(None, schedule, evaluations, prediction="sample")
    odds = 1 / levels_of(plan, middle_of(schedule) ** 0.5) - 1
    places = 1 / (1 + odds ** (1 / default_plan(schedule, evaluations, False).rho))
    torch.testing.assert_close(
        places, places[0] + (places[1] - places[0]) * torch.arange(evaluations), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_constant_data_are_drawn_exactly_by_every_table(schedule, guided):
    for evaluations in range(4, 20):
        plan = fd.plan(None, schedule, evaluations, prediction="sample", guided=guided)
        x = fd.sample(lambda x, t: torch.full_like(x, 0.7), plan, torch.randn(3, 2, dtype=torch.float64))
        torch.testing.assert_close(x, torch.full_like(x, 0.7), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["flow", "vp", "edm"])
def test_the_default_is_nearer_to_the_solution_than_euler_midpoint_and_heun_on_uniform_times(kind):
    """In the geometric mean over budgets; at one of them a simple rule may be somewhat nearer, midpoint on VP at 8."""
    schedule, levels = SCHEDULES[kind], torch.linspace(0.06, 0.94, 8, dtype=torch.float64)
    # Quantiles of the normal law in both axes: the same noise in every run.
    axis = torch.special.ndtri(levels)
    noise = torch.cartesian_prod(axis, axis)
    model = mixture_model(schedule)

    def error(plan):
        return (fd.sample(model, plan, noise) - exact).norm(dim=1).median()

    exact = fd.sample(model, fd.plan("unipc", schedule, 300, grid="logsnr", order=3, prediction="sample"), noise)
    ratios = []
    for evaluations in (4, 5, 6, 7, 8, 9, 10, 12, 16, 20):
        simple = [
            fd.plan(rule, schedule, evaluations // cost, grid="time", prediction="sample")
            for rule, cost in (("euler", 1), ("midpoint", 2), ("heun", 2))
        ]
        ours = error(fd.plan(None, schedule, evaluations, prediction="sample"))
        ratios.append(ours / min(error(plan) for plan in simple))
    assert torch.stack(ratios).log().mean().exp() < 0.75
    assert max(ratios) < 1.5


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (8, {"order": 2}, "order: the default .solver=None. chooses its own"),
        (8, {"grid": "karras"}, "grid: the default"),
        (8, {"invert": True}, "invert: the default"),
        (8, {"steps_offset": 1}, "steps_offset: the default"),
        (8, {"ordre": 2}, "ordre: the default"),
        (0, {}, "steps: expected a whole number >= 1 of model evaluations, got 0"),
        (None, {}, "steps: expected a whole number >= 1 of model evaluations, got None"),
        (2.5, {}, "steps: expected a whole number"),
    ],
)
def test_what_belongs_to_a_single_solver_is_refused_beside_none(steps, options, message):
    with pytest.raises(ValueError, match=message):
        fd.plan(None, SCHEDULES["vp"], steps, **options)


def test_guided_belongs_to_the_default():
    with pytest.raises(ValueError, match="guided: belongs to the default"):
        fd.plan("unipc", SCHEDULES["vp"], 8, guided=True)
    with pytest.raises(TypeError, match="guided: expected True or False, got 7"):
        fd.plan(None, SCHEDULES["vp"], 8, guided=7.5)


@pytest.mark.parametrize("schedule", [SCHEDULES["flow"], SCHEDULES["vp"], SCHEDULES["edm"]])
def test_the_power_grid_is_uniform_in_the_root_of_the_flows_time(schedule):
    for rho in (1.0, 1.35, 1.5):
        plan = fd.plan("ddim", schedule, 6, grid="power", rho=rho, prediction="sample")
        levels = torch.tensor([row.sigma / (row.alpha + row.sigma) for row in plan.rows] + [0.0], dtype=torch.float64)
        roots = levels ** (1 / rho)
        torch.testing.assert_close(roots, roots[0] * torch.linspace(1, 0, 7, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", [SCHEDULES["flow"], SCHEDULES["vp"], SCHEDULES["edm"]])
def test_the_logistic_grid_is_uniform_in_the_logistic_function_of_log_snr_over_rho(schedule):
    for rho in (1.0, 1.4, 1.6):
        plan = fd.plan("ddim", schedule, 6, grid="logistic", rho=rho, prediction="sample")
        ratios = torch.tensor([row.alpha / row.sigma for row in plan.rows] + [torch.inf], dtype=torch.float64)
        places = 1 / (1 + ratios ** (1 / rho))
        torch.testing.assert_close(places, places[0] * torch.linspace(1, 0, 7, dtype=torch.float64), rtol=0, atol=1e-9)
