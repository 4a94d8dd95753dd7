"""A guidance in a run: the model is called as its rules say, and every row does what the rule's formula says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.sampling.combine import Combiner
from fastdiff.sampling.rule import Guidance, Point, Rule

SHAPE = (3, 5, 4)
SCHEDULE = fd.Schedule.linear()


def noise(dtype=torch.float64):
    return torch.randn(SHAPE, dtype=torch.float64).to(dtype)


class Network:
    """tanh of a linear map with a condition; it writes down how it was called."""

    def __init__(self, out_dtype=None):
        self.weight = torch.randn(4, 4, dtype=torch.float64) / 2
        self.batches = []
        self.buffer = {}

    def __call__(self, x, t, shift=None):
        self.batches.append(len(x))
        y = torch.tanh(x @ self.weight.to(x.dtype) + 0.1 * t.view(-1, 1, 1) + shift.view(-1, 1, 1).to(x.dtype))
        # Its output's memory is used again in every call, as a compiled network's is.
        kept = self.buffer.setdefault(y.shape, torch.empty_like(y))
        return kept.copy_(y)


def shifts(value):
    return torch.full((SHAPE[0],), value, dtype=torch.float64)


COND, UNCOND, THIRD = {"shift": shifts(0.3)}, {"shift": shifts(-0.2)}, {"shift": shifts(0.9)}


def weighted(weights, outputs):
    return sum(w * output for w, output in zip(weights, outputs, strict=False))


def formula_of_run(plan, x, network, combine, push=None):
    """The plan run by its own definition: m is what `combine(i, x, calls)` makes of the calls."""
    x = x.double() * plan.init_scale
    base, history = x, []
    for i, row in enumerate(plan.rows):

        def call(arguments, x=x, row=row):
            return network(row.c_in * x, torch.full((len(x),), row.t, dtype=torch.float64), **arguments).clone()

        m = combine(i, x, call)
        used = row.p_x * x + row.p_m * m
        pushed = used if push is None else row.p_x * x + row.p_m * push(i, x, call)
        past = [used, *history]
        new_x, new_base = (
            None if line is None else line.base * base + line.x * x + weighted(line.history, past)
            for line in (row.x, row.base)
        )
        assert not row.x.noise
        base = {"next": new_x, "keep": base, "here": x, "write": new_base}[row.base_move]
        history = [h for k, h in enumerate([pushed, *history]) if k not in row.drop_history]
        x = new_x
    return x


@dataclass(frozen=True, eq=False)
class Weighted(Guidance):
    """u + 2.5 (c - u) + 0.7 (m_2 - u) - 0.3 x in every row, by weights."""

    @property
    def extra(self):
        return (THIRD,)

    def rule(self, point: Point) -> Rule:
        return Rule(calls=(0, 1, 2), weights=np.array([[2.5, 1.0, 0.7, 0.0, -0.3, 0.0]]))


@dataclass(frozen=True, eq=False)
class Projected(Guidance):
    """c + 3 of what c - u has beside x: weights from inner products of c - u and x."""

    def rule(self, point: Point) -> Rule:
        basis = np.array([[1.0, -1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]])

        def formula(gram):
            along = gram[:, 0, 1] / gram[:, 1, 1]
            weights = np.zeros((len(gram), 1, 6))
            weights[:, 0, 0], weights[:, 0, 1], weights[:, 0, 4] = 4.0, 1.0, -3 * along
            return weights

        return Rule(calls=(0, 1), basis=basis, formula=formula)


@dataclass(frozen=True, eq=False)
class Momentum(Guidance):
    """c + 2 s' with the state s' = (c - u) - 0.5 s."""

    stateful = True

    def rule(self, point: Point) -> Rule:
        used = [3.0, 1.0, 0, 0, 0, -1.0]
        return Rule(calls=(0, 1), weights=np.array([used, used, [1.0, 0, 0, 0, 0, -0.5]]))


@dataclass(frozen=True, eq=False)
class Interval(Guidance):
    """Plain guidance 4 in the middle rows, none elsewhere, and no call at all in the first."""

    def rule(self, point: Point) -> Rule:
        if point.i == 0:
            return Rule(calls=(), weights=np.zeros((1, 6)))
        return Rule(calls=(0, 1), scale=4.0) if 2 <= point.i < 5 else Rule()


@dataclass(frozen=True, eq=False)
class PushesUncond(Guidance):
    """The step takes u + 3 (c - u), the history u."""

    def rule(self, point: Point) -> Rule:
        return Rule(calls=(0, 1), weights=np.array([[3.0, 1, 0, 0, 0, 0], [0.0, 1, 0, 0, 0, 0]]))


@dataclass(frozen=True, eq=False)
class Reuses(Guidance):
    """u is evaluated in every third row; in between it is the last one's line through the last two."""

    keeps_uncond = 2

    def rule(self, point: Point) -> Rule:
        if point.i < 2 or point.i % 3 == 0:
            return Rule(calls=(0, 1), scale=2.0)
        return Rule(calls=(0,), past=2, weights=np.array([[2.0, 1.0, 1.0, 0, 0, 0]]))


