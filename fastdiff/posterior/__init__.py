"""Samples given an observation: what corrects D = E[x0 | x] when y = A x0 + noise is known."""

from .gaussian import GaussianPrior
from .gradient import Gradient
from .likelihood import Gaussian, Laplace, Likelihood, Poisson
from .moment import Moment
from .observation import Observation
from .proximal import Proximal
from .pseudoinverse import Pseudoinverse
from .scores import Scores

__all__ = [
    "Gaussian",
    "GaussianPrior",
    "Gradient",
    "Laplace",
    "Likelihood",
    "Moment",
    "Observation",
    "Poisson",
    "Proximal",
    "Pseudoinverse",
    "Scores",
]
