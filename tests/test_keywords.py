"""Misspelt options are errors with the name that was meant; what the model itself names is the model's."""

import inspect
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import fastdiff as fd
from fastdiff.keywords import meant, options_of
from fastdiff.plans.options import MEANINGS
from fastdiff.sampling.start import OPTIONS

VP = fd.Schedule.vp()
PLAN = fd.plan("ddim", VP, 2)
NOISE = torch.randn(2, 4, 3, 3)


def anything(x, t, **kwargs):
    return x


def nothing(x, t):
    return x


def naming(x, t, guidence=None, images=None, seed=None, clmap=None):
    return x


class Module(torch.nn.Module):
    def forward(self, x, t, **kwargs):
        return x


class Naming(torch.nn.Module):
    def forward(self, x, t, guidence=None, images=None, seed=None, clmap=None):
        return x


CALLS = {
    "sample": lambda model, **options: fd.sample(model, PLAN, NOISE, **options),
    "iter_sample": lambda model, **options: list(fd.iter_sample(model, PLAN, NOISE, **options)),
    "sample_adaptive": lambda model, **options: fd.sample_adaptive(model, VP, NOISE, rtol=1.0, **options),
    "estimate_statistics": lambda model, **options: fd.estimate_statistics(model, VP, NOISE, steps=4, **options),
}

REFUSING = CALLS | {"fit": lambda model, **options: fd.fit(model, VP, 2, torch.randn(32, 4), **options)}


@pytest.mark.parametrize("call", REFUSING.values(), ids=REFUSING)
@pytest.mark.parametrize("model", [anything, nothing, Module()], ids=["any keyword", "no keyword", "module"])
@pytest.mark.parametrize(("name", "option"), [("guidence", "guidance"), ("guidance_scale", "guidance")])
def test_a_misspelt_option_is_not_handed_to_the_model(call, model, name, option):
    with pytest.raises(TypeError, match=f"{name}: not an option.*did you mean {option}"):
        call(model, **{name: 7.5})


@pytest.mark.parametrize(
    ("name", "option"), [("clmap", "clamp"), ("treshold", "threshold"), ("seed", "seeds"), ("calback", "callback")]
)
def test_the_nearest_of_samples_own_options_is_named(name, option):
    for call in (CALLS["sample"], CALLS["iter_sample"]):
        with pytest.raises(TypeError, match=f"did you mean {option}"):
            call(anything, **{name: 1})


@pytest.mark.parametrize("call", REFUSING.values(), ids=REFUSING)
def test_a_keyword_that_neither_we_nor_the_model_take_is_refused_before_anything_runs(call):
    def counting(x, t, context=None):
        raise AssertionError("the model was called")

    for model in (counting, partial(counting, context=1)):
        with pytest.raises(TypeError, match=r"foo: neither an option here nor an argument .* takes x, t, context"):
            call(model, foo=1)
        with pytest.raises(TypeError, match=r"contxt: neither .*; did you mean context\?"):
            call(model, contxt=1)


def test_a_hook_of_the_model_may_take_keywords_that_its_forward_does_not():
    class Plain(torch.nn.Module):
        def forward(self, x, t):
            return x

    model, seen = Plain(), []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs) or (args, {}), with_kwargs=True)
    fd.sample(model, PLAN, NOISE, foo=1)
    assert seen == [{"foo": 1}] * PLAN.nfe


def test_the_signatures_list_every_option():
    named = [set(options_of(f)) for f in (fd.sample, fd.iter_sample)]
    assert named[0] == set(OPTIONS)
    assert named[0] - named[1] == {"callback", "progress", "return_trajectory", "graph", "parallel"}
    assert named[1] < named[0]
    assert set(options_of(fd.capture)) - {"whole"} == named[1] - {"seeds", "image", "mask", "particles"} - {
        "guidance_group",
        "shard",
    }


def test_options_of_sample_alone_are_not_handed_to_the_model_either():
    with pytest.raises(TypeError, match=r"progress: not an option here.* it is one of fastdiff.sample"):
        fd.iter_sample(anything, PLAN, NOISE, progress=True)


@pytest.mark.parametrize("model", [naming, Naming(), partial(naming, seed=1), torch.no_grad()(naming)])
def test_keywords_that_the_model_names_are_its_own(model):
    for name in ("guidence", "images", "seed", "clmap"):
        for call in CALLS.values():
            call(model, **{name: 3.0})


@pytest.mark.parametrize("name", ["cond", "context", "y", "task", "class_labels", "attention_mask", "added_cond"])
def test_keywords_unlike_any_option_reach_a_model_that_takes_any(name):
    seen = []

    def model(x, t, **kwargs):
        seen.append(kwargs)
        return x

    for call in CALLS.values():
        call(model, **{name: 5})
    assert all(kwargs == {name: 5} for kwargs in seen)


