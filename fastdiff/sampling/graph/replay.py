"""The two programs that are captured: steps with their own coefficients, or steps that read a table on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.step_table import StepTable, borrowed
from ...plans.plan import Plan
from .buffers import Buffers
from .cuda_graph import record


class FixedProgram:
    """Every step is captured with its own coefficients."""

    def __init__(self, buffers: Buffers, plan: Plan, whole: bool) -> None:
        if not whole:
            raise ValueError("whole: one captured step serves every row only where the CUDA kernel reads a table")
        self._plan = plan
        t = buffers.new_t()
        times = [torch.full_like(t, row.t) for row in plan.rows]

        def run() -> Tensor:
            started = buffers.start_run(plan)
            return started.drive(buffers.evaluator(started), times)

        self._replay = record(run, run)
        self._times = times  # the graph reads them

    def serves(self, plan: Plan) -> bool:
        return plan == self._plan

    def use(self, plan: Plan | None) -> Plan:
        if plan is not None and not self.serves(plan):
            raise ValueError("plan: this graph holds its plan's numbers; capture the other plan anew")
        return self._plan

    def replay(self) -> Tensor:
        return self._replay()


class TableProgram:
    """Steps read a table on the device. whole: capture all of them; otherwise capture one, replayed once per row."""

    def __init__(self, buffers: Buffers, plan: Plan, whole: bool) -> None:
        self._buffers, self._plan, self._whole = buffers, plan, whole
        self._t = buffers.new_t()
        self._table = StepTable(plan.nfe, self._t)
        evaluate = buffers.evaluator()
        self._outputs: list[tuple[Tensor, Tensor | None]] = [evaluate(buffers.model_input, self._t)] * plan.nfe
        self._write(plan)
        count = plan.nfe if whole else 1

        def run() -> list[tuple[Tensor, Tensor | None]]:
            outputs = []
            for _ in range(count):
                m, m_uncond = evaluate(buffers.model_input, self._t)
                outputs.append((borrowed(m), None if m_uncond is None else borrowed(m_uncond)))
                self._table.launch()
            return outputs

        def warm_up() -> None:
            evaluate(buffers.model_input, self._t)
            self._table.rewind()
            self._table.launch()

        self._run = record(run, warm_up)
        self._outputs = self._run.result if whole else self._run.result * plan.nfe
        self._write(plan)

    def serves(self, plan: Plan) -> bool:
        return plan.nfe == self._table.rows and self._buffers.one_launch_a_row(plan)

    def use(self, plan: Plan | None) -> Plan:
        if plan is not None and plan != self._plan:
            if not self.serves(plan):
                raise ValueError(
                    f"plan: expected {self._table.rows} rows as captured, in data form under a clamp, got {plan!r}"
                )
            self._plan = plan
            self._write(plan)
        return self._plan

    def replay(self) -> Tensor:
        self._table.rewind()
        for _ in range(1 if self._whole else self._table.rows):
            self._run()
        return self._result

    def _write(self, plan: Plan) -> None:
        """Write the plan's steps into the table, with the buffers that a run of it would use."""
        calls: list[tuple] = []

        def keep(*call: object) -> None:
            calls.append(call)

        run = self._buffers.start_run(plan, keep)
        for i, (m, m_uncond) in enumerate(self._outputs):
            run.apply(i, m, m_uncond)
        self._result = run.x
        self._calls = calls  # keeps the buffers that the table points at
        self._table.write(calls, torch.tensor([row.t for row in plan.rows], dtype=torch.float64))
