"""The Triton kernels, for CUDA and ROCm: one module an op, imported when a call first asks for it."""
