"""lerobot's policies on fastdiff's plans: action chunks in fewer evaluations of the network.

    from fastdiff.hosts.lerobot import accelerate_policy

    handle = accelerate_policy(policy, 8)  # then policy.select_action(batch) as before; handle.undo() takes it back

Diffusion policies (`DiffusionPolicy`, and those of Columbia's diffusion_policy), and flow policies whose model has
`sample_actions` and `denoise_step` (smolvla, pi0, pi05). lerobot itself is not imported: policies are known by these.
"""

from .accelerate import accelerate_policy, plan_for

__all__ = ["accelerate_policy", "plan_for"]
