"""The package flow_matching's solver of discrete flows on `ops.token_stats`: import it from here instead.

    from fastdiff.hosts.flow_matching import MixtureDiscreteEulerSolver

The package itself is not needed: models and paths are known by what they are asked for.
"""

from .solver import MixtureDiscreteEulerSolver

__all__ = ["MixtureDiscreteEulerSolver"]
