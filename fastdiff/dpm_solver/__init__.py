"""The official DPM-Solver and UniPC classes on fastdiff's plans: `from fastdiff.dpm_solver import ...` in their place.

Coefficients are float64 and made once; nothing is printed; asserts are ValueErrors that name the argument. `inverse`
of the adaptive method goes the right way.
"""

from .model import WrappedModel, model_wrapper
from .noise_schedule import NoiseScheduleVP
from .solver import DPM_Solver
from .uni_pc import UniPC

__all__ = ["DPM_Solver", "NoiseScheduleVP", "UniPC", "WrappedModel", "model_wrapper"]
