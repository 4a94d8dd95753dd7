"""fastdiff: samples from diffusion models in fewer and cheaper steps, without retraining."""

import importlib

from . import distributed, guidance, inspection, nn, ops, pipelines, posterior, structures, tokens, training  # noqa: F401
from .fitting import fit
from .hosts.torchdiffeq import odeint
from .inspection.trace import trace
from .inspection.traced import Trace
from .ops import backend
from .patch import accelerate, perturb  # noqa: F401
from .patch.nag import nag
from .patch.partial import Cached, Split, cached
from .patch.split_batch import split_batch
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
from .sampling.in_time import InTime, sample_in_time
from .sampling.particles import Particles
from .sampling.sample import Step, iter_sample, sample
from .sampling.sharded import Sharded
from .sampling.statistics import Statistics, estimate_statistics
from .sampling.step_batch import StepBatch, Ticket
from .sampling.stepper import Stepper, stepper

__version__ = "0.1.0"
__all__ = [
    "Cached",
    "CaptureError",
    "Captured",
    "Ensemble",
    "GaussianStart",
    "InTime",
    "Observation",
    "Particles",
    "Plan",
    "Schedule",
    "Sharded",
    "Solver",
    "Split",
    "Statistics",
    "Step",
    "StepBatch",
    "Stepper",
    "Ticket",
    "Trace",
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
    "odeint",
    "plan",
    "sample",
    "sample_adaptive",
    "sample_in_time",
    "solver",
    "solvers",
    "split_batch",
    "stepper",
    "trace",
]


def __getattr__(name: str) -> object:
    """diffusers' schedulers and guiders on fastdiff, imported when first asked for: diffusers is optional and slow."""
    if name == "SchedulerMixin" or (name.endswith("Scheduler") and not name.startswith("_")):
        from . import schedulers, token_schedulers

        for room in (schedulers, token_schedulers):
            if name in room.__all__:
                return getattr(room, name)
    if name == "guiders" or (name.endswith("Guidance") and not name.startswith("_")):
        guiders = importlib.import_module(".guiders", __name__)
        if name == "guiders" or name in guiders.__all__:
            return guiders if name == "guiders" else getattr(guiders, name)
    raise AttributeError(f"module 'fastdiff' has no attribute {name!r}")
