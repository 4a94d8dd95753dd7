"""The operator A of an observation, whatever it came as: a matrix, a function, or a deepinv Physics.

Complex measurements are kept as pairs of real numbers [..., 2], so that inner products and gradients are real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..ops import checks

Function = Callable[[Tensor], Tensor]


def real(y: Tensor) -> Tensor:
    """y, or [..., 2] its real and imaginary parts."""
    return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y


class Operator:
    """A with what is known of it: forward, x [B, ...] -> A x [B, ...], and where there are such adjoint and pinv.

    linear: whether A(u + v) = A(u) + A(v); None where it has to be tried. prox: (z, y, gamma) -> the x that minimises
    gamma / 2 |A x - y|^2 + |x - z|^2 / 2, or None. complex: whether measurements are complex; functions here take and
    give them as pairs of real numbers.
    """

    def __init__(
        self,
        forward: Function,
        adjoint: Function | None = None,
        pinv: Function | None = None,
        prox: Callable[[Tensor, Tensor, float], Tensor] | None = None,
        linear: bool | None = None,
        complex: bool = False,
    ) -> None:
        self._forward, self._adjoint, self._pinv, self._prox = forward, adjoint, pinv, prox
        self.linear, self.complex = linear, complex

    def __call__(self, x: Tensor) -> Tensor:
        """A x, a pair of real numbers where it is complex."""
        return real(self._forward(x))

    @property
    def adjoint(self) -> Function | None:
        """v -> A^T v; the real part of it for complex v, since x is real."""
        return None if self._adjoint is None else self._to_x(self._adjoint)

    @property
    def pinv(self) -> Function | None:
        """v -> A^+ v."""
        return None if self._pinv is None else self._to_x(self._pinv)

    def prox(self, z: Tensor, y: Tensor, gamma: float) -> Tensor | None:
        """The minimiser above, or None where A does not come with one."""
        if self._prox is None:
            return None
        x = self._prox(z, torch.view_as_complex(y.contiguous()) if self.complex else y, gamma)
        return x.real if x.is_complex() else x

    def _to_x(self, function: Function) -> Function:
        def call(v: Tensor) -> Tensor:
            x = function(torch.view_as_complex(v.contiguous()) if self.complex else v)
            return x.real if x.is_complex() else x

        return call

    def is_linear(self, x: Tensor) -> bool:
        """Whether A(u + v) = A(u) + A(v) for two fixed random points like x [B, ...]; tried once."""
        if self.linear is None:
            generator = torch.Generator().manual_seed(0)
            u, v = (torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for _ in range(2))
            whole, parts = self(u + 3 * v), self(u) + 3 * self(v)
            self.linear = bool((whole - parts).norm() <= 1e-4 * (whole.norm() + parts.norm()))
        return self.linear


def operator_of(A: Any, adjoint: Function | None, pinv: Function | None, complex: bool) -> Operator:
    """The operator of a matrix [M, D] or [B, M, D], a function, or an object with deepinv's `A`.

    Raises TypeError or ValueError naming the argument.
    """
    if isinstance(A, Tensor):
        if adjoint is not None or pinv is not None:
            raise ValueError("adjoint: a matrix has its own adjoint and pseudo-inverse; give them with a function A")
        return _of_matrix(A, complex)
    if callable(getattr(A, "A", None)):
        return _of_physics(A, adjoint, pinv, complex)
    if not callable(A):
        raise TypeError(f"A: expected a function, a matrix or a deepinv Physics, got {type(A).__name__}")
    return Operator(A, adjoint, pinv, linear=True if adjoint is not None else None, complex=complex)


def _of_matrix(A: Tensor, complex: bool) -> Operator:
    if A.ndim not in (2, 3) or not (A.is_floating_point() or A.is_complex()):
        raise ValueError(f"A: expected a matrix [M, D] or [B, M, D], got {A.dtype} of shape {tuple(A.shape)}")
    if not A.isfinite().all():
        raise ValueError("A: expected finite numbers")
    if A.is_complex() != complex:
        raise ValueError(f"y: expected {'complex' if A.is_complex() else 'real'} numbers, as A has")
    return Matrix(A)


class Matrix(Operator):
    """A x of each flattened sample, with A [M, D], or [B, M, D] a matrix for each. What goes back to x is flat, too.

    A batch of K B samples has K for each matrix, side by side.
    """

    def __init__(self, A: Tensor) -> None:
        super().__init__(self._times, linear=True, complex=A.is_complex())
        self._a = A
        self._adjoint, self._pinv = self._times_adjoint, self._times_pinv

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(self._a)

    def _times(self, x: Tensor) -> Tensor:
        if x.shape[1:].numel() != self._a.shape[-1]:
            raise ValueError(f"A: {self._a.shape[-1]} columns for samples of {x.shape[1:].numel()} numbers")
        return _product(self._a, x.flatten(1))

    def _times_adjoint(self, v: Tensor) -> Tensor:
        return _product(self._a.mH, v)

    def _times_pinv(self, v: Tensor) -> Tensor:
        return _product(self._inverse, v)


def _product(a: Tensor, x: Tensor) -> Tensor:
    """a x [B, M] in the precision of x [B, D]."""
    dtype = torch.promote_types(x.dtype, torch.complex64) if a.is_complex() else x.dtype
    a, x = a.to(x.device, dtype), x.to(dtype)
    if a.ndim == 2:
        return x @ a.mT
    if len(x) % len(a):
        raise ValueError(f"A: {len(a)} matrices do not go with a batch of {len(x)} samples")
    return (x.unflatten(0, (len(a), len(x) // len(a))) @ a.mT).flatten(0, 1)


def _of_physics(physics: Any, adjoint: Function | None, pinv: Function | None, complex: bool) -> Operator:
    """A deepinv Physics: its own adjoint, pseudo-inverse and proximal operator where it is linear.

    A nonlinear one may have an A_adjoint and an A_dagger, too, which start deepinv's own solvers: they are neither. All
    have an A_vjp; linear ones alone have an A_adjoint_A.
    """
    linear = hasattr(physics, "A_adjoint_A") or not hasattr(physics, "A_vjp")
    own = {name: getattr(physics, name, None) if linear else None for name in ("A_adjoint", "A_dagger", "prox_l2")}
    adjoint = adjoint or own["A_adjoint"]
    return Operator(
        physics.A,
        adjoint,
        pinv or own["A_dagger"],
        own["prox_l2"] if adjoint is not None else None,
        linear=True if adjoint is not None else None,
        complex=complex,
    )


def check_adjoint(operator: Operator, y: Tensor) -> None:
    """<A u, v> = <u, A^T v> for random u and v [B, ...]. y: [B, ...], in pairs where it is complex.

    Raises ValueError naming the argument that fails.
    """
    adjoint = operator.adjoint
    assert adjoint is not None
    generator = torch.Generator().manual_seed(0)

    def randn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    v = randn(y)
    back = adjoint(v)
    checks.require_tensor("adjoint", back)
    u = randn(back)
    there = operator(u)
    if there.shape != y.shape:
        raise ValueError(f"A: expected a result of y's shape {tuple(y.shape)}, got {tuple(there.shape)}")
    forth, back_too = float((there * v).sum()), float((u * back).sum())
    scale = float(there.norm() * v.norm() + u.norm() * back.norm())
    if not abs(forth - back_too) <= 1e-4 * scale + 1e-30:
        raise ValueError(f"adjoint: <A u, v> is {forth:.6g} but <u, adjoint(v)> is {back_too:.6g}; they must be equal")
