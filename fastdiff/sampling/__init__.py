"""Runs of plans: the register machine, the model's calls, the noise and the loop."""
