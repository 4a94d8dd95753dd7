"""CFG++ (Chung et al. 2024, arXiv 2406.08070): steps that add noise back by the unconditional output.

With D the guided and U the unconditional output, the Euler step is x' = D + sigma' (x - U) / sigma. That is the plain
step on U, plus D - U: the solver's rows run on U and read D - U as a noise of weight 1.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..plans.row import Row


class Unconditional:
    """Catches the unconditional output of a host's guider at every call, with its hook that runs after guidance."""

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
        """U of the last call. Raises ValueError if the model did not call the hook."""
        if self._latest is None:
            raise ValueError(
                "cfg_pp: expected a model with ComfyUI's guidance, which calls"
                " model_options['sampler_post_cfg_function']; this one did not"
            )
        latest, self._latest = self._latest, None
        return latest


def plus_guidance(row: Row) -> Row:
    """The row with noise 0, which is D - U, added to its result."""
    return replace(row, x=replace(row.x, noise=((0, 1.0), *row.x.noise)))