def literal(kind):
    """The same guidance as `combine` of `formula_of_run`."""
    state, past = {}, []

    def combine(i, x, call):
        c = call(COND)
        if kind is Interval:
            if i == 0:
                return torch.zeros_like(x)
            return call(UNCOND) + 4 * (c - call(UNCOND)) if 2 <= i < 5 else c
        if kind is Reuses:
            if i < 2 or i % 3 == 0:
                past.insert(0, call(UNCOND))
                return past[0] + 2 * (c - past[0])
            return past[0] + 2 * (c - past[0]) + (past[1] - past[0])
        u = call(UNCOND)
        if kind is Weighted:
            return u + 2.5 * (c - u) + 0.7 * (call(THIRD) - u) - 0.3 * x
        if kind is Projected:
            d = c - u
            along = (d * x).flatten(1).sum(1) / (x * x).flatten(1).sum(1)
            return c + 3 * (d - along.view(-1, 1, 1) * x)
        if kind is Momentum:
            state["s"] = (c - u) - 0.5 * state.get("s", torch.zeros_like(c))
            return c + 2 * state["s"]
        assert kind is PushesUncond
        return u + 3 * (c - u)

    return combine


KINDS = [Weighted, Projected, Momentum, Interval, PushesUncond, Reuses]
SOLVERS = ["ddim", "dpmpp_2m", "heun", "unipc", "dpmpp_3m", "lms", "dpmpp_2s"]


@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_does_what_the_rules_say(kind, solver, mode):
    plan, x, network = fd.plan(solver, SCHEDULE, steps=7), noise(), Network()
    push = (lambda i, x, call: call(UNCOND)) if kind is PushesUncond else None
    expected = formula_of_run(plan, x, network, literal(kind), push)
    found = fd.sample(network, plan, x, guidance=kind(), uncond=UNCOND, guidance_mode=mode, **COND)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", [Projected, Momentum, Interval, PushesUncond, Reuses])
def test_a_sample_does_not_depend_on_its_batch(kind):
    plan, x, network = fd.plan("dpmpp_2m", SCHEDULE, steps=6), noise(torch.float32), Network()

    def one_by_one(x, t, shift):
        parts = zip(x.split(1), t.split(1), shift.split(1), strict=True)
        return torch.cat([network(*part).clone() for part in parts])

    def draw(size):
        cond, uncond = ({"shift": given["shift"][:size]} for given in (COND, UNCOND))
        return fd.sample(one_by_one, plan, x[:size], guidance=kind(), uncond=uncond, **cond)

    assert torch.equal(draw(3)[:1], draw(1))