def test_a_flow_maps_keywords_are_those_of_the_model_in_it():
    plan = fd.plan("euler", fd.Schedule.flow(), 2)

    def model(x, t, r, seed=None):
        return x

    fd.sample(fd.flow_map(model, plan), plan, NOISE, seed=3)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: fd.plan("ddim", VP, num_inference_steps=9), r"num_inference_steps: .* mean steps\?"),
        (ValueError, lambda: fd.plan("ddim", VP, 10, prediction_type="sample"), r"did you mean prediction\?"),
        (ValueError, lambda: fd.plan("ddim", VP, 10, finalsigma="zero"), r"finalsigma: .*did you mean final_sigma\?"),
        (ValueError, lambda: fd.plan("dpmpp_2m", VP, 10, oder=1), r"oder: dpmpp_2m .*did you mean order\?"),
        (ValueError, lambda: fd.plan("ddim", VP, 10, gamma=1), "gamma: ddim has no such option; it has eta, s_noise"),
        (ValueError, lambda: fd.plan("dpm++", VP, 10), "'dpm[+][+]' is not known; did you mean dpmpp_2m, "),
        (ValueError, lambda: fd.plan("uni", VP, 10), "did you mean unipc, "),
        (TypeError, lambda: fd.plan(VP, "ddim", 10), "solver: expected a name, such as 'dpmpp_2m', got <Schedule vp"),
        (TypeError, lambda: fd.plan("ddim", "scaled_linear", 9), r"'scaled_linear'; .* by Schedule.scaled_linear\("),
        (TypeError, lambda: fd.plan("ddim", None, 10), "schedule: expected a fastdiff.Schedule, got None.*from_betas"),
        (TypeError, lambda: fd.sample_adaptive(nothing, "edm", NOISE), r"make one by Schedule.edm\("),
    ],
)  # fmt: skip
def test_plans_are_refused_with_what_to_write(error, call, message):
    with pytest.raises(error, match=message):
        call()


def test_a_foreign_name_stands_for_the_option_where_there_is_one():
    assert meant("num_inference_steps", ("steps", "grid")) == "steps"
    assert meant("num_inference_steps", ("guidance",)) is None
    assert meant("cond", ("uncond",)) is None


@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("wrap", [lambda m: (m,), lambda m: SimpleNamespace(sample=m)], ids=["tuple", "sample"])
def test_a_tensor_alone_in_a_tuple_or_as_sample_is_the_output(wrap, mode):
    def model(x, t, shift=0.0):
        return torch.sin(x) + shift

    def wrapped(x, t, shift=0.0):
        return wrap(model(x, t, shift))

    options = {"guidance": 2.0, "uncond": {}, "guidance_mode": mode}
    for given in ({}, options):
        assert torch.equal(fd.sample(wrapped, PLAN, NOISE, **given), fd.sample(model, PLAN, NOISE, **given))
    assert torch.equal(fd.sample_adaptive(wrapped, VP, NOISE), fd.sample_adaptive(model, VP, NOISE))


@pytest.mark.parametrize(
    ("error", "wrap", "message"),
    [
        (TypeError, lambda m: (m, m), r"got a tuple of 2; pass a function .*\[0\]"),
        (TypeError, lambda m: SimpleNamespace(logits=m), "got SimpleNamespace"),
        (TypeError, lambda m: torch.distributions.Normal(m, 1.0), "got Normal"),
        (TypeError, lambda m: None, "got NoneType"),
        (ValueError, lambda m: torch.cat([m, m], 1), r"got \(2, 8, 3, 3\); .*learned variance.*\[:, :4\]"),
    ],
)
def test_other_outputs_are_refused_with_the_remedy(error, wrap, message):
    with pytest.raises(error, match=message):
        fd.sample(lambda x, t: wrap(x), PLAN, NOISE)


def test_the_catalogue_prints_as_a_table_of_one_line_a_solver():
    lines = str(fd.solvers()).splitlines()
    assert [line.split()[0] for line in lines] == ["name", *(solver.name for solver in fd.solvers())]
    assert "DPM++ 2M" in next(line for line in lines if line.startswith("dpmpp_2m "))
    assert repr(fd.solvers()) == str(fd.solvers())


@pytest.mark.parametrize("entry", fd.solvers(), ids=lambda entry: entry.name)
def test_a_solver_shows_its_options_with_what_plan_takes_where_they_are_not_given(entry):
    summary, *lines = str(entry).splitlines()
    assert repr(entry) == f"<Solver {summary}>"
    assert len(repr(entry)) <= 120
    table = lines[lines.index(next(line for line in lines if line.split()[0] == "option")) + 1 :]
    assert [line.split()[0] for line in table] == list(entry.options)
    given = {name: value for name, value in entry.options.items() if value is not None}
    assert fd.plan(entry.name, VP, 4, **given) == fd.plan(entry.name, VP, 4)


def test_plan_lists_all_options_of_all_solvers_in_its_signature():
    listed = {p.name for p in inspect.signature(fd.plan).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert {name for entry in fd.solvers() for name in entry.options} == set(MEANINGS) < listed


def test_a_solver_is_found_by_its_aliases_too():
    assert fd.solver("DPM++ 2M Karras") == fd.solver("dpmpp_2m")
    with pytest.raises(ValueError, match="'unipx' is not known; did you mean unipc"):
        fd.solver("unipx")


def test_schedules_print_in_one_line_with_their_range():
    assert repr(fd.Schedule.edm()) == "<Schedule ve: t 0.002 to 80, sigma/alpha 0.002 to 80>"
    assert "1000 training steps: t 0 to 999" in repr(fd.Schedule.linear())
    assert "shift 3" in repr(fd.Schedule.flow(3.0))


def test_flow_schedules_predict_velocities_and_others_eps_unless_told():
    flow, edm = fd.Schedule.flow(), fd.Schedule.edm()
    for schedule, expected in ((flow, "flow_prediction"), (VP, "epsilon"), (edm, "epsilon")):
        assert fd.plan("ddim", schedule, 3).prediction == expected
        assert fd.plan("ddim", schedule, 3, prediction="sample").prediction == "sample"
        _, plan = fd.sample_adaptive(nothing, schedule, NOISE, return_plan=True)
        assert plan.prediction == expected
