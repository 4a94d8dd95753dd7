"""MONAI's schedulers. Where it is not installed, classes in their places that say so when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:

    class Scheduler(nn.Module):
        set_timesteps: Any
        step: Any

        def __init__(self, *args: object, **kwargs: object) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    class DDIMScheduler(Scheduler): ...

    class DDPMScheduler(Scheduler): ...

    class PNDMScheduler(Scheduler): ...

    class RFlowScheduler(Scheduler): ...

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
