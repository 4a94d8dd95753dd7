"""The cases of the solver_step contract: shapes, dtypes, memory layouts and features, and how a case is run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fastdiff.ops import reference, registry
from fastdiff.plans.table import MAX_NOISE, empty_table

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16

# max |error| / max |reference| against float64.
TOLERANCE = {F32: 2e-6, F16: 2e-3, BF16: 1.6e-2, F64: 1e-13}


@dataclass(frozen=True)
class Case:
    """One call. Fields not named keep a two-step multistep update in float32."""

    name: str
    shape: tuple[int, ...] = (2, 3, 8, 5)
    state: torch.dtype = F32
    model: torch.dtype = F32
    layout: str = "contiguous"
    model_layout: str = "contiguous"
    out_layout: str = "contiguous"
    history: int = 1
    base: bool = False
    guidance: str = ""  # "", "scalar" or "sample"
    threshold: bool = False
    noises: int = 0
    copies: int = 0
    sets: int = 0  # of weights, which then stand in for guidance; three make a next state
    others: int = 0  # outputs besides m and, under guidance, m_uncond
    keeps: bool = False  # whether there is a state
    input: torch.dtype = F32
    row: dict = field(default_factory=dict)  # fields that must have these values
    mean: float = 0.0
    scale: float = 1.0

    def __str__(self) -> str:
        return self.name


def strides_of(shape: tuple[int, ...], layout: str) -> tuple[tuple[int, ...], int]:
    """Strides and storage offset of a view of this layout."""
    order = list(range(len(shape)))
    if layout == "channels_last" and len(shape) > 2:
        order = [0, *order[2:], 1]
    if layout == "transposed" and len(shape) > 1:
        order[-1], order[-2] = order[-2], order[-1]
    strides = [0] * len(shape)
    step = 2 if layout == "inner_sliced" else 1
    for dim in reversed(order):
        strides[dim] = step
        step *= shape[dim]
        if layout == "rows_padded" and dim == order[-1]:
            step += 3
    if layout == "batch_sliced":
        strides[0] *= 2
    if layout == "expanded":
        strides[0] = 0
    return tuple(strides), 1 if layout == "offset" else 0


def view(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str) -> Tensor:
    """A view of this layout into storage that is NaN all over, with room on both sides of it."""
    strides, offset = strides_of(shape, layout)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if math.prod(shape) else 0
    storage = torch.full((16 + offset + max(reach, 0) + 16,), math.nan, dtype=dtype, device=device)
    return storage.as_strided(shape, strides, 16 + offset)


def written(tensor: Tensor) -> int:
    """How many elements of the view's storage are no longer NaN."""
    whole = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    return int((~whole.isnan()).sum())


def random_row(case: Case) -> np.ndarray:
    """A table of one row with random weights for what the case reads."""
    table = empty_table(1)
    row = table[0]

    def draw(*size: int) -> np.ndarray | float:
        return np.random.uniform(0.2, 1.0, size) * np.random.choice([-1.0, 1.0], size)

    for name in ("p_x", "p_m", "a_x", "c_in", "guidance"):
        row[name] = draw()
    row["A"][: case.history + 1] = draw(case.history + 1)
    if case.base:
        row["a_base"], row["b_base"], row["b_x"] = draw(), draw(), draw()
        row["B"][: case.history + 1] = draw(case.history + 1)
    row["xi_a"][: case.noises] = draw(case.noises)
    row["xi_b"][: case.noises] = draw(case.noises) if case.base else 0
    row["noise"] = np.random.randint(0, 2**32, MAX_NOISE, dtype=np.uint32)
    for name, value in case.row.items():
        row[name] = value
    return table


@dataclass
class Call:
    """A case with its random tensors."""

    table: np.ndarray
    inputs: dict
    outputs: dict
    combined: dict = field(default_factory=dict)  # others, state, weights, out_state; empty without weights

    def results(self) -> dict:
        """All outputs that were asked for."""
        return {name: out for name, out in (self.outputs | self.combined).items() if name.startswith("out_")}


def make_call(case: Case, device: str) -> Call:
    """A random call whose sums do not cancel: there the error is large beside the result, whoever computes it."""
    for _ in range(100):
        call = _draw(case, device)
        if math.prod(case.shape) == 0 or _well_conditioned(call):
            return call
    raise AssertionError(f"{case}: every draw was badly conditioned")


