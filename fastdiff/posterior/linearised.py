"""A about one point: A x0 + J dx, with products by J and its transpose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .likelihood import Gaussian, Likelihood
from .operators import Operator


class Linearised:
    """residual: y - A x0 [B, ...]. push: dx [B, ...] -> J dx. pull: v -> J^T v, in x0's shape.

    For a linear A these are A and A^T themselves. A nonlinear one is differentiated, twice for `push`: J dx is the
    derivative of <v, J dx> by v, which needs no more of A than `pull` does.
    check: what is asked of A x0 and y before anything is done with them.
    """

    def __init__(
        self,
        operator: Operator,
        x0: Tensor,
        y: Tensor,
        likelihood: Likelihood,
        check: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        self._operator, self._x0, self.y, self.likelihood = operator, x0, y, likelihood
        self._graph: tuple[Tensor, Tensor] | None = None
        self._check = check
        self.value = self._looked(x0) if operator.adjoint is not None else self._recorded()[1].detach()
        self.residual = y - self.value

    @property
    def variance(self) -> Tensor:
        """[B, ...] that of Gaussian noise."""
        assert isinstance(self.likelihood, Gaussian)
        return self.likelihood.variance(self.y)

    def push(self, dx: Tensor) -> Tensor:
        if self._operator.is_linear(self._x0):
            return self._operator(dx)
        x, value = self._recorded()
        with torch.enable_grad():
            v = torch.zeros_like(value, requires_grad=True)
            (back,) = torch.autograd.grad(value, x, v, create_graph=True)
        return torch.autograd.grad(back, v, dx)[0]

    def pull(self, v: Tensor) -> Tensor:
        if self._operator.adjoint is not None:
            return self._operator.adjoint(v).reshape(self._x0.shape)
        x, value = self._recorded()
        return torch.autograd.grad(value, x, v, retain_graph=True)[0]

    def _looked(self, x0: Tensor) -> Tensor:
        """A x0, checked."""
        value = self._operator(x0)
        if self._check is not None:
            self._check(value, self.y)
        return value

    def _recorded(self) -> tuple[Tensor, Tensor]:
        """x0 and A x0 with the graph between them."""
        if self._graph is None:
            # `push` differentiates twice, which fused attention, as in decoders, cannot do.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                x = self._x0.detach().requires_grad_()
                value = self._looked(x)
            if not value.requires_grad:
                raise ValueError("A: no gradient flows through it; give its adjoint, or write it in torch")
            self._graph = x, value
        return self._graph
