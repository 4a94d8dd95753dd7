"""The official DPM-Solver and UniPC classes on fastdiff's plans: import them from here instead.

They differ from the authors' code in that coefficients are float64 and computed once, nothing is printed, bad arguments
raise a ValueError naming them, and `inverse` with the adaptive method goes in the right direction.
"""

from .model import WrappedModel, model_wrapper
from .noise_schedule import NoiseScheduleVP
from .solver import DPM_Solver
from .uni_pc import UniPC

__all__ = ["DPM_Solver", "NoiseScheduleVP", "UniPC", "WrappedModel", "model_wrapper"]