def test_rows_make_only_the_calls_that_have_weight():
    network, plan = Network(), fd.plan("ddim", SCHEDULE, steps=7)
    steps = [
        step.evaluations for step in fd.iter_sample(network, plan, noise(), guidance=Interval(), uncond=UNCOND, **COND)
    ]
    assert steps == [0, 1, 2, 2, 2, 1, 1]
    assert network.batches == [3, 6, 6, 6, 3, 3]


def test_an_extra_call_may_be_another_network():
    @dataclass(frozen=True, eq=False)
    class Weak(Guidance):
        needs_uncond = False

        @property
        def extra(self):
            return (weak,)

        def rule(self, point):
            return Rule(calls=(0, 2), scale=2.0)

    network, weak, plan = Network(), Network(), fd.plan("dpmpp_2m", SCHEDULE, steps=5)
    x = noise()

    def combine(i, x, call):
        row = plan.rows[i]
        w = weak(row.c_in * x, torch.full((len(x),), row.t, dtype=torch.float64), **COND)
        return w + 2 * (call(COND) - w)

    expected = formula_of_run(plan, x, network, combine)
    torch.testing.assert_close(fd.sample(network, plan, x, guidance=Weak(), **COND), expected, rtol=1e-12, atol=1e-12)


def test_plain_rules_are_plain_guidance_bit_for_bit():
    @dataclass(frozen=True, eq=False)
    class Plain(Guidance):
        def rule(self, point):
            return Rule(calls=(0, 1), scale=7.3)

    @dataclass(frozen=True, eq=False)
    class ByWeights(Guidance):
        def rule(self, point):
            return Rule(calls=(0, 1), weights=np.array([[7.3, 1.0, 0, 0, 0, 0]]))

    @dataclass(frozen=True, eq=False)
    class EachItsOwn(Guidance):
        def rule(self, point):
            return Rule(calls=(0, 1), scale=np.array([1.0, 7.3, 2.0]))

    network, plan, x = Network(), fd.plan("dpmpp_2m", SCHEDULE, steps=5), noise(torch.float32)
    expected = fd.sample(network, plan, x, guidance=7.3, uncond=UNCOND, **COND)
    assert torch.equal(fd.sample(network, plan, x, guidance=Plain(), uncond=UNCOND, **COND), expected)
    assert torch.equal(fd.sample(network, plan, x, guidance=ByWeights(), uncond=UNCOND, **COND), expected)
    scales = torch.tensor([1.0, 7.3, 2.0], dtype=torch.float64)
    each = fd.sample(network, plan, x, guidance=scales, uncond=UNCOND, **COND)
    assert torch.equal(fd.sample(network, plan, x, guidance=EachItsOwn(), uncond=UNCOND, **COND), each)


def test_a_stop_ends_the_guidance_for_good():
    @dataclass(frozen=True, eq=False)
    class Until(Guidance):
        def rule(self, point):
            def formula(gram):
                weights = np.zeros((len(gram), 1, 6))
                weights[:, 0, :2] = 3.0, 1.0
                return weights

            return Rule(calls=(0, 1), basis=np.eye(1, 6), formula=formula, stop=lambda gram: point.i == 2)

    network, plan, x = Network(), fd.plan("ddim", SCHEDULE, steps=6), noise()
    found = [step.evaluations for step in fd.iter_sample(network, plan, x, guidance=Until(), uncond=UNCOND, **COND)]
    assert found == [2, 2, 2, 1, 1, 1]
    expected = formula_of_run(
        plan, x, network, lambda i, x, call: call(UNCOND) + 3 * (call(COND) - call(UNCOND)) if i < 3 else call(COND)
    )
    found = fd.sample(network, plan, x, guidance=Until(), uncond=UNCOND, **COND)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "deis", "ddim"])
