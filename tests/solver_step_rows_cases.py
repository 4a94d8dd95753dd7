"""Mixtures of samples at rows of their own: what solver_step_rows is given, and the same one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import solver_step_cases as cases
import torch
from solver_step_cases import BF16, F16, F32, F64, Case, random_row, view
from torch import Tensor

from fastdiff.ops.row_table import ABSENT, pack_records
from fastdiff.plans.table import MAX_HISTORY, ROW, WIDTH, reads_history

BUFFERS = 6
NAN = float("nan")


@dataclass
class Mixture:
    """Samples at rows of their own: the arguments of a backend, all memory that is not an input NaN."""

    table: Tensor
    rows: Tensor
    buffers: list[Tensor]
    m: Tensor | None
    m_uncond: Tensor | None
    guidance: Tensor | None
    threshold: Tensor | None
    seeds: Tensor | None
    out_input: Tensor | None
    others: list[Tensor | None]
    state: Tensor | None
    weights: Tensor | None
    out_state: Tensor | None

    def arguments(self) -> tuple:
        return tuple(self.__dict__.values())

    def cloned(self) -> Mixture:
        """The same with memory of its own for what is written, laid out alike."""
        return replace(
            self,
            buffers=[like(t) for t in self.buffers],
            out_input=None if self.out_input is None else like(self.out_input),
            out_state=None if self.out_state is None else like(self.out_state),
        )


def like(tensor: Tensor) -> Tensor:
    whole = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0).clone()
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def random_slots(row: np.void, writes_base: bool) -> tuple:
    """Buffers for a row: each output has one of its own, inputs may share theirs."""
    places = np.random.permutation(BUFFERS).tolist()
    x_out, d_out, base_out, *inputs = places
    x, base = inputs[0], int(np.random.choice(inputs))
    reads = max((k for k in range(1, MAX_HISTORY) if reads_history(row, k)), default=0)
    history = [int(np.random.choice(inputs)) for _ in range(reads)]
    return x, base, history, x_out, base_out if writes_base else None, d_out if np.random.rand() < 0.8 else None


ROWS = [
    Case("euler", history=0),
    Case("multistep", history=2),
    Case("corrector", history=1, base=True),
    Case("ancestral", history=0, noises=1),
    Case("stage", history=3, base=True, noises=2, row={"clamp": 1.2}),
    Case("start", history=0, row={"p_x": 0.0}),
    Case("no model", history=1, row={"p_m": 0.0}),
    Case("deep", history=7),
]


def make_mixture(case: Case, device: str = "cpu") -> Mixture:
    """Eleven rows of other kinds and numbers, and a batch at some of them, the second sample at none."""
    kinds = [replace(kind, noises=kind.noises if case.noises else 0) for kind in (*ROWS, *ROWS[:3])]
    table = np.concatenate([random_row(kind) for kind in kinds])
    slots = [random_slots(row, kind.base) for row, kind in zip(table, kinds, strict=True)]
    records = pack_records(table, slots)
    batch = case.shape[0]
    rows = np.random.randint(0, len(records), batch)
    if batch > 1:
        rows[1] = -np.random.randint(1, 3)

    def tensor(dtype: torch.dtype, layout: str) -> Tensor:
        result = view(case.shape, dtype, layout, device)
        return result.copy_(torch.randn(case.shape, device=device) * case.scale + case.mean)

    def numbers(low: float, high: float) -> Tensor:
        return torch.empty(batch, dtype=F64, device=device).uniform_(low, high)

    guidance = None
    if case.guidance == "sample" and not case.sets:
        guidance = numbers(1.0, 9.0)
        guidance[::3] = NAN
    return Mixture(
        torch.from_numpy(records).to(device),
        torch.from_numpy(rows).to(device),
        [tensor(case.state, case.layout) for _ in range(BUFFERS)],
        tensor(case.model, case.model_layout),
        tensor(case.model, case.model_layout) if case.guidance else None,
        guidance,
        numbers(1.0, 2.0) if case.threshold else None,
        torch.randint(-(2**63), 2**63 - 1, (batch,), device=device) if case.noises else None,
        view((case.copies * batch, *case.shape[1:]), case.input, case.out_layout, device) if case.copies else None,
        [tensor(case.model, case.model_layout) for _ in range(case.others)],
        tensor(case.state, case.layout) if case.keeps else None,
        torch.empty(batch, case.sets, 6, dtype=F64, device=device).uniform_(-2.0, 2.0) if case.sets else None,
        view(case.shape, case.state, case.out_layout, device) if case.sets == 3 else None,
    )


def one_by_one(step: Callable[..., None], mixture: Mixture) -> Mixture:
    """A `solver_step` backend on each sample that is at a row."""
    batch = len(mixture.rows)
    for b, i in enumerate(mixture.rows.tolist()):
        if i < 0:
            continue

        def own(tensor: Tensor | None, b: int = b) -> Tensor | None:
            return None if tensor is None else tensor[b : b + 1]

        record = mixture.table[i].cpu().numpy()
        row = record[:WIDTH].copy().view(ROW)
        x, base, *past, x_out, base_out, d_out = (
            None if n == ABSENT else own(mixture.buffers[int(n)]) for n in record[WIDTH:]
        )
        guided = mixture.guidance is None or not mixture.guidance[b].isnan()
        given = None if mixture.out_input is None else mixture.out_input[b::batch]
        combined = ()
        if mixture.weights is not None:
            others = [own(t) for t in mixture.others]
            combined = (others, own(mixture.state), own(mixture.weights), own(mixture.out_state))
        step(
            row, 0, x, x if base is not None and base.data_ptr() == x.data_ptr() else base, own(mixture.m),
            own(mixture.m_uncond) if guided else None, past, own(mixture.guidance) if guided else None,
            own(mixture.threshold), own(mixture.seeds), x_out, base_out, d_out, given, *combined,
        )  # fmt: skip
    return mixture


def same_bits(a: Tensor, b: Tensor) -> bool:
    """NaN equals NaN."""
    return torch.equal(a.nan_to_num(nan=0.123), b.nan_to_num(nan=0.123)) and torch.equal(a.isnan(), b.isnan())


def whole(tensor: Tensor) -> Tensor:
    """The view's whole storage."""
    return tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)