def _well_conditioned(call: Call) -> bool:
    """Whether each result is at least a fifth of what it would be if no term were negative."""
    table = call.table.copy()
    for name in set(table.dtype.names) - {"noise"}:
        table[name] = np.abs(table[name])
    inputs = {name: value.abs() if torch.is_tensor(value) else value for name, value in call.inputs.items()}
    inputs["history"] = [h.abs() for h in call.inputs["history"]]
    inputs["m_uncond"] = None if inputs["m_uncond"] is None else -inputs["m_uncond"]  # m - m_uncond is then a sum
    inputs["seeds"] = call.inputs["seeds"]
    combined = dict(call.combined)
    if combined:
        combined["others"] = [m.abs() for m in combined["others"]]
        combined["state"] = None if combined["state"] is None else combined["state"].abs()
        combined["weights"] = combined["weights"].abs() * torch.tensor([1, -1, 1, 1, 1, 1], device=inputs["x"].device)
    bounds, results = expected(replace(call, table=table, inputs=inputs, combined=combined)), expected(call)
    return all(
        5 * results[name].abs().max() >= bounds[name].abs().max()
        for name, out in call.results().items()
        if out is not None
    )


def _draw(case: Case, device: str) -> Call:
    batch = case.shape[0]

    def tensor(dtype: torch.dtype, layout: str) -> Tensor:
        result = view(case.shape, dtype, layout, device)
        values = torch.randn(case.shape, dtype=F64, device=device) * case.scale + case.mean
        values.clamp_(-torch.finfo(dtype).max, torch.finfo(dtype).max)
        target = result[:1] if layout == "expanded" else result
        target.copy_(values[: len(target)])
        return result

    def sample(low: float, high: float) -> Tensor:
        return torch.empty(batch, dtype=F64, device=device).uniform_(low, high)

    inputs = {
        "x": tensor(case.state, case.layout),
        "base": tensor(case.state, case.layout) if case.base else None,
        "m": tensor(case.model, case.model_layout),
        "m_uncond": tensor(case.model, case.model_layout) if case.guidance else None,
        "history": [tensor(case.state, case.layout) for _ in range(case.history)],
        "guidance": sample(1.0, 9.0) if case.guidance == "sample" and not case.sets else None,
        "threshold": sample(1.0, 2.0) if case.threshold else None,
        "seeds": torch.randint(-(2**63), 2**63 - 1, (batch,), device=device) if case.noises else None,
    }
    doubled = (case.copies * batch, *case.shape[1:])
    outputs = {
        "out_x": view(case.shape, case.state, case.out_layout, device),
        "out_base": view(case.shape, case.state, case.out_layout, device) if case.base else None,
        "out_d": view(case.shape, case.state, case.out_layout, device),
        "out_input": view(doubled, case.input, case.out_layout, device) if case.copies else None,
    }
    combined = {}
    if case.sets:
        combined = {
            "others": [tensor(case.model, case.model_layout) for _ in range(case.others)],
            "state": tensor(case.state, case.layout) if case.keeps else None,
            "weights": torch.empty(batch, case.sets, 6, dtype=F64, device=device).uniform_(-2.0, 2.0),
            "out_state": view(case.shape, case.state, case.out_layout, device) if case.sets == 3 else None,
        }
    return Call(random_row(case), inputs, outputs, combined)


def run(backend: str, call: Call) -> dict:
    """The outputs of one backend."""
    x = call.inputs["x"]
    with registry.backend(backend):
        function = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
    function(call.table, 0, *call.inputs.values(), *call.outputs.values(), *call.combined.values())
    return call.results()


def expected(call: Call) -> dict:
    """What the outputs should be: the reference in float64 on the same (rounded) inputs."""

    def wide(value: object) -> object:
        if isinstance(value, list):
            return [wide(v) for v in value]
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    inputs, combined = ([wide(value) for value in part.values()] for part in (call.inputs, call.combined))
    x, base, d = reference.solver_step(call.table[0], *inputs, *combined[:3])
    copies = len(call.outputs["out_input"]) // max(len(x), 1) if call.outputs["out_input"] is not None else 0
    scaled = float(call.table["c_in"][0]) * x
    right = {"out_x": x, "out_base": base, "out_d": d, "out_input": torch.cat([scaled] * copies) if copies else None}
    if call.combined and call.combined["out_state"] is not None:
        others, state, weights, _ = combined
        third = weights[:, 2]
        right["out_state"] = reference.weighted_sum(third, inputs[0], inputs[2], inputs[3], others, state)
    return right


