"""Nodes for fitted plans: fit one to the model of a workflow, or load one."""

from __future__ import annotations

from typing import Any

from ..plans.plan import Plan
from . import plan_files
from .fit import FitRun
from .host_plan import sampler_of, sigmas_of
from .sampling_nodes import DENOISE
from .widgets import SCALE, SEED, Widget, choice, count, number, socket, text


class _Plans:
    CATEGORY = "fastdiff/sampling"
    RETURN_TYPES, RETURN_NAMES = ("SAMPLER", "SIGMAS", "STRING"), ("sampler", "sigmas", "report")
    OUTPUT_TOOLTIPS = (
        "The plan as a sampler. It goes with its own sigmas.",
        "The plan's noise levels.",
        "What the plan is, step by step.",
    )


class LoadPlanNode(_Plans):
    DESCRIPTION = "A plan from models/fastdiff_plans, which Fit plan or fastdiff.fit has written."
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        return {"required": {"plan": choice(plan_files.names(), "A file in models/fastdiff_plans.")}}

    @classmethod
    def IS_CHANGED(cls, plan: str) -> str:
        return plan_files.digest_of(plan)

    def load(self, plan: str) -> tuple[Any, Any, str]:
        return outputs(Plan.load(plan_files.path_of(plan)))


class FitPlanNode(_Plans):
    DESCRIPTION = "The sampler and noise levels that err least on this model with these conditions, in so many steps."
    FUNCTION = "fit"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        latent = "Of the size to fit for; with denoise below 1, of the image."
        required = {
            "model": socket("MODEL", "The model, as it will run: with its LoRAs and guidance."),
            "positive": socket("CONDITIONING", "A typical prompt."),
            "negative": socket("CONDITIONING", "What to lead away from."),
            "latent_image": socket("LATENT", latent),
            "cfg": SCALE,
            "steps": count(8, 1, 100, "Model evaluations of the plan."),
            "denoise": DENOISE,
            "seconds": number(600.0, 1.0, 86400.0, "After which the best plan so far is taken.", 1.0),
            "seed": SEED,
        }
        batch = count(4, 1, 64, "Images that the model sees at once. More is faster while there is memory.")
        name = text("", "A name to keep the plan by, in models/fastdiff_plans. Empty: it is not kept.")
        return {"required": required, "optional": {"batch": batch, "save_as": name}}

    @classmethod
    def VALIDATE_INPUTS(cls, save_as: str | None = None) -> bool | str:
        try:
            if save_as:
                plan_files.check_name(save_as)
        except ValueError as error:
            return str(error)
        return True

    def fit(
        self, model: Any, positive: Any, negative: Any, latent_image: Any, cfg: float, steps: int, denoise: float,
        seconds: float, seed: int, batch: int = 4, save_as: str = "",
    ) -> tuple[Any, Any, str]:  # fmt: skip
        from comfy.sample import fix_empty_latent_channels
        from comfy.samplers import CFGGuider

        guider = CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        latent = fix_empty_latent_channels(model, latent_image["samples"])
        plan, tried = FitRun(steps, seconds, batch, denoise, seed)(guider, latent)
        if save_as:
            tried += f"\n{plan_files.save(plan, save_as)}"
        sampler, sigmas, table = outputs(plan)
        return sampler, sigmas, f"{tried}\n\n{table}"


def outputs(plan: Plan) -> tuple[Any, Any, str]:
    """SAMPLER, SIGMAS and the plan's table."""
    from comfy.samplers import KSAMPLER

    return KSAMPLER(sampler_of(plan)), sigmas_of(plan), plan.explain()


NODES: dict[str, tuple[Any, str]] = {
    "FastdiffFitPlan": (FitPlanNode, "Fit plan"),
    "FastdiffLoadPlan": (LoadPlanNode, "Load plan"),
}
