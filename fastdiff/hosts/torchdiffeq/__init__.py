"""The package torchdiffeq's `odeint` for velocity fields of flow models, on fastdiff's plans; also `fastdiff.odeint`.

from fastdiff.hosts.torchdiffeq import odeint
"""

from .integrate import odeint

__all__ = ["odeint"]