_SIZES = (1, 3, 4, 5, 127, 1023, 1024, 1025, 4097)
_SHAPES = ((7,), (1,), (3, 1), (2, 3, 5), (2, 4, 8, 8), (1, 2, 3, 4, 6), (2, 2, 1, 3, 2, 5))
_DTYPES = {
    "f32": {},
    "f16": {"state": F16, "model": F16, "input": F16},
    "bf16": {"state": BF16, "model": BF16, "input": BF16},
    "f64": {"state": F64, "model": F64, "input": F64},
    "f32_f16": {"model": F16, "input": F16},
    "f32_bf16": {"model": BF16, "input": BF16},
    "f64_f32": {"state": F64, "model": F32, "input": F32},
    "f16_f32": {"state": F16, "model": F32, "input": F32},
}
_EVERYTHING = {"history": 3, "base": True, "guidance": "sample", "noises": 2, "copies": 2, "row": {"clamp": 1.5}}
_FEATURES = {
    "plain": {"history": 0},
    **{f"history_{k}": {"history": k, "base": k % 2 == 0} for k in range(1, 8)},
    "base": {"base": True},
    "base_is_next": {"base": True, "row": {"b_base": 0.0, "b_x": 0.0, "p_x": 0.0}},
    "guidance": {"guidance": "scalar", "row": {"guidance": 7.5}},
    "guidance_per_sample": {"guidance": "sample"},
    "clamp": {"row": {"clamp": 0.5}},
    "threshold": {"threshold": True},
    "clamp_and_threshold": {"threshold": True, "row": {"clamp": 1.2}},
    "noise": {"noises": 1},
    "two_noises": {"noises": 2, "base": True},
    "second_noise_only": {"noises": 2, "row": {"xi_a": (0.0, 0.7)}},
    "input": {"copies": 1},
    "input_twice": {"copies": 2},
    "input_four_times": {"copies": 4},
    "model_unread": {"row": {"p_m": 0.0}},
    "state_unread": {"row": {"p_x": 0.0, "a_x": 0.0}},
    "history_gap": {"history": 3, "row": {"A": (0.3, 0.0, -0.4, 0.5, 0, 0, 0, 0)}},
    "everything": _EVERYTHING,
}
_WEIGHTED = {
    "one_output": {"sets": 1},
    "two_outputs": {"sets": 1, "guidance": "sample"},
    "three_outputs": {"sets": 1, "guidance": "sample", "others": 1},
    "four_outputs": {"sets": 1, "guidance": "sample", "others": 2},
    "three_without_uncond": {"sets": 2, "others": 2},
    "another_pushed": {"sets": 2, "guidance": "sample", "history": 2},
    "state": {"sets": 3, "guidance": "sample", "keeps": True},
    "state_from_none": {"sets": 3, "others": 1},
    "limited": {"sets": 2, "guidance": "sample", "threshold": True, "row": {"clamp": 1.2}},
    "only_the_state_reads": {"sets": 3, "guidance": "sample", "keeps": True, "row": {"p_m": 0.0}},
    "only_y_reads_x": {"sets": 1, "row": {"p_x": 0.0, "a_x": 0.0}},
    "all_of_it": {"history": 3, "base": True, "guidance": "sample", "noises": 2, "copies": 3, "sets": 3, "others": 2,
                  "keeps": True, "row": {"clamp": 5.0}},
}  # fmt: skip
_LAYOUTS = ("channels_last", "transposed", "batch_sliced", "inner_sliced", "rows_padded", "offset", "expanded")

