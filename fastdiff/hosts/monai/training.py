"""What a MONAI scheduler says of how its network was trained: the noise schedule, the prediction, the bounds on x0."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...plans.schedule import Schedule
from .theirs import RFlowScheduler, Scheduler


class Training(NamedTuple):
    """schedule: its times are fastdiff's; the network is told `unit` times them. bounds: of x0, None where it has none.

    sign: -1 where the network predicts minus the prediction. MONAI's rectified flow predicts x0 - eps.
    """

    schedule: Schedule
    prediction: str
    unit: float = 1.0
    sign: float = 1.0
    bounds: tuple[float, float] | None = None


def training_of(scheduler: Scheduler, input_img_size_numel: int | None = None) -> Training:
    """Of one of MONAI's schedulers. input_img_size_numel: as its set_timesteps takes it, for a flow's shift.

    Raises TypeError for what is none, ValueError for another prediction than epsilon, sample and v_prediction.
    """
    if not isinstance(scheduler, Scheduler):
        raise TypeError(f"scheduler: expected one of MONAI's, got {type(scheduler).__name__}")
    if isinstance(scheduler, RFlowScheduler):
        shift = _shift(scheduler, input_img_size_numel)
        return Training(Schedule.flow(shift), "flow_prediction", float(scheduler.num_train_timesteps), -1.0)
    bounds = tuple(scheduler.clip_sample_values) if getattr(scheduler, "clip_sample", False) else None
    schedule = Schedule.from_alphas_cumprod(scheduler.alphas_cumprod.double().cpu().numpy())
    return Training(schedule, str(scheduler.prediction_type), bounds=bounds)


def _shift(scheduler: Any, numel: int | None) -> float:
    """exp(mu) of the flow's times: the ratio of the image's edge to the reference's."""
    if not scheduler.use_timestep_transform:
        return 1.0
    if numel is None:
        raise ValueError("input_img_size_numel: expected the number of voxels, which use_timestep_transform=True asks")
    return float((int(numel) / scheduler.base_img_size_numel) ** (1 / scheduler.spatial_dim))
