"""fastdiff: samples from diffusion models in fewer and cheaper steps, without retraining."""

import importlib

from . import guidance, nn, ops, pipelines, posterior, tokens  # noqa: F401
from .fitting import fit
from .ops import backend
from .patch import accelerate, perturb  # noqa: F401
from .patch.nag import nag
from .patch.partial import Cached, Split, cached
from .pipelines.fit import fit_pipeline
from .plans.build import plan
from .plans.catalogue import Solver, solver, solvers
from .plans.plan import Plan
from .plans.schedule import Schedule
from .posterior.members import ensemble
from .posterior.observation import Observation
from .posterior.uncertainty import Ensemble
from .sampling import noise  # noqa: F401
from .sampling.adaptive import sample_adaptive
from .sampling.flow_map import flow_map
from .sampling.gaussian import GaussianStart
from .sampling.graph import Captured, CaptureError, capture
from .sampling.particles import Particles
from .sampling.sample import Step, iter_sample, sample
from .sampling.statistics import Statistics, estimate_statistics

__version__ = "0.1.0"
__all__ = [
    "Cached",
    "CaptureError",
    "Captured",
    "Ensemble",
    "GaussianStart",
    "Observation",
    "Particles",
    "Plan",
    "Schedule",
    "Solver",
    "Split",
    "Statistics",
    "Step",
    "accelerate",
    "backend",
    "cached",
    "capture",
    "ensemble",
    "estimate_statistics",
    "fit",
    "fit_pipeline",
    "flow_map",
    "iter_sample",
    "nag",
    "plan",
    "sample",
    "sample_adaptive",
    "solver",
    "solvers",
]


def __getattr__(name: str) -> object:
    """diffusers' schedulers and guiders on fastdiff, imported when first asked for: diffusers is optional and slow."""
    if name == "SchedulerMixin" or (name.endswith("Scheduler") and not name.startswith("_")):
        from . import schedulers

        if name in schedulers.__all__:
            return getattr(schedulers, name)
    if name == "guiders" or (name.endswith("Guidance") and not name.startswith("_")):
        guiders = importlib.import_module(".guiders", __name__)
        if name == "guiders" or name in guiders.__all__:
            return guiders if name == "guiders" else getattr(guiders, name)
    raise AttributeError(f"module 'fastdiff' has no attribute {name!r}")
