"""What training a diffusion model needs around a user's own loop: losses, times, weightings, averages, lost conditions.

Short functions, each with its formula. The loop, the optimizer and the devices stay the user's.
"""

from .averages import averaged, power_averaged
from .conditions import drop_conditions
from .forward import noised, target
from .importance import Importance
from .losses import data_loss, edm_loss, epsilon_loss, flow_loss, loss, score_loss, v_loss
from .times import log_normal, logit_normal, strata, uniform, usual
from .tokens import mask_tokens, masked_cross_entropy, masked_loss
from .weightings import edm, likelihood, min_snr, snr

__all__ = [
    "Importance",
    "averaged",
    "data_loss",
    "drop_conditions",
    "edm",
    "edm_loss",
    "epsilon_loss",
    "flow_loss",
    "likelihood",
    "log_normal",
    "logit_normal",
    "loss",
    "mask_tokens",
    "masked_cross_entropy",
    "masked_loss",
    "min_snr",
    "noised",
    "power_averaged",
    "score_loss",
    "snr",
    "strata",
    "target",
    "uniform",
    "usual",
    "v_loss",
]