@pytest.mark.parametrize("bound", [{"clamp": 0.4}, {"threshold": 0.9}, {"clamp": 2.0, "threshold": 0.8}])
@pytest.mark.parametrize("kind", [Weighted, Projected, Momentum])
def test_bounds_act_on_the_guided_x0(kind, bound, solver):
    """The bound on x0 sees y, so a network that returns y by itself gives the same samples."""
    plan, x, network = fd.plan(solver, SCHEDULE, steps=5), noise(), Network()
    combine, row = literal(kind), iter(range(plan.nfe))

    def guided(x, t):
        i = next(row)
        return combine(i, x / plan.rows[i].c_in, lambda arguments: network(x, t, **arguments).clone())

    expected = fd.sample(guided, plan, x, **bound)
    found = fd.sample(network, plan, x, guidance=kind(), uncond=UNCOND, **bound, **COND)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_what_the_history_gets_is_bounded_too():
    plan, x, network = fd.plan("dpmpp_2m", SCHEDULE, steps=5), noise(), Network()
    bounded = fd.sample(network, plan, x, guidance=PushesUncond(), uncond=UNCOND, clamp=0.3, **COND)
    assert bounded.isfinite().all()
    with pytest.raises(ValueError, match="data form"):
        fd.sample(
            network, fd.plan("deis", SCHEDULE, steps=5), x, guidance=PushesUncond(), uncond=UNCOND, clamp=0.3, **COND
        )


def test_what_a_guidance_lacks_is_said_before_anything_runs():
    network, plan, x = Network(), fd.plan("ddim", SCHEDULE, steps=3), noise()
    with pytest.raises(ValueError, match="uncond: Projected"):
        fd.sample(network, plan, x, guidance=Projected(), **COND)
    with pytest.raises(ValueError, match="guidance_mode"):
        fd.sample(network, plan, x, guidance=Projected(), uncond=UNCOND, guidance_mode="both", **COND)
    with pytest.raises(TypeError, match="guidance: expected a number or a tensor"):
        fd.sample_adaptive(network, SCHEDULE, x, guidance=Projected(), uncond=UNCOND, **COND)
    assert network.batches == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [Weighted, Projected, Momentum, Interval])
def test_a_combiner_gives_the_output_that_a_run_uses(kind, dtype):
    """In a loop of the caller's own the guided output is the literal formula's, evaluation by evaluation."""
    plan, combiner, combine = fd.plan("ddim", SCHEDULE, steps=6), Combiner(kind()), literal(kind)
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    for i, row in enumerate(plan.rows):
        x = noise().to(state_dtype)
        outputs = [torch.randn(SHAPE, dtype=torch.float64).to(dtype) for _ in range(3)]
        by_shift = {0.3: 0, -0.2: 1, 0.9: 2}
        point = Point(i, plan.nfe, row.t, row.alpha, row.sigma, plan.prediction, row, plan.point_after(i))
        wanted = combiner.rule(point).calls
        expected = combine(i, x.double(), lambda a: outputs[by_shift[round(float(a["shift"][0]), 1)]].double())  # noqa: B023
        found = combiner(point, x, [m if k in wanted else None for k, m in enumerate(outputs)])
        assert found.dtype == (dtype if wanted else state_dtype)
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_difference_of_halves_that_is_out_of_their_range_is_kept():
    plan = fd.plan("ddim", fd.Schedule.flow(), steps=4, prediction="flow_prediction")
    combiner, x = Combiner(fd.guidance.ReuseUncond(0.5, order=0)), torch.zeros(2, 5)
    c, u = (torch.full((2, 5), value, dtype=torch.float16) for value in (6e4, -6e4))
    combiner(Point.of(plan, 0), x, [c, u])
    y = combiner(Point.of(plan, 1), x, [c])
    assert torch.equal(y, torch.zeros_like(y))  # c + 0.5 (u - c)


def test_a_combiner_names_the_output_that_is_missing():
    point = Point(3, 6, 0.5, 0.8, 0.6, "epsilon")
    with pytest.raises(ValueError, match="unconditional output"):
        Combiner(Projected())(point, noise(), [noise()])