SIZES = [
    replace(Case(f"{n}-{dtype}-{kind}", (2, n), **_DTYPES[dtype]), noises=int(kind == "noise"), copies=2)
    for n in _SIZES
    for dtype in ("f32", "f16")
    for kind in ("plain", "noise")
]
SHAPES = [Case("x".join(map(str, shape)), shape, **_EVERYTHING) for shape in _SHAPES]
FEATURES = [
    Case(f"{name}-{dtype}", **feature, **_DTYPES[dtype]) for name, feature in _FEATURES.items() for dtype in _DTYPES
]
LAYOUTS = [
    replace(Case(f"{layout}-{where}-{kind}", **(_EVERYTHING if kind == "everything" else {})), **chosen)
    for layout in _LAYOUTS
    for kind in ("ode", "everything")
    for where, chosen in {
        "all": {
            "layout": layout,
            "model_layout": layout,
            "out_layout": layout if layout != "expanded" else "contiguous",
        },
        "state": {"layout": layout},
        "model": {"model_layout": layout},
        "out": {"out_layout": layout if layout != "expanded" else "transposed"},
    }.items()
] + [
    Case("all_differ", (2, 3, 4, 5, 2, 3), layout="transposed", model_layout="channels_last", out_layout="inner_sliced",
         **_EVERYTHING),
    Case("long_samples", (2, 2, 64, 32), model_layout="batch_sliced", guidance="scalar"),
    Case("long_rows", (1, 2, 64, 64), layout="transposed", out_layout="transposed", copies=2),
]  # fmt: skip
HARD = [
    Case("huge_means", (2, 4, 16, 16), mean=1000.0, **_DTYPES["f32"]),
    Case("huge_means-f16", (2, 4, 16, 16), mean=1000.0, **_DTYPES["f16"]),
    Case("huge_scales", (2, 4, 16, 16), scale=1e30),
    Case("tiny_scales", (2, 4, 16, 16), scale=1e-30),
    Case("near_the_largest_half", (2, 4, 16, 16), scale=20000.0, history=0, guidance="scalar",
         row={"guidance": 7.5, "p_x": 0.0, "p_m": 0.05, "a_x": 0.4, "A": (0.5, 0, 0, 0, 0, 0, 0, 0)},
         **_DTYPES["f16"]),
]  # fmt: skip
_ALL_WEIGHTED = _WEIGHTED["all_of_it"]
WEIGHTED = [
    Case(f"weights-{name}-{dtype}", **feature, **_DTYPES[dtype])
    for name, feature in _WEIGHTED.items()
    for dtype in _DTYPES
] + [
    Case(f"weights-{layout}", layout=layout, model_layout=layout, **_ALL_WEIGHTED) for layout in _LAYOUTS
] + [Case(f"weights-{'x'.join(map(str, shape))}", shape, **_ALL_WEIGHTED) for shape in _SHAPES] + [
    Case("weights-all_differ", (2, 3, 4, 5, 2, 3), layout="transposed", model_layout="channels_last",
         out_layout="inner_sliced", **_ALL_WEIGHTED),
    Case("weights-near_the_largest_half", (2, 4, 16, 16), scale=20000.0, history=0, sets=2, guidance="sample", others=2,
         keeps=True, row={"p_x": 0.0, "p_m": 0.02, "a_x": 0.4, "A": (0.1, 0, 0, 0, 0, 0, 0, 0)}, **_DTYPES["f16"]),
]  # fmt: skip
CASES = SIZES + SHAPES + FEATURES + LAYOUTS + HARD + WEIGHTED


def for_the_interpreter() -> list[Case]:
    """The interpreter is slow: of each cross product half the cases, in which any two of three axes meet in every way
    and each feature meets two mixes of dtypes. bfloat16 is broken in it."""

    def fitting(cases: list[Case]) -> list[Case]:
        return [c for c in cases if not {c.state, c.model, c.input} & {BF16, F64} and math.prod(c.shape) <= 8192]

    features, weighted = fitting(FEATURES), fitting(WEIGHTED)
    mixes = len(features) // len(_FEATURES)
    products = len(_WEIGHTED) * mixes
    return fitting([
        *_every_second(SIZES, len(_SIZES), 2, 2), *_every_second(features, len(_FEATURES), mixes),
        *_every_second(weighted[:products], len(_WEIGHTED), mixes), *weighted[products:],
        *_every_second(LAYOUTS[:-3], len(_LAYOUTS), 2, 4), *LAYOUTS[-3:], *SHAPES, *HARD,
    ])  # fmt: skip


def _every_second(cases: list[Case], *axes: int) -> list[Case]:
    """Of a cross product of axes of these lengths, the cases whose places on them add up to an even number."""
    return [case for case, place in zip(cases, np.indices(axes).sum(0).flat, strict=True) if place % 2 == 0]
