"""fastdiff inside the libraries of other fields: a module for each, with that library's own signatures.

    from fastdiff.hosts import monai

A module imports its library only where it needs it. The faces of diffusers, k-diffusion, ComfyUI and DPM-Solver have
rooms of their own: `fastdiff.schedulers`, `fastdiff.kdiffusion`, `fastdiff.comfyui`, `fastdiff.dpm_solver`.
"""
