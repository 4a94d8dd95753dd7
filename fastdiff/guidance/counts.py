"""How many network calls guidance makes in a run, and how many it saves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..plans.plan import Plan
from ..sampling.guided import guidance_of, rules_of
from ..sampling.rule import Guidance


@dataclass(frozen=True, repr=False)
class Calls:
    """Network calls of a run, evaluation by evaluation.

    made: at each evaluation. full: how many an evaluation makes where nothing is left out.
    """

    made: tuple[int, ...]
    full: int

    @property
    def total(self) -> int:
        """Calls in the whole run."""
        return sum(self.made)

    @property
    def saved(self) -> tuple[int, ...]:
        """Calls left out at each evaluation."""
        return tuple(self.full - made for made in self.made)

    def __repr__(self) -> str:
        often = ", ".join(f"{count} with {made}" for made, count in sorted(Counter(self.made).items()))
        return (
            f"<Calls {self.total} in {len(self.made)} evaluations, {sum(self.saved)} saved of"
            f" {self.full * len(self.made)}: {often}>"
        )


def calls(plan: Plan, guidance: Guidance) -> Calls:
    """The network calls that a run of the plan makes with this guidance; before any early stop.

    >>> plan = fd.plan("dpmpp_2m", fd.Schedule.edm(), steps=10, grid="karras")
    >>> calls(plan, fd.guidance.CFG(7.5, interval=(0.28, 5.42)))
    <Calls 13 in 10 evaluations, 7 saved of 20: 7 with 1, 3 with 2>
    """
    own = guidance_of(plan, guidance) if plan.reuses_uncond else guidance
    assert isinstance(own, Guidance)  # as such a plan makes one of every number
    made = tuple(sum(call is not None for call in rule.calls) for rule in rules_of(plan, own))
    return Calls(made, 1 + guidance.needs_uncond + len(guidance.extra))
