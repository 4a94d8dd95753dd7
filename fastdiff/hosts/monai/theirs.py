"""MONAI's schedulers. Where it is not installed, classes in their places that say so when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    DDIMScheduler = DDPMScheduler = PNDMScheduler = RFlowScheduler = Scheduler = Any
else:
    try:
        from monai.networks.schedulers import (
            DDIMScheduler,
            DDPMScheduler,
            PNDMScheduler,
            RFlowScheduler,
            Scheduler,
        )
    except ImportError:

        class Scheduler:
            def __init__(self, *args: object, **kwargs: object) -> None:
                raise ImportError("fastdiff.hosts.monai: expected monai to be installed: pip install monai")

        class RFlowScheduler(Scheduler):
            pass

        DDIMScheduler = DDPMScheduler = PNDMScheduler = Scheduler
