"""CFG++ (Chung et al. 2024, arXiv 2406.08070): steps that renoise with the unconditional output.

With D guided and U unconditional, Euler's step is x' = D + sigma' (x - U) / sigma: the plain step on U, plus D - U.
So the solver's rows run on U, and read D - U as they would read a noise of weight 1.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..plans.row import Row


class Unconditional:
    """Has a host's guider hand over its unconditional output at every call, through its hook after guidance."""

    def __init__(self, extra_args: dict[str, object] | None) -> None:
        options = dict((extra_args or {}).get("model_options", {}))
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), self._hook]
        options["disable_cfg1_optimization"] = True
        self.extra_args = {**(extra_args or {}), "model_options": options}
        self._latest: Tensor | None = None

    def _hook(self, args: dict[str, Tensor]) -> Tensor:
        self._latest = args["uncond_denoised"]
        return args["denoised"]

    def take(self) -> Tensor:
        """U of the call before. Raises ValueError where the model did not call the hook."""
        if self._latest is None:
            raise ValueError(
                "cfg_pp: expected a model with ComfyUI's guidance, which calls"
                " model_options['sampler_post_cfg_function']; this one did not"
            )
        latest, self._latest = self._latest, None
        return latest


def plus_guidance(row: Row) -> Row:
    """The row whose result has noise 0, that is D - U, added to it."""
    return replace(row, x=replace(row.x, noise=((0, 1.0), *row.x.noise)))
