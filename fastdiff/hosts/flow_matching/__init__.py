"""The package flow_matching's solvers on fastdiff: import them from here instead.

    from fastdiff.hosts.flow_matching import MixtureDiscreteEulerSolver, ODESolver

The package itself is not needed: models and paths are known by what they are asked for.
"""

from .discrete import MixtureDiscreteEulerSolver
from .ode import ODESolver

__all__ = ["MixtureDiscreteEulerSolver", "ODESolver"]