def assert_same(found: Mixture, right: Mixture) -> None:
    """Also beside what was to be written."""
    for k, (a, b) in enumerate(zip(found.buffers, right.buffers, strict=True)):
        assert same_bits(whole(a), whole(b)), f"buffer {k}"
    for name in ("out_input", "out_state"):
        a, b = getattr(found, name), getattr(right, name)
        assert a is None or same_bits(whole(a), whole(b)), name


EVERYTHING = {"guidance": "sample", "threshold": True, "noises": 2, "copies": 2}
HALF = {"state": F16, "model": F16, "input": F16}
CASES = [
    Case("plain", (7, 2, 5)),
    Case("guidance", (7, 2, 5), guidance="sample"),
    Case("guidance_of_rows", (7, 2, 5), guidance="scalar", copies=2),
    Case("noise", (7, 2, 5), noises=2),
    Case("everything", (7, 2, 5), **EVERYTHING),
    Case("blocks", (5, 3, 1031), **EVERYTHING),
    Case("one", (1, 1), **EVERYTHING),
    Case("vector", (9,), **EVERYTHING),
    Case("f64", (7, 4, 8), **EVERYTHING, state=F64, model=F64, input=F64),
    Case("f64_f32", (7, 4, 8), **EVERYTHING, state=F64),
    Case("f16", (7, 4, 8), **EVERYTHING, **HALF),
    Case("bf16", (7, 4, 8), **EVERYTHING, state=BF16, model=BF16, input=BF16),
    Case("f32_f16", (7, 4, 8), **EVERYTHING, model=F16, input=F16),
    Case("weights", (7, 4, 8), guidance="sample", sets=1, noises=1, copies=3),
    Case("weights_2", (7, 4, 9), guidance="sample", sets=2, others=2, keeps=True, threshold=True),
    Case("weights_3", (7, 4, 9), guidance="sample", sets=3, others=2, keeps=True, noises=1, copies=1),
    Case("weights_f16", (7, 4, 9), sets=3, others=1, keeps=True, **HALF),
    Case("huge", (7, 4, 8), **EVERYTHING, scale=1e30),
    Case("huge_f16", (7, 4, 8), **EVERYTHING, **HALF, scale=20000.0),
    *(Case(layout, (5, 3, 4, 5), **EVERYTHING, layout=layout, model_layout=layout, out_layout=layout)
      for layout in cases._LAYOUTS if layout != "expanded"),
    Case("all_differ", (3, 3, 4, 5, 2, 3), layout="transposed", model_layout="channels_last",
         out_layout="inner_sliced", **EVERYTHING),
]  # fmt: skip
SLOW = ("blocks", "vector", "huge", "guidance_of_rows", "weights", "batch_sliced", "offset", "transposed")
INTERPRETABLE = [c for c in CASES if not {c.state, c.model, c.input} & {BF16, F64} and c.name not in SLOW]


# Far above rounding, which is not compared with the terms here: bits are.
CLOSE = {F64: 1e-11, F32: 1e-4, F16: 1e-2, BF16: 6e-2}


def assert_close(found: Mixture, right: Mixture) -> None:
    """The same numbers, NaN where it was; infinities are the largest number, as one may be a rounding away from it."""
    for name in ("buffers", "out_input", "out_state"):
        a, b = getattr(found, name), getattr(right, name)
        if a is None:
            continue
        a, b = (torch.cat([whole(t) for t in each]) if name == "buffers" else whole(each) for each in (a, b))
        bounds = torch.finfo(a.dtype).min, torch.finfo(a.dtype).max
        limit, a, b = CLOSE[a.dtype], a.double().clamp(*bounds), b.double().clamp(*bounds)
        assert torch.equal(a.isnan(), b.isnan()), name
        good = ~b.isnan()
        assert not good.any() or (a - b)[good].abs().max() <= limit * b[good].abs().max(), name
