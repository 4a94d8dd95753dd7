"""Observation: measurements, and the correction of each name that they bring into a run."""

from __future__ import annotations

from torch import Tensor

from ..plans.plan import Plan
from ..sampling.correction import ByFunction, Correction, Evaluation
from .gaussian import GaussianPrior
from .gradient import Gradient
from .measurements import Measurements
from .method import Method
from .moment import Moment
from .proximal import Proximal
from .pseudoinverse import Pseudoinverse

NAMES: dict[str, type[Method]] = {
    "moment": Moment,
    "gaussian": GaussianPrior,
    "proximal": Proximal,
    "pseudoinverse": Pseudoinverse,
    "gradient": Gradient,
}


class Observation(Measurements):
    """Measurements of the data: y = A x0 + n. `fastdiff.sample(..., observation=...)` draws x0 given y.

    A: a differentiable function of x0 [B, ...], in the model's own range; a matrix [M, D] or [B, M, D] of the flattened
        x0; or a deepinv Physics, whose adjoint, pseudo-inverse, proximal operator and noise are used. It works sample
        by sample: a batch may have a mask for each. It need not be linear for "moment" and "gradient".
    y: [B, ...] the measurements; [1, ...] for all samples of a batch; B / K of them with K particles. Real or complex.
    noise: the standard deviation of n, Gaussian: a number > 0, [B], or a tensor that goes with y. For complex y it is
        that of the real and of the imaginary part. Or what else log p(y | A x0) is, for "gradient" and particles: one
        of `fastdiff.posterior`, such as `Poisson(gain)`, or a function (A x0, y) -> log p [B], differentiable.
    adjoint: v -> A^T v, of a linear A; by autograd if None. It is tested: <A u, v> = <u, A^T v>.
    pinv: v -> A^+ v, for "pseudoinverse".

    Raises TypeError or ValueError naming the argument.

    >>> blurred = torch.zeros(1, 6)
    >>> fd.Observation(lambda x: x.unflatten(1, (6, 2)).mean(2), blurred, noise=0.1)
    <Observation of shape [1, 6], Gaussian noise 0.1>
    """

    def correction(self, named: object) -> Correction:
        """The correction of this name, or of these values; "moment" for None.

        Raises TypeError or ValueError naming the argument.
        """
        if callable(named):
            return ByFunction(named)
        return Bound(self._method(named), self)

    def _method(self, named: object) -> Method:
        if isinstance(named, Method):
            method = named
        elif named is None or isinstance(named, str):
            made = NAMES.get(named or "moment")
            if made is None:
                raise ValueError(f"correction: expected one of {', '.join(NAMES)}, got {named!r}")
            method = made()
        else:
            raise TypeError(f"correction: expected a name, one of fastdiff.posterior or a function, got {named!r}")
        if not self.gaussian and not method.any_noise:
            raise ValueError(f"correction: {named or 'moment'!r} is for Gaussian noise; 'gradient' takes any")
        return method


class Bound(Correction):
    """A method bound to an observation."""

    checks = True

    def __init__(self, method: Method, observation: Measurements) -> None:
        self.method, self.observation = method, observation

    @property
    def gradients(self) -> bool:
        return self.method.gradients

    def __call__(self, at: Evaluation) -> Tensor:
        return self.method.corrected(at, self.observation)

    def weighed(self, at: Evaluation) -> tuple[Tensor, Tensor]:
        return self.method.weighed(at, self.observation)

    def plan(self, plan: Plan) -> Plan:
        return self.method.plan(plan, self.observation)
